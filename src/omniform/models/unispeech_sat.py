"""UniSpeech-SAT (https://arxiv.org/abs/2110.05752)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.family import Builder
from omniform.architectures.wave_family import WAVE_KEYS, Stem, Waves
from omniform.architectures.wave_heads import MIXED, HeadSizes, WaveHeads
from omniform.architectures.wave_pretraining import Codes, QuantizingHead
from omniform.architectures.waves import WaveEncoder
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.sound_outputs import SpeakerPreTrainingOutput


class Clusters(nn.Module):
    """A vector for each cluster of frames that the model is pre-trained to tell.

    Args:
        count: how many there are.
        dim: their width.
    """

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.empty(count, dim))

    def reset(self, std: float) -> None:
        """Zeros."""
        nn.init.zeros_(self.embed)


class SpeakerAware(QuantizingHead):
    """The encoder as it is pre-trained. As the reference's it tells frames and has no loss; its other modules are kept
    for checkpoints' sake.

    Args:
        project_q: code vectors to where they are compared.
        project_hid: hidden states likewise.
        speaker_proj: hidden states to where speakers are told apart.
        clusters: what frames are told by.
        layer_norm_for_extract: applied to a middle layer's hidden states.
    """

    project_q: nn.Linear
    project_hid: nn.Linear
    speaker_proj: nn.Linear
    clusters: Clusters
    layer_norm_for_extract: nn.LayerNorm

    def forward(self, *args: Tensor | None, **inputs: object) -> SpeakerPreTrainingOutput:
        """Hidden states and frames; see the encoder for its inputs."""
        out = self.read(args, inputs)
        assert out.extract_features is not None
        return SpeakerPreTrainingOutput(
            logits=F.dropout(out.extract_features, self.dropout, self.training),
            projected_states=out.last_hidden_state,
            **out.noted(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a UniSpeech-SAT computes."""

    waves: Waves
    sizes: HeadSizes
    codes: Codes
    clusters: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    waves = Waves.read(r, stem=Stem.read(r), stable=r.flag("do_stable_layer_norm", False), adapts=False)
    return Config(
        waves=replace(waves, hides=True),
        sizes=HeadSizes.read(r, reduction="mean"),
        codes=Codes.read(r),
        clusters=r.integer("num_clusters", 504),
    )


def build(c: Config) -> WaveEncoder:
    """The encoder."""
    return c.waves.build()


def speaker_aware(c: Config, _: Common) -> SpeakerAware:
    """The encoder that is pre-trained."""
    codes, dim = c.codes, c.waves.dim
    return SpeakerAware(
        model=build(c),
        quantizer=codes.quantizer(dim),
        project_q=nn.Linear(codes.width, codes.projected),
        project_hid=nn.Linear(dim, codes.projected),
        speaker_proj=nn.Linear(dim, codes.width),
        clusters=Clusters(c.clusters, codes.width),
        layer_norm_for_extract=c.waves.norm(),
        dropout=codes.dropout,
    )


HEADS = WaveHeads[Config](build, lambda c: c.waves, lambda c: c.sizes)

FAMILY = (
    Builder("unispeech-sat", read, WAVE_KEYS, prefix="unispeech_sat")
    .public(
        config="UniSpeechSatConfig",
        tokenizer="Wav2Vec2CTCTokenizer",
        feature_extractor="Wav2Vec2FeatureExtractor",
        processor="Wav2Vec2Processor",
        row="speech to letters, audio classification, voices",
    )
    .base("UniSpeechSatModel", build)
    .head("UniSpeechSatForCTC", "ctc", HEADS.ctc)
    .head("UniSpeechSatForSequenceClassification", "audio-classification", HEADS.classifier, MIXED)
    .head("UniSpeechSatForAudioFrameClassification", "audio-frame-classification", HEADS.frame_classifier, MIXED)
    .head("UniSpeechSatForXVector", "audio-xvector", HEADS.voice_teller, MIXED)
    .head("UniSpeechSatForPreTraining", "pre-training", speaker_aware, {"clusters.embed": "label_embeddings_concat"})
    .done()
)
