"""UniSpeech (https://arxiv.org/abs/2101.07597)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.family import Builder
from omniform.architectures.wave_family import WAVE_KEYS, Stem, Waves
from omniform.architectures.wave_heads import MIXED, HeadSizes, WaveHeads
from omniform.architectures.wave_pretraining import Codes, QuantizingHead
from omniform.architectures.waves import WaveEncoder
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.sound_outputs import WavePreTrainingOutput


class Replacing(QuantizingHead):
    """The encoder as it is pre-trained: its frames and their code vectors. As the reference's it has no loss.

    Args:
        project_q: code vectors to where they are compared.
        project_hid: those to the layers' width.
        ctc_proj: frames, some replaced by their code vectors, to letters; kept for checkpoints' sake.
    """

    project_q: nn.Linear
    project_hid: nn.Linear
    ctc_proj: nn.Linear

    def forward(self, *args: Tensor | None, **inputs: object) -> WavePreTrainingOutput:
        """Hidden states, and code vectors of the same width; see the encoder for its inputs."""
        out = self.read(args, inputs)
        assert out.extract_features is not None
        codes, perplexity = self.quantizer(F.dropout(out.extract_features, self.dropout, self.training))
        return WavePreTrainingOutput(
            projected_states=out.last_hidden_state,
            projected_quantized_states=self.project_hid(self.project_q(codes.to(self.project_q.weight.dtype))),
            codevector_perplexity=perplexity,
            **out.noted(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a UniSpeech computes."""

    waves: Waves
    sizes: HeadSizes
    codes: Codes
    letters: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert(replace_prob=0.5)
    return Config(
        waves=Waves.read(r, stem=Stem.read(r), stable=r.flag("do_stable_layer_norm", False), adapts=False),
        sizes=HeadSizes.read(r, reduction="mean", voices=False),
        codes=Codes.read(r),
        letters=r.integer("num_ctc_classes", 80),
    )


def build(c: Config) -> WaveEncoder:
    """The encoder."""
    return c.waves.build()


def replacing(c: Config, _: Common) -> Replacing:
    """The encoder that is pre-trained."""
    codes, waves = c.codes, c.waves
    return Replacing(
        model=build(c),
        quantizer=codes.quantizer(waves.stem.channels[-1]),
        project_q=nn.Linear(codes.width, codes.projected),
        project_hid=nn.Linear(codes.projected, waves.dim),
        ctc_proj=nn.Linear(waves.dim, c.letters),
        dropout=codes.dropout,
    )


HEADS = WaveHeads[Config](build, lambda c: c.waves, lambda c: c.sizes)

FAMILY = (
    Builder("unispeech", read, WAVE_KEYS, prefix="unispeech")
    .public(
        config="UniSpeechConfig",
        tokenizer="Wav2Vec2CTCTokenizer",
        feature_extractor="Wav2Vec2FeatureExtractor",
        processor="Wav2Vec2Processor",
        row="speech to letters, audio classification",
    )
    .base("UniSpeechModel", build)
    .head("UniSpeechForCTC", "ctc", HEADS.ctc)
    .head("UniSpeechForSequenceClassification", "audio-classification", HEADS.classifier, MIXED)
    .head("UniSpeechForPreTraining", "pre-training", replacing)
    .done()
)
