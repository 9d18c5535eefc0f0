"""Table Transformer (https://arxiv.org/abs/2110.00061): a DETR with norms before each branch."""

from __future__ import annotations

from torch import nn

from omniform.architectures.detector import (
    BoxHead,
    NormedQueryEncoder,
    NormNotingQueryDecoder,
    ObjectDetector,
    QueryDecoder,
    QueryDetector,
)
from omniform.architectures.family import Builder
from omniform.blocks.layers import CrossPreNorm, PreNorm
from omniform.blocks.positioned import PositionedAttention, PositionedCrossAttention
from omniform.core.config import Common
from omniform.core.rules import Full
from omniform.models import detr
from omniform.models.detr import Config, places_of
from omniform.weights.keymap import KeyMap


def build(c: Config) -> QueryDetector:
    """The detector without heads."""
    sides, dim, dropout = c.sides, c.sides.dim, c.sides.attention_dropout

    def attention(heads: int) -> PositionedAttention:
        return PositionedAttention(dim, heads, rule=Full(), dropout=dropout)

    def decoder_layer(heads: int) -> CrossPreNorm:
        across = PositionedCrossAttention(dim, heads, dropout=dropout)
        return sides.crossed(CrossPreNorm, attention(heads), across)

    encoder_layers = (sides.encoder_layer(PreNorm, attention(sides.encoder.heads)) for _ in range(sides.encoder.layers))
    decoder_layers = (decoder_layer(sides.decoder.heads) for _ in range(sides.decoder.layers))
    decoder = NormNotingQueryDecoder if c.deep else QueryDecoder
    return QueryDetector(
        backbone=c.backbone.build_frozen(),
        input_projection=nn.Conv2d(c.backbone.channels[-1], dim, kernel_size=1),
        position_embedding=places_of(c),
        encoder=NormedQueryEncoder(
            layers=nn.ModuleList(encoder_layers),
            dropout=sides.dropout,
            layernorm=sides.norm(),
            layerdrop=sides.encoder.layerdrop,
        ),
        query_position_embeddings=nn.Embedding(c.queries, dim),
        decoder=decoder(
            layers=nn.ModuleList(decoder_layers), layernorm=sides.norm(), layerdrop=sides.decoder.layerdrop
        ),
    )


def object_detector(c: Config, common: Common) -> ObjectDetector:
    """A class, or none, and a box per query."""
    return ObjectDetector(
        model=build(c),
        class_labels_classifier=nn.Linear(c.sides.dim, common.num_labels + 1),
        bbox_predictor=BoxHead(c.sides.dim),
        loss=c.loss,
    )


def keys(c: Config) -> KeyMap:
    """Where the weights live: positions in the backbone, as the first releases of DETR had them."""
    base = detr.keys(c)
    return KeyMap({**base.rules, "position_embedding": "backbone.position_embedding"})


FAMILY = (
    Builder("table-transformer", detr.read, keys, prefix="model")
    .public(
        config="TableTransformerConfig",
        image_processor="DetrImageProcessor",
        row="object detection in tables",
        usual={"is_encoder_decoder": True, "init_std": 0.02, "init_xavier_std": 1.0},
    )
    .begins(detr.beginning)
    .base("TableTransformerModel", build)
    .head("TableTransformerForObjectDetection", "object-detection", object_detector)
    .done()
)
