"""Mamba (https://arxiv.org/abs/2312.00752)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn

from omniform.architectures.state_space import RecurrentDecoder, RecurrentText, recurrent_family
from omniform.blocks.state_space import SelectiveMixer, fresh_steps
from omniform.core.config import Beginning, ModelConfig
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


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Steps of time are evenly spread over their logarithms, and what is made of a token changes them little."""
    if path.endswith("dt_proj.bias"):
        least, most, floor = (
            float(cast(float, config.get(f"time_step_{key}", usual)))
            for key, usual in (("min", 0.001), ("max", 0.1), ("floor", 1e-4))
        )
        return lambda x: fresh_steps(x, least, most, floor)
    if path.endswith("dt_proj.weight"):
        scale = float(cast(float, config.get("time_step_scale", 1.0)))
        return lambda x: x.uniform_(-scale * x.shape[1] ** -0.5, scale * x.shape[1] ** -0.5)
    return None


FAMILY = recurrent_family("mamba", "Mamba", read, build, RULES).begins(beginning).done()
