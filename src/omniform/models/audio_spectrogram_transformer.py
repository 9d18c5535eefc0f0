"""AST, the audio spectrogram transformer (https://arxiv.org/abs/2104.01778): DeiT over a spectrogram's patches."""

from __future__ import annotations

from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier, pooled
from omniform.architectures.spectrogram import (
    FirstTwo,
    NormedClasses,
    OverlappingPatching,
    OverlappingStem,
    SpectrogramEncoder,
)
from omniform.architectures.tower import Tower
from omniform.architectures.vision import classes_of
from omniform.architectures.vit_family import PLAIN_KEYS, PlainVision, zeros
from omniform.blocks.patches import DistilledTokens, GridPositions
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap
from omniform.weights.links import unsqueezed


def read(r: ConfigReader) -> PlainVision:
    """Read a config; every key is used, declared inert or refused."""
    patch = r.integer("patch_size", 16)
    image_size = (r.integer("num_mel_bins", 128), r.integer("max_length", 1024))
    if patch > min(image_size):
        raise r.fail("patch_size", f"at most {min(image_size)} (num_mel_bins, max_length)", patch)
    return PlainVision(
        tower=Tower.read(
            r, dim=768, hidden=3072, heads=12, act="gelu", eps=1e-12, dropout_key="attention_probs_dropout_prob"
        ),
        patching=OverlappingPatching(
            channels=1,
            image_size=image_size,
            patch_size=(patch, patch),
            stride=(r.integer("frequency_stride", 10), r.integer("time_stride", 10)),
        ),
        qkv_bias=r.flag("qkv_bias", True),
        dropout=r.probability("hidden_dropout_prob"),
        head_dim=r.maybe_integer("head_dim"),
    )


def build(c: PlainVision) -> SpectrogramEncoder:
    """The encoder, and one vector per spectrogram."""
    assert isinstance(c.patching, OverlappingPatching)
    dim = c.tower.dim
    return SpectrogramEncoder(
        patches=OverlappingStem(c.patching, dim),
        positions=GridPositions(c.patching.grid, dim, before=2),
        class_token=DistilledTokens(dim),
        layers=c.stack(),
        norm=c.tower.norm(),
        pooler=FirstTwo(),
        dropout=c.dropout,
    )


def classifier(c: PlainVision, common: Common) -> SequenceClassifier:
    """One class per spectrogram."""
    scores = NormedClasses(c.tower.norm(), classes_of(c.tower.dim, common))
    return SequenceClassifier(model=build(c), pool=pooled, classifier=scores, common=common)


KEYS = PLAIN_KEYS | KeyMap(
    {
        "class_token.distillation.weight": unsqueezed("embeddings.distillation_token", 2),
        "patches": "embeddings.patch_embeddings",
    }
)

FAMILY = (
    Builder("audio-spectrogram-transformer", read, KEYS, prefix="audio_spectrogram_transformer")
    .public(config="ASTConfig", feature_extractor="ASTFeatureExtractor", row="audio classification")
    .begins(zeros("class_token.weight", "distillation.weight", "positions.weight"))
    .base("ASTModel", build)
    .head("ASTForAudioClassification", "audio-classification", classifier)
    .done()
)
