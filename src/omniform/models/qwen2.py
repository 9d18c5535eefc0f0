"""Qwen2 and Qwen2.5 (https://arxiv.org/abs/2407.10671): a Llama whose queries, keys and values have biases."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText, read_upper_windows
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Qwen2 computes."""

    text: GatedText
    rules: tuple[Rule, ...]


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = GatedText.read(r, vocab_size=151936, hidden=22016, kv_heads=32, max_positions=32768, bos=None, eos=None)
    r.only("use_mrope", False, None, why="positions have one axis")
    return Config(text=text, rules=read_upper_windows(r, text.layers))


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    rotary = Rotary(c.text.frequencies)
    return c.text.decoder(lambda i: c.text.prenorm(c.text.attention(c.rules[i], rotary, biases="qkv")))


FAMILY = decoder_family("qwen2", "Qwen2", read, build, tokenizer="Qwen2Tokenizer", answers="transformer").done()
