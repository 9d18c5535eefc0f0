"""GLM-4 of 2024 (https://arxiv.org/abs/2406.12793): half of each head turns, neighbouring channels with one another."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText
from omniform.blocks.attention import Attention
from omniform.blocks.rotary import InterleavedRotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap
from omniform.weights.links import split

ENDS = (151329, 151336, 151338)
"""The end of a text, of the user's turn and of a tool's call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a GLM computes."""

    text: GatedText
    biases: str

    def attention(self) -> Attention:
        """One self-attention."""
        return self.text.attention(Causal(), InterleavedRotary(self.text.frequencies), biases=self.biases)


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = GatedText.read(
        r, vocab_size=151552, hidden=13696, layers=40, kv_heads=2, head_dim=128, eps=1.5625e-07, max_positions=131072,
        partial=0.5, bos=None, eos=None, pad=151329,
    )  # fmt: skip
    r.ids("eos_token_id", ENDS)
    return Config(text=text, biases="qkv" if r.flag("attention_bias", True) else "")


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    return c.text.decoder(lambda _: c.text.prenorm(c.attention()))


MLP = "layers.{i}.mlp"
KEYS = KeyMap({f"{MLP}.{name}_proj": split(f"{MLP}.gate_up_proj", n, 2) for n, name in enumerate(("gate", "up"))})

FAMILY = decoder_family("glm", "Glm", read, build, KEYS, tokenizer="PreTrainedTokenizerFast", answers=None).done()
