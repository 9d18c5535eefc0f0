"""Falcon Mamba (https://arxiv.org/abs/2410.05355): a Mamba whose steps and directions are normed."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.state_space import RecurrentDecoder, recurrent_family
from omniform.blocks.norms import PlainRMSNorm
from omniform.core.reader import ConfigReader
from omniform.models import mamba


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(mamba.Config):
    """What a Falcon Mamba computes.

    Attributes:
        eps: of those norms.
    """

    eps: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    plain = mamba.read(r)
    r.inert("use_falcon_mambapy")
    return Config(text=plain.text, inner=plain.inner, eps=r.number("mixer_rms_eps", 1e-6))


def build(c: Config) -> RecurrentDecoder:
    """The decoder without a head."""
    return c.text.decoder(lambda: mamba.mixer(c, PlainRMSNorm(c.eps)))


FAMILY = recurrent_family("falcon_mamba", "FalconMamba", read, build, mamba.RULES).done()
