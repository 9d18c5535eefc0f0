"""SegFormer (https://arxiv.org/abs/2105.15203)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

from omniform.architectures.family import Builder
from omniform.architectures.heads import Hidden, SequenceClassifier
from omniform.architectures.mix_transformer import DecodeHead, MixEncoder, MixLayer, MixSegmenter, MixStage
from omniform.architectures.semantic import ForegroundLoss, SemanticLoss, read_ignored
from omniform.blocks.drop_path import DropPath
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.reduced import MapAttention, MixMLP, OverlappingPatches, ReducedAttention
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of an encoder.

    Attributes:
        dim: channels of its map.
        depth: how many layers it has.
        heads: of each attention.
        reduction: how many places, on either axis, are one to keys and values.
        patch: side of its overlapping patches, in pixels of the map before.
        stride: how far apart they begin.
        hidden: width inside the feed-forwards.
        drops: how likely each layer's branches are left out in training.
    """

    dim: int
    depth: int
    heads: int
    reduction: int
    patch: int
    stride: int
    hidden: int
    drops: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a SegFormer computes."""

    channels: int
    stages: tuple[Stage, ...]
    act: str
    dropout: float
    attention_dropout: float
    head_dropout: float
    head_dim: int
    ignored: int
    last_as_map: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("layer_norm_eps")  # the reference's norms have torch's own
    count = r.layers("num_encoder_blocks", 4, also=("num_hidden_layers",), least=1)

    def each(name: str, default: tuple[int, ...], least: int = 1) -> tuple[int, ...]:
        values = r.integers(name, default, least=least)
        if len(values) < count:
            raise r.fail(name, f"{count} numbers (num_encoder_blocks)", list(values))
        return values

    dims, heads = each("hidden_sizes", (32, 64, 160, 256)), each("num_attention_heads", (1, 2, 5, 8))
    depths, ratios = each("depths", (2, 2, 2, 2), least=0), r.numbers("mlp_ratios", (4, 4, 4, 4))
    reductions, patches = each("sr_ratios", (8, 4, 2, 1)), each("patch_sizes", (7, 3, 3, 3))
    strides = each("strides", (4, 2, 2, 2))
    if len(ratios) < count or min(ratios) * min(dims) < 1:
        raise r.fail("mlp_ratios", f"{count} numbers (num_encoder_blocks)", list(ratios))
    for dim, number in zip(dims, heads, strict=False):
        if number > dim:
            raise r.fail("num_attention_heads", f"at most {list(dims)} (hidden_sizes)", list(heads))
    rate, layers = r.probability("drop_path_rate", 0.1), sum(depths)
    drops = [rate * i / max(layers - 1, 1) for i in range(layers)]
    stages = tuple(
        Stage(
            dim=dims[i],
            depth=depths[i],
            heads=heads[i],
            reduction=reductions[i],
            patch=patches[i],
            stride=strides[i],
            hidden=int(dims[i] * ratios[i]),
            drops=tuple(drops[sum(depths[:i]) : sum(depths[: i + 1])]),
        )
        for i in range(count)
    )
    return Config(
        channels=r.integer("num_channels", 3),
        stages=stages,
        act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
        dropout=r.probability("hidden_dropout_prob"),
        attention_dropout=r.probability("attention_probs_dropout_prob"),
        head_dropout=r.probability("classifier_dropout_prob", 0.1),
        head_dim=r.integer("decoder_hidden_size", 256),
        ignored=read_ignored(r),
        last_as_map=r.flag("reshape_last_stage", True),
    )


def build(c: Config) -> MixEncoder:
    """The encoder."""

    def attention(stage: Stage) -> MapAttention:
        if stage.reduction == 1:
            return MapAttention(stage.dim, stage.heads, dropout=c.attention_dropout)
        return ReducedAttention(stage.dim, stage.heads, stage.reduction, dropout=c.attention_dropout)

    def layer(stage: Stage, rate: float) -> MixLayer:
        return MixLayer(
            layernorm_before=nn.LayerNorm(stage.dim),
            attention=attention(stage),
            layernorm_after=nn.LayerNorm(stage.dim),
            mlp=MixMLP(stage.dim, stage.hidden, c.act, dropout=c.dropout),
            dropout=c.dropout,
            drop_path=DropPath(rate),
        )

    stages, inner = [], c.channels
    for stage in c.stages:
        stages.append(
            MixStage(
                patch_embeddings=OverlappingPatches(inner, stage.dim, stage.patch, stage.stride),
                blocks=nn.ModuleList(layer(stage, rate) for rate in stage.drops),
                layer_norm=nn.LayerNorm(stage.dim),
            )
        )
        inner = stage.dim
    return MixEncoder(stages=nn.ModuleList(stages), channels=c.channels, last_as_map=c.last_as_map)


def mean_of_places(out: Hidden, _: Tensor | None) -> Tensor:
    """The mean of a map, or of a row of places."""
    hidden = out.last_hidden_state
    return hidden.mean(dim=1) if hidden.dim() == 3 else hidden.mean(dim=(2, 3))


def classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per picture."""
    scores = nn.Linear(c.stages[-1].dim, common.num_labels)
    return SequenceClassifier(model=build(c), pool=mean_of_places, classifier=scores, common=common)


def segmenter(c: Config, common: Common) -> MixSegmenter:
    """One class per place; a single one is told from all else."""
    head = DecodeHead([stage.dim for stage in c.stages], c.head_dim, common.num_labels, c.head_dropout)
    loss = ForegroundLoss(c.ignored) if common.num_labels == 1 else SemanticLoss(common.num_labels, c.ignored)
    return MixSegmenter(model=build(c), decode_head=head, loss=loss)


_LAYER = {
    "layernorm_before": "layer_norm_1",
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.sequence_reduction.sequence_reduction": "attention.self.sr",
    "attention.sequence_reduction.layer_norm": "attention.self.layer_norm",
    "attention.o_proj": "attention.output.dense",
    "layernorm_after": "layer_norm_2",
    "mlp.fc1": "mlp.dense1",
    "mlp.dwconv": "mlp.dwconv.dwconv",
    "mlp.fc2": "mlp.dense2",
}
"""A layer's modules, and where checkpoints keep them."""


def _named(ours: str) -> str:
    return "mlp.dwconv.dwconv" if ours == "mlp.dwconv" else ours


KEYS = KeyMap(
    {
        "stages.{i}.patch_embeddings": "encoder.patch_embeddings.{i}",
        "stages.{i}.blocks.{j}": "encoder.block.{i}.{j}",
        "stages.{i}.layer_norm": "encoder.layer_norm.{i}",
        **{f"stages.{{i}}.blocks.{{j}}.{ours}": f"encoder.block.{{i}}.{{j}}.{key}" for ours, key in _LAYER.items()},
    },
    # Names in the reference's memory, which its adapters are saved under.
    aliases=(
        (r"(^|\.)stages\.(\d+)\.(patch_embeddings|layer_norm)\.", r"\1encoder.\3.\2."),
        *(
            (rf"(^|\.)stages\.(\d+)\.blocks\.(\d+)\.{re.escape(_named(ours))}\.", rf"\1encoder.block.\2.\3.{key}.")
            for ours, key in _LAYER.items()
        ),
    ),
    modules=(
        (r"(^|\.)encoder\.(patch_embeddings|layer_norm)\.(\d+)", r"\1stages.\3.\2"),
        *(
            (rf"(^|\.)encoder\.block\.(\d+)\.(\d+)\.{re.escape(key)}(?=\.|$)", rf"\1stages.\2.blocks.\3.{_named(ours)}")
            for ours, key in _LAYER.items()
        ),
    ),
)
HEAD_KEYS = KeyMap(
    {"decode_head.linear_projections": "decode_head.linear_c"},
    aliases=((r"^decode_head\.linear_projections\.", "decode_head.linear_c."),),
    modules=((r"^decode_head\.linear_c(?=\.|$)", "decode_head.linear_projections"),),
)

FAMILY = (
    Builder("segformer", read, KEYS, prefix="segformer")
    .public(
        config="SegformerConfig",
        image_processor="SegformerImageProcessor",
        row="semantic segmentation, image classification",
        usual={"layer_norm_eps": 1e-6},
    )
    .base("SegformerModel", build)
    .head("SegformerForImageClassification", "image-classification", classifier)
    .head("SegformerForSemanticSegmentation", "semantic-segmentation", segmenter, HEAD_KEYS)
    .done()
)
