"""Qwen3 (https://arxiv.org/abs/2505.09388)."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText, read_upper_windows
from omniform.blocks.norms import RMSNorm
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Qwen3 computes."""

    text: GatedText
    attention_bias: bool
    rules: tuple[Rule, ...]


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = GatedText.read(
        r, vocab_size=151936, hidden=22016, kv_heads=32, head_dim=128, max_positions=32768, bos=None, eos=None
    )
    return Config(text=text, attention_bias=r.flag("attention_bias", False), rules=read_upper_windows(r, text.layers))


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, rotary, biases = c.text, Rotary(c.text.frequencies), "qkvo" if c.attention_bias else ""

    def norm() -> RMSNorm:
        return RMSNorm(text.heads.dim, text.eps)

    return text.decoder(
        lambda i: text.prenorm(text.attention(c.rules[i], rotary, biases=biases, q_norm=norm(), k_norm=norm()))
    )


FAMILY = decoder_family("qwen3", "Qwen3", read, build, tokenizer="Qwen2Tokenizer", answers="transformer").done()
