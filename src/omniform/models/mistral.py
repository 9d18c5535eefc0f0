"""Mistral (https://arxiv.org/abs/2310.06825)."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText, read_windows
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Mistral computes."""

    text: GatedText
    rules: tuple[Rule, ...]


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = GatedText.read(r, hidden=14336, kv_heads=8, max_positions=131072)
    return Config(text=text, rules=read_windows(r, text.layers, r.integer_or_null("sliding_window", 4096)))


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    rotary = Rotary(c.text.frequencies)
    return c.text.decoder(lambda i: c.text.prenorm(c.text.attention(c.rules[i], rotary)))


FAMILY = decoder_family("mistral", "Mistral", read, build).done()
