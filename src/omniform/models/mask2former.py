"""Mask2Former (https://arxiv.org/abs/2112.01527)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import cast

from torch import nn

from omniform.architectures.family import Builder
from omniform.architectures.mask_losses import MaskSetLoss, SampledPoints
from omniform.architectures.mask_segmenter import PixelLevel
from omniform.architectures.masked_segmenter import Mask2Former, Mask2FormerCore, QueryModule
from omniform.architectures.parts import read_width
from omniform.architectures.pixel_decoder import LEVELS, MapReader, read_channels, reader_keys
from omniform.architectures.query_decoder import (
    MapMemories,
    MaskedDecoder,
    MaskedLayers,
    MaskedPostNorm,
    MaskedPreNorm,
    ReluStack,
    in_projection,
)
from omniform.blocks.mlp import ACTIVATIONS
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.models.backbones import NestedBackbone, read_backbone
from omniform.weights.keymap import KeyMap, Rule

SWIN = {
    "model_type": "swin", "depths": [2, 2, 18, 2], "drop_path_rate": 0.3,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip
"""The backbone where the file names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Mask2Former computes.

    Attributes:
        projected: whether maps are projected for the queries even if they are as wide.
        count: of the layers over queries.
        weights: of classes, masks and dice in matching and loss, and of "no object".
    """

    backbone: NestedBackbone
    reader: MapReader
    queries: int
    layers: MaskedLayers
    count: int
    projected: bool
    shows: bool
    weights: tuple[float, float, float, float]
    points: SampledPoints


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    # Losses are computed for every layer whether or not use_auxiliary_loss says so, as in the reference.
    r.inert("init_std", "init_xavier_std", "ignore_value", "use_auxiliary_loss")
    dim, heads = read_width(r, "hidden_dim", 256, "num_attention_heads", 8, also=("hidden_size",))
    if dim % 4:
        raise r.fail("hidden_dim", "a multiple of 4 for sine positions", dim)
    wide, dropout = read_channels(r, "feature_size", 256), r.probability("dropout", 0.0)
    if wide % heads:
        raise r.fail("feature_size", f"a multiple of {heads} (num_attention_heads)", wide)
    reader = MapReader(
        dim=wide,
        out=r.integer("mask_feature_size", 256),
        heads=heads,
        layers=r.layers("encoder_layers", 6),
        hidden=r.integer("encoder_feedforward_dim", 1024),
        eps=1e-5,
        extra=MapReader.read_extra(r, "feature_strides"),
        dropout=partial(nn.Dropout, dropout),
    )
    layers = MaskedLayers(
        kind=MaskedPreNorm if r.flag("pre_norm", False) else MaskedPostNorm,
        dim=dim,
        heads=heads,
        hidden=r.integer("dim_feedforward", 2048),
        act=r.choice("activation_function", ACTIVATIONS, "relu"),
        dropout=dropout,
        eps=1e-5,
    )
    return Config(
        backbone=read_backbone(r, SWIN),
        reader=reader,
        queries=r.integer("num_queries", 100),
        layers=layers,
        count=r.layers("decoder_layers", 10, also=("num_hidden_layers",), least=1) - 1,
        projected=r.flag("enforce_input_projection", False),
        shows=r.flag("output_auxiliary_logits", False),
        weights=(
            r.number("class_weight", 2.0),
            r.number("mask_weight", 5.0),
            r.number("dice_weight", 5.0),
            r.number("no_object_weight", 0.1),
        ),
        points=SampledPoints.read(r),
    )


def build(c: Config) -> Mask2FormerCore:
    """The model without a head."""
    backbone, channels, dim = c.backbone.build(), c.backbone.channels, c.layers.dim
    if len(channels) < LEVELS:
        raise ConfigError("three maps are read", where="backbone_config", expected=f">= {LEVELS}", found=len(channels))
    return Mask2FormerCore(
        pixel_level_module=PixelLevel(encoder=backbone, decoder=c.reader.build(channels)),
        transformer_module=QueryModule(
            queries_embedder=nn.Embedding(c.queries, dim),
            queries_features=nn.Embedding(c.queries, dim),
            memories=MapMemories.over(c.reader.dim, dim, projected=c.projected),
            decoder=MaskedDecoder(
                layers=c.layers.build(c.count),
                layernorm=nn.LayerNorm(dim),
                mask_embedder=ReluStack(dim, dim, dim, c.reader.out),
                layerdrop=c.layers.dropout,
            ),
        ),
    )


def segmenter(c: Config, common: Common) -> Mask2Former:
    """A class, or none, and a mask per query."""
    of_class, of_mask, of_dice, of_none = c.weights
    criterion = MaskSetLoss(
        common.num_labels,
        c.points,
        class_cost=of_class,
        class_weight=of_class,
        mask_weight=of_mask,
        dice_weight=of_dice,
        no_object_weight=of_none,
    )
    predictor = nn.Linear(c.layers.dim, common.num_labels + 1)
    return Mask2Former(model=build(c), class_predictor=predictor, criterion=criterion, shows_auxiliary=c.shows)


PIXELS, QUERIES = "pixel_level_module.decoder", "transformer_module"
LAYER = f"{QUERIES}.decoder.layers.{{i}}"


def keys(c: Config) -> KeyMap:
    """Where the weights live."""
    rules: dict[str, Rule] = {
        f"{QUERIES}.memories.projections": f"{QUERIES}.input_projections",
        f"{QUERIES}.memories.level_embed": f"{QUERIES}.level_embed",
        f"{QUERIES}.decoder.mask_embedder.layers.{{i}}": f"{QUERIES}.decoder.mask_predictor.mask_embedder.{{i}}.0",
        f"{LAYER}.self_attn.o_proj": f"{LAYER}.self_attn.out_proj",
        **{f"{LAYER}.mlp.{fc}": f"{LAYER}.{fc}" for fc in ("fc1", "fc2")},
        **in_projection(f"{LAYER}.cross_attn", f"{LAYER}.cross_attn"),
    }
    backbone = c.backbone.keys.under("pixel_level_module.encoder", "pixel_level_module.encoder")
    steps = len(c.backbone.channels[: c.reader.extra])
    return KeyMap(rules) | backbone | KeyMap(reader_keys(steps)).under(PIXELS, PIXELS)


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Queries and marks begin at random, layers so that they keep a signal's variance, the rest as torch's own."""
    inside = path.removeprefix("model.")
    gain = float(cast(float, config.get("init_xavier_std", 1.0)))
    if inside.endswith(("queries_embedder.weight", "queries_features.weight", "level_embed.weight")):
        return 1.0
    if ".mask_embedder." in inside:
        width = cast(Config, config.spec).layers.dim
        return lambda x: nn.init.uniform_(x, -(width**-0.5), width**-0.5)
    projected = inside.startswith(f"{QUERIES}.memories.projections")
    layered = inside.startswith(f"{QUERIES}.decoder.layers.") and "norm" not in inside
    if path.endswith(".weight") and (projected or layered):
        # Where the three projections of an attention are one matrix, its outputs are three times as many.
        joint = ".cross_attn." in inside and ".o_proj." not in inside
        return lambda x: nn.init.xavier_uniform_(x, gain=gain * (0.5**0.5 if joint else 1.0))
    return None


FAMILY = (
    Builder("mask2former", read, keys, prefix="model")
    .public(
        config="Mask2FormerConfig",
        image_processor="Mask2FormerImageProcessor",
        row="instance, semantic and panoptic segmentation",
        usual={"init_std": 0.02, "init_xavier_std": 1.0, "ignore_value": 255, "use_auxiliary_loss": True},
    )
    .begins(beginning)
    .base("Mask2FormerModel", build)
    .head("Mask2FormerForUniversalSegmentation", "universal-segmentation", segmenter)
    .done()
)
