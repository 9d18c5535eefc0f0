"""HuBERT (https://arxiv.org/abs/2106.07447)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from omniform.architectures.family import Builder
from omniform.architectures.wave_family import WAVE_KEYS, Stem, Waves
from omniform.architectures.wave_heads import MIXED, HeadSizes, WaveHeads
from omniform.architectures.waves import PlainWaveEncoder
from omniform.blocks.waves import ConvPositions, FeatureProjection, SpecMask
from omniform.core.config import Beginning, ModelConfig
from omniform.core.reader import ConfigReader


class NormedConvPositions(ConvPositions):
    """A convolution without weight norm, that reads channels normed over all frames of all sounds."""

    batch_norm: nn.BatchNorm1d

    def read(self, x_BDT: Tensor) -> Tensor:
        normed: Tensor = self.batch_norm(x_BDT)
        return normed


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a HuBERT computes."""

    waves: Waves
    sizes: HeadSizes
    norms_frames: bool
    norms_batches: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    return Config(
        waves=Waves.read(r, stem=Stem.read(r), stable=r.flag("do_stable_layer_norm", False), adapts=False),
        sizes=HeadSizes.read(r, voices=False),
        norms_frames=r.flag("feat_proj_layer_norm", True),
        norms_batches=r.flag("conv_pos_batch_norm", False),
    )


def positions(c: Config) -> ConvPositions:
    """What tells where frames stand."""
    waves = c.waves
    if not c.norms_batches:
        return waves.positions()
    conv = nn.Conv1d(waves.dim, waves.dim, waves.kernel, padding=waves.kernel // 2, groups=waves.groups)
    return NormedConvPositions(conv=conv, act=waves.stem.act, batch_norm=nn.BatchNorm1d(waves.dim))


def build(c: Config) -> PlainWaveEncoder:
    """The encoder."""
    waves, frame = c.waves, c.waves.stem.channels[-1]
    return PlainWaveEncoder(
        feature_extractor=waves.stem.build(),
        feature_projection=FeatureProjection(
            layer_norm=nn.LayerNorm(frame, waves.eps) if c.norms_frames else None,
            projection=nn.Linear(frame, waves.dim),
            dropout=waves.projection_dropout,
        ),
        masking=SpecMask(waves.dim, waves.augment, whole=True) if waves.hides else None,
        encoder=waves.stack(positions(c)),
    )


def begins(config: ModelConfig, path: str) -> Beginning | None:
    """Convolutions begin without biases."""
    if path.endswith("pos_conv_embed.conv.weight"):
        return nn.init.kaiming_normal_
    return nn.init.zeros_ if path.endswith("conv.bias") else None


HEADS = WaveHeads[Config](build, lambda c: c.waves, lambda c: c.sizes)

FAMILY = (
    Builder("hubert", read, WAVE_KEYS, prefix="hubert")
    .public(
        config="HubertConfig",
        tokenizer="Wav2Vec2CTCTokenizer",
        feature_extractor="Wav2Vec2FeatureExtractor",
        processor="Wav2Vec2Processor",
        row="speech to letters, audio classification",
    )
    .begins(begins)
    .base("HubertModel", build)
    .head("HubertForCTC", "ctc", HEADS.ctc)
    .head("HubertForSequenceClassification", "audio-classification", HEADS.classifier, MIXED)
    .done()
)
