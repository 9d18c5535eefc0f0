"""Mamba 2 (https://arxiv.org/abs/2405.21060)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from omniform.architectures.state_space import RecurrentDecoder, RecurrentText, recurrent_family
from omniform.blocks.norms import GateFirstRMSNorm
from omniform.blocks.state_space import StateSpaceMixer
from omniform.core.reader import ConfigReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Mamba 2 computes.

    Attributes:
        heads: how many, and the width of each.
        groups: how many groups of heads share the directions that they write and read their states in.
        limit: the least and the greatest step of time.
    """

    text: RecurrentText
    heads: tuple[int, int]
    groups: int
    limit: tuple[float, float]


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.special_tokens(pad_token_id=1, bos_token_id=0, eos_token_id=2)
    text = RecurrentText.read(r, vocab_size=32768, dim=4096, layers=64, size=128, tie=False)
    heads, width, expand = r.integer("num_heads", 128), r.integer("head_dim", 64), r.integer("expand", 2)
    if text.dim * expand != heads * width:
        raise r.fail("expand", f"{heads * width} (num_heads * head_dim) divided by {text.dim} (hidden_size)", expand)
    groups = r.integer("n_groups", 8)
    if heads % groups:
        raise r.fail("n_groups", f"a divisor of {heads} (num_heads)", groups)
    r.inert("intermediate_size")  # which follows
    r.inert(chunk_size=256)  # how many tokens are read at once is no matter of the maths
    return Config(text=text, heads=(heads, width), groups=groups, limit=r.bounds("time_step_limit", (0.0, math.inf)))


def build(c: Config) -> RecurrentDecoder:
    """The decoder without a head."""
    t, (bias, conv_bias) = c.text, c.text.biases
    return t.decoder(
        lambda: StateSpaceMixer(
            t.dim, *c.heads, t.size, groups=c.groups, taps=t.taps, act=t.act, limit=c.limit, bias=bias,
            norm=GateFirstRMSNorm(c.heads[0] * c.heads[1], t.eps, c.groups), conv_bias=conv_bias, out_bias=bias,
        )
    )  # fmt: skip


FAMILY = recurrent_family("mamba2", "Mamba2", read, build).done()
