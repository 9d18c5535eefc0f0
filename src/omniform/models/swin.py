"""Swin (https://arxiv.org/abs/2103.14030)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.family import Builder
from omniform.architectures.staged_family import OUTER_KEYS, Spot, Staged, layer_keys
from omniform.architectures.stages import (
    MeanPooler,
    PatchMerging,
    StagedBackbone,
    StagedClassifier,
    StagedEncoder,
    StagedImageModeler,
    staged_classifier,
)
from omniform.blocks.drop_path import DropPath
from omniform.blocks.patches import GridPositions, MaskToken
from omniform.blocks.windowed import FittingWindowing, TableBias, WindowedAttention, WindowedLayer
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Swin computes."""

    staged: Staged
    absolute: bool
    encoder_stride: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    return Config(
        staged=Staged.read(r),
        absolute=r.flag("use_absolute_embeddings", False),
        encoder_stride=r.integer("encoder_stride", 32),
    )


def windowed(s: Staged, at: Spot, bias: TableBias, output_dropout: float) -> WindowedLayer:
    """One layer.

    Args:
        bias: of its attention.
        output_dropout: on what that gives, in training.
    """
    attention = WindowedAttention(
        at.dim,
        at.heads,
        windowing=FittingWindowing(s.window, s.window // 2 if at.shift else 0),
        distance_bias=bias,
        biases="qkvo" if s.qkv_bias else "o",
        dropout=s.attention_dropout,
        output_dropout=output_dropout,
    )
    path = DropPath(at.drop_path)
    return WindowedLayer.of(
        lambda: s.norm(at.dim), self_attn=attention, mlp=s.mlp(at.dim), drop_path=path, dropout=s.dropout
    )


def build(c: Config, *, mask_token: MaskToken | None = None, pooler: nn.Module | None = None) -> StagedEncoder:
    """The encoder."""
    s = c.staged

    def layer(at: Spot) -> WindowedLayer:
        return windowed(s, at, TableBias(s.window, at.heads), s.dropout)

    return StagedEncoder(
        patches=s.patches(),
        patch_norm=nn.LayerNorm(s.dim),
        positions=GridPositions(s.patching.grid, s.dim, before=0) if c.absolute else None,
        mask_token=mask_token,
        stages=s.stages(layer, PatchMerging),
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


def backbone(c: Config) -> StagedBackbone:
    """The encoder's maps, each normed."""
    s = c.staged
    norms = nn.ModuleDict({s.names[i]: nn.LayerNorm(s.widths[i]) for i in s.outputs})
    return StagedBackbone(model=build(c), hidden_states_norms=norms, **s.facts)


def beginning(_: ModelConfig, path: str) -> Beginning | None:
    """Learned positions begin with zeros."""
    return nn.init.zeros_ if path.endswith("positions.weight") else None


KEYS = KeyMap(
    {
        **OUTER_KEYS,
        **layer_keys(
            {
                "input_layernorm": "layernorm_before",
                "post_attention_layernorm": "layernorm_after",
                "self_attn.distance_bias.weight": "attention.self.relative_position_bias_table",
            }
        ),
    },
    # Names in the reference's memory, which its adapters are saved under.
    aliases=(
        (r"(blocks\.\d+\.attention)\.q_proj\.", r"\1.self.query."),
        (r"(blocks\.\d+\.attention)\.k_proj\.", r"\1.self.key."),
        (r"(blocks\.\d+\.attention)\.v_proj\.", r"\1.self.value."),
        (r"(blocks\.\d+\.attention)\.o_proj\.", r"\1.output.dense."),
        (r"(blocks\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
        (r"(blocks\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
        (r"(blocks\.\d+\.attention)\.relative_position_bias\.", r"\1.self."),
    ),
    ignored=(r"relative_position_index$",),
    modules=(
        (r"(blocks\.\d+\.attention)\.self\.([qkv])(uery|ey|alue)(?=\.|$)", r"\1.\2_proj"),
        (r"(blocks\.\d+\.attention)\.output\.dense(?=\.|$)", r"\1.o_proj"),
        (r"(blocks\.\d+)\.intermediate\.dense(?=\.|$)", r"\1.mlp.fc1"),
        (r"(blocks\.\d+)\.output\.dense(?=\.|$)", r"\1.mlp.fc2"),
        (
            r"(blocks\.\d+\.attention)\.self\.relative_position_bias_table",
            r"\1.relative_position_bias.relative_position_bias_table",
        ),
    ),
)

BACKBONE_KEYS = KEYS.under("model", "") | KeyMap(
    {"model.norm": "swin.layernorm"},
    aliases=((r"^swin\.(embeddings|encoder)\.", r"\1."),),
    modules=((r"^(embeddings|encoder)\.", r"swin.\1."),),
)

FAMILY = (
    Builder("swin", read, KEYS, prefix="swin")
    .public(
        config="SwinConfig",
        image_processor="ViTImageProcessor",
        row="image classification, masked image modelling, backbone",
    )
    .begins(beginning)
    .base("SwinModel", with_pooler)
    .head("SwinForImageClassification", "image-classification", classifier)
    .head("SwinForMaskedImageModeling", "masked-image-modeling", masked_image_modeler)
    .backbone("SwinBackbone", backbone, BACKBONE_KEYS)
    .done()
)
