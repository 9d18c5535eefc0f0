"""Deformable DETR (https://arxiv.org/abs/2010.04159)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.deformable_detector import (
    DeformableDetector,
    DeformableObjectDetector,
    LearnedStart,
    PointDecoder,
    ProposedStart,
    ProposingDecoder,
    RefiningPointDecoder,
)
from omniform.architectures.detector import QueryEncoder
from omniform.architectures.family import Builder
from omniform.architectures.hybrid_detector import Perceptron
from omniform.architectures.parts import SIDE_KEYS, Sides
from omniform.architectures.sigmoid_sets import FocalSetLoss
from omniform.blocks.deformable import DeformableAttention, DeformableCrossAttention
from omniform.blocks.layers import CrossPostNorm, PostNorm
from omniform.blocks.positioned import LearnedPlaces, PositionedAttention, SinePlaces
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.models import detr
from omniform.models.backbones import NestedBackbone, read_backbone
from omniform.weights.init import normal
from omniform.weights.keymap import KeyMap

GROUPS = 32
"""Of the norms of the projected maps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Deformable DETR computes.

    Attributes:
        levels: how many maps it looks at.
        points: at how many places of each a head looks, in the encoder and in the decoder.
        proposals: how many queries the encoder's places propose; None where queries are learned.
        refines: whether every decoder layer moves the queries.
        tied: whether heads that could be one are one.
    """

    backbone: NestedBackbone
    queries: int
    places: str
    sides: Sides
    levels: int
    points: tuple[int, int]
    proposals: int | None
    refines: bool
    tied: bool
    auxiliary: bool
    loss: FocalSetLoss


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("max_position_embeddings", "init_std", "init_xavier_std", "return_intermediate", "disable_custom_kernels")
    r.inert("eos_coefficient", "num_channels", "encoder_layerdrop")
    sides = Sides.read(r, dim=256, layers=6, heads=8, hidden=1024, act="relu", least=1)
    if sides.dim % GROUPS:
        raise r.fail("d_model", f"a multiple of {GROUPS}", sides.dim)
    levels = r.integer("num_feature_levels", 4)
    timm: dict[str, object] = {"num_channels": 3, "out_indices": [2, 3, 4] if levels > 1 else [4]}
    if r.flag("dilation", False):
        timm["output_stride"] = 16
    two_stage, refines = r.flag("two_stage", False), r.flag("with_box_refine", False)
    if two_stage and not refines:
        raise r.fail("with_box_refine", "true, where two_stage is", False)
    proposals = r.integer("two_stage_num_proposals", 300)
    return Config(
        backbone=read_backbone(r, timm=timm),
        queries=r.integer("num_queries", 300),
        places=r.choice("position_embedding_type", ("sine", "learned"), "sine"),
        sides=sides,
        levels=levels,
        points=(r.integer("encoder_n_points", 4), r.integer("decoder_n_points", 4)),
        proposals=proposals if two_stage else None,
        refines=refines,
        tied=r.flag("tie_word_embeddings", True),
        auxiliary=r.flag("auxiliary_loss", False),
        loss=FocalSetLoss.read(r),
    )


def projections(dim: int, channels: tuple[int, ...], levels: int) -> nn.ModuleList:
    """What brings maps to one width, and makes coarser ones of the last until there are as many as levels.

    Args:
        dim: that width.
        channels: of the backbone's maps.

    Raises:
        ConfigError: there are more maps than levels.
    """
    widths = channels if levels > 1 else channels[-1:]
    if len(widths) > levels:
        raise ConfigError(
            "the backbone gives more maps than there are levels",
            where="num_feature_levels",
            expected=f"{len(widths)} or more",
            found=levels,
        )
    made, inner = [nn.Conv2d(width, dim, 1) for width in widths], widths[-1]
    for _ in range(levels - len(widths)):
        made.append(nn.Conv2d(inner, dim, 3, stride=2, padding=1))
        inner = dim
    return nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(GROUPS, dim)) for conv in made)


def _decoder_layers(c: Config) -> nn.ModuleList:
    sides, dim, heads = c.sides, c.sides.dim, c.sides.decoder.heads

    def layer() -> CrossPostNorm:
        own = PositionedAttention(dim, heads, rule=Full(), dropout=sides.attention_dropout)
        return sides.crossed(CrossPostNorm, own, DeformableCrossAttention(dim, heads, c.levels, c.points[1]))

    return nn.ModuleList(layer() for _ in range(sides.decoder.layers))


def _model(c: Config, decoder: PointDecoder) -> DeformableDetector:
    sides, dim = c.sides, c.sides.dim
    encoder_layers = (
        sides.encoder_layer(PostNorm, DeformableAttention(dim, sides.encoder.heads, c.levels, c.points[0]))
        for _ in range(sides.encoder.layers)
    )
    start: LearnedStart | ProposedStart
    if c.proposals is None:
        table, points = nn.Embedding(c.queries, 2 * dim), nn.Linear(dim, 2)
        start = LearnedStart(query_position_embeddings=table, reference_points=points)
    else:
        start = ProposedStart(
            enc_output=nn.Linear(dim, dim),
            enc_output_norm=nn.LayerNorm(dim),
            pos_trans=nn.Linear(2 * dim, 2 * dim),
            pos_trans_norm=nn.LayerNorm(2 * dim),
            proposals=c.proposals,
        )
    return DeformableDetector(
        backbone=c.backbone.build_frozen(),
        position_embedding=SinePlaces(dim, shift=0.5) if c.places == "sine" else LearnedPlaces(dim),
        input_proj=projections(dim, c.backbone.channels, c.levels),
        level_embed=nn.Embedding(c.levels, dim),
        start=start,
        encoder=QueryEncoder(layers=nn.ModuleList(encoder_layers), dropout=sides.dropout),
        decoder=decoder,
    )


def build(c: Config) -> DeformableDetector:
    """The detector without heads."""
    if c.proposals is not None:
        raise ConfigError(
            "without heads no place can propose queries",
            where="two_stage",
            expected="false",
            found="true",
            remedy="Load DeformableDetrForObjectDetection; its model is this one.",
        )
    return _model(c, PointDecoder(layers=_decoder_layers(c)))


def object_detector(c: Config, common: Common) -> DeformableObjectDetector:
    """A class and a box per query."""
    dim, count = c.sides.dim, c.sides.decoder.layers + (c.proposals is not None)

    def scorers(one: bool) -> nn.ModuleList:
        made = [nn.Linear(dim, common.num_labels) for _ in range(1 if one else count)]
        return nn.ModuleList(made * count if one else made)

    def movers(one: bool) -> nn.ModuleList:
        made = [Perceptron(dim, dim, dim, 4) for _ in range(1 if one else count)]
        return nn.ModuleList(made * count if one else made)

    layers = _decoder_layers(c)
    # What the decoder has is its own; where heads are tied, those that answer are the same.
    class_embed, bbox_embed = scorers(c.tied and c.proposals is None), movers(c.tied and not c.refines)
    inner = {"bbox_embed": bbox_embed if c.tied else movers(False)} if c.refines else {}
    decoder: PointDecoder
    if c.proposals is not None:
        scoring = class_embed if c.tied else scorers(False)
        decoder = ProposingDecoder(layers=layers, class_embed=scoring, **inner)
    elif c.refines:
        decoder = RefiningPointDecoder(layers=layers, **inner)
    else:
        decoder = PointDecoder(layers=layers)
    return DeformableObjectDetector(
        model=_model(c, decoder), class_embed=class_embed, bbox_embed=bbox_embed, loss=c.loss, auxiliary=c.auxiliary
    )


def keys(c: Config) -> KeyMap:
    """Where the weights live."""
    stack, backbone = KeyMap(SIDE_KEYS), c.backbone.bare_keys.under("backbone", "backbone.conv_encoder.model")
    own = KeyMap(
        {"start": "", "level_embed.weight": "level_embed"},
        # Heads of the decoder, in a checkpoint that is read without them.
        ignored=(r"(^|\.)decoder\.(class|bbox)_embed\.",),
    )
    return backbone | stack.under("encoder", "encoder") | stack.under("decoder", "decoder") | own | detr.OLD_NAMES


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Vectors of maps, and places on two axes, have distributions of their own."""
    if path.endswith("level_embed.weight"):
        return normal(1.0)
    if path.endswith("start.reference_points.weight"):
        return nn.init.xavier_uniform_
    if path.endswith(("row_embeddings.weight", "column_embeddings.weight")):
        return nn.init.uniform_
    return None


FAMILY = (
    Builder("deformable_detr", read, keys, prefix="model")
    .public(
        config="DeformableDetrConfig",
        image_processor="DeformableDetrImageProcessor",
        row="object detection",
        usual={
            "is_encoder_decoder": True,
            "init_std": 0.02,
            "init_xavier_std": 1.0,
            "num_channels": 3,
            "eos_coefficient": 0.1,
            "max_position_embeddings": 1024,
            "disable_custom_kernels": False,
            "return_intermediate": True,
        },
    )
    .begins(beginning)
    .base("DeformableDetrModel", build)
    .head("DeformableDetrForObjectDetection", "object-detection", object_detector)
    .done()
)
