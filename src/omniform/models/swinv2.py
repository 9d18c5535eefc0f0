"""Swin v2 (https://arxiv.org/abs/2111.09883)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.family import Builder
from omniform.architectures.staged_family import OUTER_KEYS, Spot, Staged, layer_keys
from omniform.architectures.stages import (
    MeanPooler,
    NormedPatchMerging,
    RowsBackbone,
    StagedClassifier,
    StagedEncoder,
    StagedImageModeler,
    staged_classifier,
)
from omniform.blocks.drop_path import DropPath
from omniform.blocks.patches import MaskToken
from omniform.blocks.windowed import ContinuousBias, CosineWindowedAttention, WindowedBranchNorm, Windowing
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Swin v2 computes.

    Attributes:
        trained_windows: sides of the windows that each stage was first trained on; 0 for its own.
    """

    staged: Staged
    trained_windows: tuple[int, ...]
    encoder_stride: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    staged = Staged.read(r)
    stages = len(staged.depths)
    trained = r.integers("pretrained_window_sizes", (0,) * max(stages, 4))
    if len(trained) < stages:
        raise r.fail("pretrained_window_sizes", f"{stages} numbers, one for each of depths", list(trained))
    if 1 in trained[:stages]:
        raise r.fail("pretrained_window_sizes", "0, or windows of more than one token", list(trained))
    r.only("use_absolute_embeddings", False, None, why="the ecosystem's table has one row more than there are patches")
    return Config(staged=staged, trained_windows=trained, encoder_stride=r.integer("encoder_stride", 32))


def build(c: Config, *, mask_token: MaskToken | None = None, pooler: nn.Module | None = None) -> StagedEncoder:
    """The encoder."""
    s = c.staged

    def layer(at: Spot) -> WindowedBranchNorm:
        side = max(1, min(s.window, at.grid[0]))
        attention = CosineWindowedAttention(
            at.dim,
            at.heads,
            windowing=Windowing(side, s.window // 2 if at.shift and at.grid[0] > side else 0),
            distance_bias=ContinuousBias(side, at.heads, trained_side=c.trained_windows[at.stage]),
            biases="qvo" if s.qkv_bias else "o",
            dropout=s.attention_dropout,
            output_dropout=s.attention_dropout,
        )
        path = DropPath(at.drop_path)
        return WindowedBranchNorm.of(
            lambda: s.norm(at.dim), self_attn=attention, mlp=s.mlp(at.dim), drop_path=path, dropout=s.dropout
        )

    return StagedEncoder(
        patches=s.patches(),
        patch_norm=nn.LayerNorm(s.dim),
        mask_token=mask_token,
        stages=s.stages(layer, NormedPatchMerging),
        norm=s.norm(s.widths[-1]),
        pooler=pooler,
        dropout=s.dropout,
    )


def with_pooler(c: Config) -> StagedEncoder:
    """The encoder and one vector per picture."""
    return build(c, pooler=MeanPooler())


def classifier(c: Config, common: Common) -> StagedClassifier:
    """One class per picture."""
    return staged_classifier(with_pooler(c), common)


def masked_image_modeler(c: Config, _: Common) -> StagedImageModeler:
    """The encoder that fills in hidden patches."""
    return StagedImageModeler(model=build(c, mask_token=MaskToken(c.staged.dim)), stride=c.encoder_stride)


def backbone(c: Config) -> RowsBackbone:
    """The encoder's maps, as they are."""
    model = build(c)
    model.norm = None
    return RowsBackbone(model=model, **c.staged.facts)


KEYS = KeyMap(
    {
        **OUTER_KEYS,
        **layer_keys(
            {
                "post_attention_layernorm": "layernorm_before",
                "post_feedforward_layernorm": "layernorm_after",
                "self_attn.logit_scale": "attention.self.logit_scale",
                "self_attn.distance_bias.hidden": "attention.self.continuous_position_bias_mlp.0",
                "self_attn.distance_bias.out": "attention.self.continuous_position_bias_mlp.2",
            }
        ),
    },
    ignored=(r"relative_position_index$", r"relative_coords_table$"),
)

FAMILY = (
    Builder("swinv2", read, KEYS, prefix="swinv2")
    .public(
        config="Swinv2Config",
        image_processor="ViTImageProcessor",
        row="image classification, masked image modelling, backbone",
        usual={"use_absolute_embeddings": False},
    )
    .base("Swinv2Model", with_pooler)
    .head("Swinv2ForImageClassification", "image-classification", classifier)
    .head("Swinv2ForMaskedImageModeling", "masked-image-modeling", masked_image_modeler)
    .backbone("Swinv2Backbone", backbone, KEYS.under("model", ""))
    .done()
)
