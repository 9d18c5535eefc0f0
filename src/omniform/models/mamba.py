"""Mamba (https://arxiv.org/abs/2312.00752)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.state_space import RecurrentDecoder, RecurrentText, recurrent_family
from omniform.blocks.state_space import SelectiveMixer
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Mamba computes.

    Attributes:
        inner: channels of a recurrence.
    """

    text: RecurrentText
    inner: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.special_tokens(pad_token_id=0, bos_token_id=0, eos_token_id=0)
    text = RecurrentText.read(r, vocab_size=50280, dim=768, layers=32, size=16, tie=True)
    # Where a file says both, the width counts (Falcon Mamba 7B: 16 times 4096, and 8192).
    inner = r.integer("intermediate_size", text.dim * r.integer("expand", 2))
    # How a fresh model begins, and which of its own ways the reference takes.
    r.inert(time_step_scale=1.0, time_step_init_scheme="random", use_mambapy=False, use_associative_scan=True)
    return Config(text=text, inner=inner)


def mixer(c: Config, norm: nn.Module) -> SelectiveMixer:
    """What one layer computes.

    Args:
        norm: what steps of time and directions pass before they are used.
    """
    t, (bias, conv_bias) = c.text, c.text.biases
    return SelectiveMixer(
        t.dim, c.inner, t.size, rank=t.rank, taps=t.taps, act=t.act, norm=norm, bias=bias, conv_bias=conv_bias
    )


def build(c: Config) -> RecurrentDecoder:
    """The decoder without a head."""
    return c.text.decoder(lambda: mixer(c, nn.Identity()))


RULES: dict[str, Rule] = {"layers.{i}.mixer.recurrence": "layers.{i}.mixer"}

FAMILY = recurrent_family("mamba", "Mamba", read, build, RULES).done()
