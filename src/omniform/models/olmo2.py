"""OLMo 2 (https://arxiv.org/abs/2501.00656): norms on what branches add, and on the queries and keys of all heads."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import WideText
from omniform.blocks.frequencies import Frequencies
from omniform.blocks.layers import BranchNorm
from omniform.blocks.norms import AllHeadsNorm
from omniform.blocks.rotary import WideRotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal, Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an OLMo 2 computes."""

    text: WideText
    biases: str


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = WideText.read(r, vocab_size=50304, eps=1e-5, bos=None, eos=50279, pad=1)
    return Config(text=text, biases="qkvo" if r.flag("attention_bias", False) else "")


def layer(text: WideText, rule: Rule, frequencies: Frequencies, biases: str) -> BranchNorm:
    """One layer, of OLMo 3 too."""
    heads, eps = text.heads, text.eps
    q_norm, k_norm = (AllHeadsNorm(n * heads.dim, eps) for n in (heads.queries, heads.kv))
    attention = text.attention(rule, WideRotary(frequencies), biases=biases, q_norm=q_norm, k_norm=k_norm)
    return BranchNorm.of(text.norm, self_attn=attention, mlp=text.mlp())


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    return c.text.decoder(lambda _: layer(c.text, Causal(), c.text.frequencies, c.biases))


FAMILY = decoder_family(
    "olmo2", "Olmo2", read, build, tokenizer="PreTrainedTokenizerFast", classified=["sequence"], answers=None
).done()
