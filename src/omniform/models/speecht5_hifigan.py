"""The HiFi-GAN (https://arxiv.org/abs/2010.05646) that makes waves of SpeechT5's spectrograms."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.family import Builder
from omniform.architectures.vocoder import Vocoder
from omniform.blocks.hifigan import HifiGan, Upsampling
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a vocoder computes."""

    bands: int
    upsampling: Upsampling
    normed: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert(sampling_rate=16000)  # for whoever plays it
    r.number("initializer_range", 0.01)  # of a fresh model
    return Config(
        bands=r.integer("model_in_dim", 80),
        upsampling=Upsampling.read(r, rates=(4, 4, 4, 4), kernels=(8, 8, 8, 8)),
        normed=r.flag("normalize_before", True),
    )


def build(c: Config) -> Vocoder:
    """The vocoder."""
    return Vocoder(net=HifiGan(c.bands, c.upsampling), bands=c.bands, normed=c.normed)


KEYS = KeyMap(
    {
        "net.conv_pre": "conv_pre",
        "net.upsampler": "upsampler",
        "net.resblocks": "resblocks",
        "net.conv_post": "conv_post",
    }
)

FAMILY = (
    Builder("speecht5_hifigan", read, KEYS, prefix="")
    .public(config="SpeechT5HifiGanConfig", row="spectrograms to waves")
    .base("SpeechT5HifiGan", build)
    .done()
)
