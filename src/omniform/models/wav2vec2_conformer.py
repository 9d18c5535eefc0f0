"""wav2vec 2.0 of conformer layers (https://arxiv.org/abs/2010.05171), places told by distances or turns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from omniform.architectures.conformer_family import CONFORMER_KEYS, Conformer
from omniform.architectures.family import Builder
from omniform.architectures.wave_family import Stem, Waves
from omniform.architectures.wave_heads import MIXED, HeadSizes, WaveHeads, check_width
from omniform.architectures.wave_pretraining import Codes, Contrasting
from omniform.architectures.waves import WaveEncoder, WaveLayers
from omniform.blocks.conformer import CentredConv
from omniform.blocks.rotary import StoredRotary
from omniform.core.config import Common
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a conformer wav2vec 2.0 computes."""

    waves: Waves
    conformer: Conformer
    sizes: HeadSizes
    codes: Codes


class ConformerLayers(WaveLayers):
    """Conformer layers and one norm behind the last; hidden states are told without it.

    Checkpoints hold a convolution that would tell places, and nobody reads it: the layers know places themselves.

    Args:
        embed_positions: turns frames by their places, by the checkpoint's own frequencies; None if nothing turns.
    """

    embed_positions: StoredRotary | None

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        if ctx.padding is not None:
            x_BTD = x_BTD.masked_fill(~ctx.padding[..., None], 0)
        hidden: Tensor = self.layer_norm(self.through(x_BTD, ctx))
        return hidden


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("do_stable_layer_norm")  # of wav2vec 2.0, in published files; nobody reads it
    waves = Waves.read(r, stem=Stem.read(r), stable=False)
    conformer = Conformer.read(
        r, dim=768, hidden=3072, layers=12, heads=12, act="gelu", dropout=0.1, places="relative",
        known=("relative", "rotary"), reach=(0, 0),
    )  # fmt: skip
    return Config(waves=waves, conformer=conformer, sizes=HeadSizes.read(r), codes=Codes.read(r))


def build(c: Config) -> WaveEncoder:
    """The encoder."""
    waves, conformer = c.waves, c.conformer
    turning = StoredRotary(conformer.frequencies) if conformer.places == "rotary" else None

    def norm() -> nn.LayerNorm:
        return nn.LayerNorm(conformer.dim)

    def conv() -> CentredConv:
        return CentredConv(conformer.dim, conformer.kernel, conformer.act, norm(), conformer.conv_dropout)

    layers = ConformerLayers(
        pos_conv_embed=waves.positions(),
        layer_norm=waves.norm(),
        layers=conformer.stack(conv, norm, turning),
        dropout=waves.dropout,
        layerdrop=waves.layerdrop,
        embed_positions=turning,
    )
    return waves.build(layers)


def contrasting(c: Config, _: Common) -> Contrasting:
    """The encoder that is pre-trained."""
    check_width(c.waves.dim, c.waves.width)
    return c.codes.contrasting(build(c), c.waves.dim, c.waves.stem.channels[-1])


KEYS = CONFORMER_KEYS | KeyMap({}, ignored=[r"(^|\.)masked_spec_embed$"])
HEADS = WaveHeads[Config](build, lambda c: c.waves, lambda c: c.sizes)

FAMILY = (
    Builder("wav2vec2-conformer", read, KEYS, prefix="wav2vec2_conformer")
    .public(
        config="Wav2Vec2ConformerConfig",
        tokenizer="Wav2Vec2CTCTokenizer",
        feature_extractor="Wav2Vec2FeatureExtractor",
        processor="Wav2Vec2Processor",
        row="speech to letters, audio classification, voices",
        usual={"max_source_positions": 5000},
    )
    .base("Wav2Vec2ConformerModel", build)
    .head("Wav2Vec2ConformerForCTC", "ctc", HEADS.ctc)
    .head("Wav2Vec2ConformerForSequenceClassification", "audio-classification", HEADS.classifier, MIXED)
    .head("Wav2Vec2ConformerForAudioFrameClassification", "audio-frame-classification", HEADS.frame_classifier, MIXED)
    .head("Wav2Vec2ConformerForXVector", "audio-xvector", HEADS.voice_teller, MIXED)
    .head("Wav2Vec2ConformerForPreTraining", "pre-training", contrasting)
    .done()
)
