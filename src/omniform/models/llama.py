"""Llama (https://arxiv.org/abs/2302.13971, https://arxiv.org/abs/2407.21783)."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Llama computes."""

    text: GatedText
    attention_bias: bool
    mlp_bias: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert(pretraining_tp=1)
    attention_bias, mlp_bias = r.flag("attention_bias", False), r.flag("mlp_bias", False)
    return Config(text=GatedText.read(r), attention_bias=attention_bias, mlp_bias=mlp_bias)


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, rotary, biases = c.text, Rotary(c.text.frequencies), "qkvo" if c.attention_bias else ""
    return text.decoder(
        lambda _: text.prenorm(text.attention(Causal(), rotary, biases=biases), text.mlp(bias=c.mlp_bias))
    )


FAMILY = decoder_family("llama", "Llama", read, build, answers="transformer").done()
