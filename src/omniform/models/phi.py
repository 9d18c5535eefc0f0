"""Phi-1.5 and Phi-2 (https://arxiv.org/abs/2309.05463): one norm for both branches, half of each head turned."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import BiasedDecoderHeads, decoder_family
from omniform.architectures.plain_text import Names, PlainText
from omniform.blocks.frequencies import Frequencies, read_frequencies
from omniform.blocks.layers import OneNormParallel
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Phi computes."""

    text: PlainText
    frequencies: Frequencies
    qk_norm: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = PlainText.read(
        r, Names(kv_heads="num_key_value_heads", dropout="resid_pdrop", embed_dropout="embd_pdrop"), vocab_size=51200,
        dim=2048, hidden=8192, layers=24, heads=32, act="gelu_new", bos=1, eos=2,
    )  # fmt: skip
    return Config(
        text=text,
        frequencies=read_frequencies(r, head_dim=text.heads.dim, max_positions=text.max_positions, partial=0.5),
        qk_norm=r.flag("qk_layernorm", False),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, rotary = c.text, Rotary(c.frequencies)

    def norm() -> nn.Module | None:
        return nn.LayerNorm(text.heads.dim, text.eps) if c.qk_norm else None

    def layer(_: int) -> nn.Module:
        attention = text.attention(Causal(), rotary, biases="qkvo", q_norm=norm(), k_norm=norm())
        return text.layer(OneNormParallel, attention)

    return text.decoder(layer, longest=c.frequencies.longest_row(text.max_positions))


KEYS = KeyMap(
    {
        "layers.{i}.self_attn.o_proj": "layers.{i}.self_attn.dense",
        "layers.{i}.self_attn.q_norm": "layers.{i}.self_attn.q_layernorm",
        "layers.{i}.self_attn.k_norm": "layers.{i}.self_attn.k_layernorm",
        "norm": "final_layernorm",
    }
)

FAMILY = decoder_family(
    "phi", "Phi", read, build, KEYS, tokenizer="GPT2Tokenizer", answers=None,
    causal_lm=BiasedDecoderHeads(build, lambda c: c.text).causal_lm,
).done()  # fmt: skip
