"""Donut's encoder of pages (https://arxiv.org/abs/2111.15664): Swin's without the norm behind the last stage."""

from __future__ import annotations

from torch import nn

from omniform.architectures.family import Builder
from omniform.architectures.staged_family import OUTER_KEYS, Spot, Staged, layer_keys
from omniform.architectures.stages import MeanPooler, PageEncoder, PatchMerging, StagedClassifier, staged_classifier
from omniform.blocks.windowed import IndexedBias, WindowedLayer
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.models.swin import windowed
from omniform.weights.keymap import KeyMap


def read(r: ConfigReader) -> Staged:
    """Read a config; every key is used, declared inert or refused."""
    if r.flag("use_absolute_embeddings", False):
        # The reference counts one position more than there are patches, and fails.
        raise r.fail("use_absolute_embeddings", "false: no such model can read a page", True)
    r.inert("path_norm")
    return Staged.read(r)


def build(s: Staged) -> PageEncoder:
    """The encoder, and one vector per page."""

    def layer(at: Spot) -> WindowedLayer:
        return windowed(s, at, IndexedBias(s.window, at.heads), s.attention_dropout)

    return PageEncoder(
        patches=s.patches(),
        patch_norm=nn.LayerNorm(s.dim),
        stages=s.stages(layer, PatchMerging),
        norm=None,
        pooler=MeanPooler(),
        dropout=s.dropout,
        dim=s.widths[-1],
    )


def classifier(s: Staged, common: Common) -> StagedClassifier:
    """One class per page."""
    return staged_classifier(build(s), common)


KEYS = KeyMap(
    {
        **OUTER_KEYS,
        **layer_keys(
            {
                "input_layernorm": "layernorm_before",
                "post_attention_layernorm": "layernorm_after",
                "self_attn.distance_bias.weight": "attention.self.relative_position_bias_table",
                "self_attn.distance_bias.index.places": "attention.self.relative_position_index",
            }
        ),
    }
)

FAMILY = (
    Builder("donut-swin", read, KEYS, prefix="donut")
    .public(
        config="DonutSwinConfig",
        image_processor="DonutImageProcessor",
        processor="DonutProcessor",
        row="the encoder of pages, image classification",
    )
    .base("DonutSwinModel", build)
    .head("DonutSwinForImageClassification", "image-classification", classifier)
    .done()
)
