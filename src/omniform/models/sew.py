"""SEW (https://arxiv.org/abs/2109.06870): wav2vec 2.0 whose layers read half as many frames."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.family import Builder
from omniform.architectures.squeezed import (
    SQUEEZED_KEYS,
    STEM,
    SqueezedLayers,
    places,
    squeezed_beginning,
    squeezed_encoder,
    upsampling,
)
from omniform.architectures.wave_family import Stem, Waves
from omniform.architectures.wave_heads import MIXED, HeadSizes, WaveHeads
from omniform.architectures.waves import PlainWaveEncoder
from omniform.core.reader import ConfigReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a SEW computes."""

    waves: Waves
    sizes: HeadSizes
    factor: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("do_stable_layer_norm")  # of wav2vec 2.0, in published files; nobody reads it
    return Config(
        waves=Waves.read(r, stem=Stem.read(r, usual=STEM), stable=False, adapts=False),
        sizes=HeadSizes.read(r, reduction="mean", voices=False),
        factor=r.integer("squeeze_factor", 2),
    )


def build(c: Config) -> PlainWaveEncoder:
    """The encoder."""
    waves = c.waves
    layers = SqueezedLayers(
        pos_conv_embed=places(waves, c.factor),
        layer_norm=waves.norm(),
        layers=nn.ModuleList(waves.layer(waves.attention()) for _ in range(waves.layers)),
        upsample=upsampling(waves, c.factor),
        dropout=waves.dropout,
        layerdrop=waves.layerdrop,
    )
    return squeezed_encoder(waves, layers)


HEADS = WaveHeads[Config](build, lambda c: c.waves, lambda c: c.sizes)

FAMILY = (
    Builder("sew", read, SQUEEZED_KEYS, prefix="sew")
    .public(
        config="SEWConfig",
        tokenizer="Wav2Vec2CTCTokenizer",
        feature_extractor="Wav2Vec2FeatureExtractor",
        processor="Wav2Vec2Processor",
        row="speech to letters, audio classification",
    )
    .begins(squeezed_beginning)
    .base("SEWModel", build)
    .head("SEWForCTC", "ctc", HEADS.ctc)
    .head("SEWForSequenceClassification", "audio-classification", HEADS.classifier, MIXED)
    .done()
)
