"""Conditional DETR (https://arxiv.org/abs/2108.06152)."""

from __future__ import annotations

from torch import nn

from omniform.architectures.conditional_detector import (
    ConditionalDecoder,
    ConditionalDetector,
    ConditionalObjectDetector,
    DeepConditionalDecoder,
)
from omniform.architectures.detector import BoxHead, ObjectDetector, QueryEncoder
from omniform.architectures.family import Builder
from omniform.architectures.hybrid_detector import Perceptron
from omniform.architectures.segmenter import Segmenter
from omniform.architectures.sigmoid_sets import FocalSetLoss, SoftmaxMatchedSetLoss
from omniform.blocks.conditional import (
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    FirstConditionalCrossAttention,
)
from omniform.blocks.layers import CrossPostNorm, PostNorm
from omniform.blocks.positioned import PositionedAttention
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.models import detr
from omniform.models.detr import Config, outlined, outlined_keys, places_of, read_detr
from omniform.weights.keymap import KeyMap


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("cls_loss_coefficient")  # the reference reads it, and classes weigh 1
    return read_detr(r, FocalSetLoss.read(r, class_cost=2), queries=300)


def _loss(c: Config) -> FocalSetLoss:
    assert isinstance(c.loss, FocalSetLoss)
    return c.loss


def build(c: Config) -> ConditionalDetector:
    """The detector without heads."""
    sides, dim, dropout = c.sides, c.sides.dim, c.sides.attention_dropout

    def encoder_layer() -> PostNorm:
        attention = PositionedAttention(dim, sides.encoder.heads, rule=Full(), dropout=dropout)
        return sides.encoder_layer(PostNorm, attention)

    def decoder_layer(across: type[ConditionalCrossAttention]) -> CrossPostNorm:
        heads = sides.decoder.heads
        own = ConditionalSelfAttention(dim, heads, dropout=dropout)
        return sides.crossed(CrossPostNorm, own, across(dim, heads, dropout=dropout))

    kinds = [FirstConditionalCrossAttention, *[ConditionalCrossAttention] * (sides.decoder.layers - 1)]
    decoder = DeepConditionalDecoder if c.deep else ConditionalDecoder
    return ConditionalDetector(
        backbone=c.backbone.build_frozen(),
        input_projection=nn.Conv2d(c.backbone.channels[-1], dim, kernel_size=1),
        position_embedding=places_of(c),
        encoder=QueryEncoder(
            layers=nn.ModuleList(encoder_layer() for _ in range(sides.encoder.layers)), dropout=sides.dropout
        ),
        query_position_embeddings=nn.Embedding(c.queries, dim),
        decoder=decoder(
            layers=nn.ModuleList(decoder_layer(kind) for kind in kinds),
            layernorm=sides.norm(),
            layerdrop=sides.decoder.layerdrop,
            query_scale=Perceptron(dim, dim, dim),
            ref_point_head=Perceptron(dim, dim, 2),
        ),
    )


def object_detector(c: Config, common: Common) -> ConditionalObjectDetector:
    """A class and a box per query."""
    dim = c.sides.dim
    return ConditionalObjectDetector(
        model=build(c),
        class_labels_classifier=nn.Linear(dim, common.num_labels),
        bbox_predictor=Perceptron(dim, dim, dim, 4),
        loss=_loss(c),
    )


def segmenter(c: Config, common: Common) -> Segmenter:
    """A class, a box and an outline per query; boxes are not told from where queries stand."""
    dim = c.sides.dim
    detector = ObjectDetector(
        model=build(c),
        class_labels_classifier=nn.Linear(dim, common.num_labels),
        bbox_predictor=BoxHead(dim),
        loss=SoftmaxMatchedSetLoss.of(_loss(c)),
    )
    return outlined(c, detector)


SHORT = {"self_attn": "sa", "encoder_attn": "ca"}
BESIDE = KeyMap(
    {
        **{
            f"decoder.layers.{{i}}.{ours}.{kind}": f"decoder.layers.{{i}}.{theirs}_{kind.replace('_', '', 1)}"
            for ours, theirs in SHORT.items()
            for kind in ("q_content_proj", "q_pos_proj", "k_content_proj", "k_pos_proj", "q_pos_sine_proj")
        },
        **{
            f"decoder.layers.{{i}}.{ours}.v_proj": f"decoder.layers.{{i}}.{theirs}_v_proj"
            for ours, theirs in SHORT.items()
        },
    },
    # The names inside newer releases.
    aliases=[
        pair
        for ours, theirs in SHORT.items()
        for pair in (
            (rf"\.{ours}\.([qk])_(content_proj|pos_proj|pos_sine_proj)\.", rf".{theirs}_\1\2."),
            (rf"(decoder\.layers\.\d+)\.{ours}\.v_proj\.", rf"\1.{theirs}_v_proj."),
        )
    ],
    modules=[
        pair
        for ours, theirs in SHORT.items()
        for pair in (
            (rf"\.{theirs}_([qk])(content_proj|pos_proj|pos_sine_proj)", rf".{ours}.\1_\2"),
            (rf"\.{theirs}_v_proj", rf".{ours}.v_proj"),
        )
    ],
)
"""Parts of the decoder's attention beside it, as the first releases had them."""


def keys(c: Config) -> KeyMap:
    """Where the weights live."""
    return detr.keys(c) | BESIDE


FAMILY = (
    Builder("conditional_detr", read, keys, prefix="model")
    .public(
        config="ConditionalDetrConfig",
        image_processor="ConditionalDetrImageProcessor",
        row="object detection, segmentation",
        usual={
            "is_encoder_decoder": True,
            "init_std": 0.02,
            "init_xavier_std": 1.0,
            "cls_loss_coefficient": 2,
        },
    )
    .begins(detr.beginning)
    .base("ConditionalDetrModel", build)
    .head("ConditionalDetrForObjectDetection", "object-detection", object_detector)
    .architecture(
        "ConditionalDetrForSegmentation",
        ("image-segmentation",),
        segmenter,
        lambda c: outlined_keys(keys(c), "conditional_detr"),
        prefix="conditional_detr",
    )
    .done()
)
