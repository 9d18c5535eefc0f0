"""OLMo 3 (https://arxiv.org/abs/2512.13961): an OLMo 2 of which every fourth layer sees all, the others a window."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import WideText, read_windows
from omniform.blocks.frequencies import FULL, SLIDING, Frequencies
from omniform.core.reader import ConfigReader
from omniform.core.rules import Rule
from omniform.models.olmo2 import layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an OLMo 3 computes.

    Attributes:
        rules: what each layer sees.
        turning: how fast each layer's queries and keys turn.
    """

    text: WideText
    biases: str
    rules: tuple[Rule, ...]
    turning: tuple[Frequencies, ...]


# The base in older files is of the layers that see all.
BASES = {FULL: ("rope_theta", 5e5), SLIDING: (None, 5e5)}


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = WideText.read(r, vocab_size=50304, eps=1e-5, bases=BASES, bos=None, eos=50279, pad=1)
    kinds = r.texts("layer_types", tuple(SLIDING if (i + 1) % 4 else FULL for i in range(text.layers)))
    return Config(
        text=text,
        biases="qkvo" if r.flag("attention_bias", False) else "",
        rules=read_windows(r, text.layers, r.integer_or_null("sliding_window", 4096), kinds),
        turning=tuple(text.turning[kind] for kind in kinds),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""

    def one(i: int) -> nn.Module:
        return layer(c.text, c.rules[i], c.turning[i], c.biases)

    return c.text.decoder(one)


FAMILY = decoder_family(
    "olmo3", "Olmo3", read, build, tokenizer="PreTrainedTokenizerFast", classified=["sequence"], answers=None
).done()
