"""Gemma 2 (https://arxiv.org/abs/2408.00118)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import ZeroCentredText, read_windows
from omniform.blocks.embeddings import RoundedScaledEmbedding
from omniform.blocks.layers import Sandwich
from omniform.blocks.rotary import Rotary
from omniform.blocks.scores import Scores, SoftCap
from omniform.core.reader import ConfigReader
from omniform.core.rules import Rule
from omniform.models.gemma import only_causal


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Gemma 2 computes.

    Attributes:
        scores: how queries and keys are compared: not by a head's width, and within bounds.
        logits_cap: bound of the scores of tokens; None for none.
    """

    text: ZeroCentredText
    attention_bias: bool
    rules: tuple[Rule, ...]
    scores: Scores
    logits_cap: float | None


def read_cap(r: ConfigReader, name: str, default: float | None) -> float | None:
    """The bound of a soft cap; an explicit ``null`` means that there is none."""
    cap = r.maybe_number(name, default)
    if cap is not None and cap <= 0:
        raise r.fail(name, "a number above 0, or null for no bound", cap)
    return cap


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = ZeroCentredText.read(
        r, vocab_size=256000, dim=2304, hidden=9216, layers=26, heads=8, kv_heads=4, head_dim=256, max_positions=8192,
        act="gelu_pytorch_tanh", act_key="hidden_activation", tie=True, bos=2, eos=1, pad=0,
    )  # fmt: skip
    # The first releases name an activation here as well, and do not mean it.
    r.inert("hidden_act")
    only_causal(r)
    kinds = tuple("full_attention" if i % 2 else "sliding_attention" for i in range(text.layers))
    return Config(
        text=text,
        attention_bias=r.flag("attention_bias", False),
        rules=read_windows(r, text.layers, r.integer_or_null("sliding_window", 4096), kinds),
        scores=Scores(r.integer("query_pre_attn_scalar", 256) ** -0.5, cap=read_cap(r, "attn_logit_softcapping", 50.0)),
        logits_cap=read_cap(r, "final_logit_softcapping", 30.0),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, rotary, biases = c.text, Rotary(c.text.frequencies), "qkvo" if c.attention_bias else ""

    def layer(i: int) -> nn.Module:
        attention = text.attention(c.rules[i], rotary, biases=biases, scores=c.scores)
        return Sandwich.of(text.norm, self_attn=attention, mlp=text.mlp())

    return text.decoder(layer, embed_tokens=RoundedScaledEmbedding(text.vocab_size, text.dim, text.dim**0.5))


def adjust(c: Config) -> SoftCap | None:
    """The bound of the scores of tokens."""
    return None if c.logits_cap is None else SoftCap(c.logits_cap)


FAMILY = decoder_family("gemma2", "Gemma2", read, build, tokenizer="GemmaTokenizer", answers=None, adjust=adjust).done()
