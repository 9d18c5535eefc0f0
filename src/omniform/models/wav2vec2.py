"""wav2vec 2.0 (https://arxiv.org/abs/2006.11477), and the adapters of languages of MMS (2305.13516)."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.family import Builder
from omniform.architectures.wave_family import WAVE_KEYS, Stem, Waves
from omniform.architectures.wave_heads import MIXED, HeadSizes, WaveHeads, check_width
from omniform.architectures.wave_pretraining import Codes, Contrasting
from omniform.architectures.waves import WaveEncoder
from omniform.core.config import Common
from omniform.core.reader import ConfigReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a wav2vec 2.0 computes."""

    waves: Waves
    sizes: HeadSizes
    codes: Codes


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    stable, bottleneck = r.flag("do_stable_layer_norm", False), r.maybe_integer("adapter_attn_dim")
    return Config(
        waves=Waves.read(r, stem=Stem.read(r), stable=stable, bottleneck=bottleneck),
        sizes=HeadSizes.read(r),
        codes=Codes.read(r),
    )


def build(c: Config) -> WaveEncoder:
    """The encoder."""
    return c.waves.build()


def contrasting(c: Config, _: Common) -> Contrasting:
    """The encoder that is pre-trained."""
    check_width(c.waves.dim, c.waves.width)
    return c.codes.contrasting(build(c), c.waves.dim, c.waves.stem.channels[-1])


HEADS = WaveHeads[Config](build, lambda c: c.waves, lambda c: c.sizes)

FAMILY = (
    Builder("wav2vec2", read, WAVE_KEYS, prefix="wav2vec2")
    .public(
        config="Wav2Vec2Config",
        tokenizer="Wav2Vec2CTCTokenizer",
        feature_extractor="Wav2Vec2FeatureExtractor",
        processor="Wav2Vec2Processor",
        row="speech to letters, audio classification, voices",
    )
    .base("Wav2Vec2Model", build)
    .head("Wav2Vec2ForCTC", "ctc", HEADS.ctc)
    .head("Wav2Vec2ForSequenceClassification", "audio-classification", HEADS.classifier, MIXED)
    .head("Wav2Vec2ForAudioFrameClassification", "audio-frame-classification", HEADS.frame_classifier, MIXED)
    .head("Wav2Vec2ForXVector", "audio-xvector", HEADS.voice_teller, MIXED)
    .head("Wav2Vec2ForPreTraining", "pre-training", contrasting)
    .done()
)
