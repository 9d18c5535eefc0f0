"""Command R7B and Command A (https://arxiv.org/abs/2504.00698): with windows, and layers without positions."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import read_windows
from omniform.blocks.rotary import WideInterleavedRotary
from omniform.blocks.scores import Factor
from omniform.core.reader import ConfigReader
from omniform.core.rules import Rule
from omniform.models import cohere


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(cohere.Config):
    """What a Cohere 2 computes.

    Attributes:
        rules: what each layer sees; one that sees all has no positions.
    """

    rules: tuple[Rule, ...]


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text, every = cohere.read_text(r, 10000.0), r.integer("sliding_window_pattern", 4)
    r.inert("layer_switch", "order_of_interleaved_layers", "cache_implementation")  # the pattern says it
    kinds = tuple("sliding_attention" if (i + 1) % every else "full_attention" for i in range(text.layers))
    return Config(
        text=text,
        biases="qkvo" if r.flag("attention_bias", False) else "",
        logit_scale=r.number("logit_scale", 0.0625),
        rules=read_windows(r, text.layers, r.integer_or_null("sliding_window", 4096), kinds),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, rotary = c.text, WideInterleavedRotary(c.text.frequencies)
    positions = [None if rule.reach is None else rotary for rule in c.rules]
    return text.decoder(lambda i: text.parallel(text.attention(c.rules[i], positions[i], biases=c.biases)))


FAMILY = decoder_family(
    "cohere2", "Cohere2", read, build, tokenizer="CohereTokenizer", classified=(), answers=None,
    adjust=lambda c: Factor(c.logit_scale),
).done()  # fmt: skip
