"""DETR (https://arxiv.org/abs/2005.12872)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

from torch import nn

from omniform.architectures.detection import SetLoss
from omniform.architectures.detector import (
    BoxHead,
    DeepQueryDecoder,
    ObjectDetector,
    QueryDecoder,
    QueryDetector,
    QueryEncoder,
)
from omniform.architectures.family import Builder
from omniform.architectures.parts import SIDE_KEYS, Sides
from omniform.architectures.segmenter import MASK_HEAD_KEYS, AttentionMap, MaskHead, Segmenter
from omniform.blocks.layers import CrossPostNorm, PostNorm
from omniform.blocks.positioned import LearnedPlaces, PositionedAttention, PositionedCrossAttention, SinePlaces
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.models.backbones import NestedBackbone, read_detr_backbone
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a DETR computes."""

    backbone: NestedBackbone
    queries: int
    places: str
    sides: Sides
    deep: bool
    loss: SetLoss


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    return read_detr(r, SetLoss.read(r))


def read_detr(r: ConfigReader, loss: SetLoss, *, queries: int = 100) -> Config:
    """The fields that DETR and those after it have; ``queries``: how many there are by default."""
    # DETR reads the first two and drops no layer.
    r.inert("encoder_layerdrop", "decoder_layerdrop", "init_std", "init_xavier_std", "classifier_dropout")
    r.inert("max_position_embeddings", "scale_embedding", "tie_word_embeddings")
    sides = Sides.read(r, dim=256, layers=6, heads=8, hidden=2048, act="relu", least=1)
    places = r.choice("position_embedding_type", ("sine", "learned"), "sine")
    parts = 4 if places == "sine" else 2  # rows and columns, and of each a sine and a cosine
    if sides.dim % parts:
        raise r.fail("d_model", f"a multiple of {parts} for {places} positions", sides.dim)
    return Config(
        backbone=read_detr_backbone(r),
        queries=r.integer("num_queries", queries),
        places=places,
        sides=sides,
        deep=r.flag("auxiliary_loss", False),
        loss=loss,
    )


def build(c: Config) -> QueryDetector:
    """The detector without heads."""
    sides, dim, dropout = c.sides, c.sides.dim, c.sides.attention_dropout

    def attention(heads: int) -> PositionedAttention:
        return PositionedAttention(dim, heads, rule=Full(), dropout=dropout)

    def decoder_layer(heads: int) -> CrossPostNorm:
        encoder_attn = PositionedCrossAttention(dim, heads, dropout=dropout)
        return sides.crossed(CrossPostNorm, attention(heads), encoder_attn)

    decoder = DeepQueryDecoder if c.deep else QueryDecoder
    encoder_layers = (
        sides.encoder_layer(PostNorm, attention(sides.encoder.heads)) for _ in range(sides.encoder.layers)
    )
    decoder_layers = (decoder_layer(sides.decoder.heads) for _ in range(sides.decoder.layers))
    return QueryDetector(
        backbone=c.backbone.build_frozen(),
        input_projection=nn.Conv2d(c.backbone.channels[-1], dim, kernel_size=1),
        position_embedding=places_of(c),
        encoder=QueryEncoder(layers=nn.ModuleList(encoder_layers), dropout=sides.dropout),
        query_position_embeddings=nn.Embedding(c.queries, dim),
        decoder=decoder(layers=nn.ModuleList(decoder_layers), layernorm=sides.norm()),
    )


def places_of(c: Config) -> SinePlaces | LearnedPlaces:
    """Position vectors of a map."""
    return SinePlaces(c.sides.dim) if c.places == "sine" else LearnedPlaces(c.sides.dim)


def object_detector(c: Config, common: Common) -> ObjectDetector:
    """A class, or none, and a box per query."""
    return ObjectDetector(
        model=build(c),
        class_labels_classifier=nn.Linear(c.sides.dim, common.num_labels + 1),
        bbox_predictor=BoxHead(c.sides.dim),
        loss=c.loss,
    )


def segmenter(c: Config, common: Common) -> Segmenter:
    """A class, or none, a box and an outline per query."""
    return outlined(c, object_detector(c, common))


def outlined(c: Config, detector: ObjectDetector) -> Segmenter:
    """A detector with what draws outlines."""
    fine = c.backbone.channels[2::-1]
    if len(fine) < 3:
        raise ConfigError("outlines need finer maps", where="backbone_config", expected="3 or more", found=len(fine))
    return Segmenter(
        model=detector,
        bbox_attention=AttentionMap(c.sides.dim, c.sides.encoder.heads),
        mask_head=MaskHead(c.sides.dim, c.sides.encoder.heads, fine, c.sides.act),
    )


OLD_NAMES = KeyMap(
    {},
    aliases=(
        # Where the learned positions were, and the names inside newer releases.
        (r"backbone\.position_embedding\.", "position_embedding."),
        (r"backbone\.model\.", "backbone.conv_encoder.model."),
        (r"\.o_proj\.", ".out_proj."),
        (r"\.mlp\.(fc[12])\.", r".\1."),
        # Out of a checkpoint with outlines.
        (r"^(conditional_)?detr\.model\.", ""),
    ),
    modules=(
        (r"(^|\.)backbone\.conv_encoder\.model(?=\.|$)", r"\1backbone.model"),
        (r"(self|encoder)_attn\.out_proj", r"\1_attn.o_proj"),
        (r"(layers\.\d+)\.(?=fc[12](\.|$))", r"\1.mlp."),
    ),
)


def keys(c: Config) -> KeyMap:
    """Where the weights live; the backbone's names depend on which library it came from."""
    stack, backbone = KeyMap(SIDE_KEYS), c.backbone.bare_keys.under("backbone", "backbone.conv_encoder.model")
    return backbone | stack.under("encoder", "encoder") | stack.under("decoder", "decoder") | OLD_NAMES


def segmenter_keys(c: Config) -> KeyMap:
    """Where the weights of a detector with outlines live."""
    return outlined_keys(keys(c), "detr")


def outlined_keys(base: KeyMap, name: str) -> KeyMap:
    """Where the weights of a detector with outlines live; our own names are those inside newer releases.

    Args:
        base: where those of the detector without heads live.
        name: what checkpoints call the detector.
    """
    aliases = [(rf"^{re.escape(ours)}\.", f"{theirs}.") for ours, theirs in MASK_HEAD_KEYS.items()]
    modules = [(rf"^{re.escape(theirs)}(?=\.|$)", ours) for ours, theirs in MASK_HEAD_KEYS.items()]
    # Out of a checkpoint without heads.
    aliases.append((r"^(backbone|encoder|decoder|\w+_projection|\w+_embeddings?)\.", rf"{name}.model.\1."))
    return base.under("model", "model").under("model", name) | KeyMap(MASK_HEAD_KEYS, aliases, modules=modules)


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """The parts that draw outlines, and places on two axes, have distributions of their own."""
    if path.endswith(("row_embeddings.weight", "column_embeddings.weight")):
        return nn.init.uniform_
    if path.startswith("mask_head.") and path.endswith(".weight"):
        return lambda x: nn.init.kaiming_uniform_(x, a=1) if x.dim() == 4 else x.fill_(1.0)
    if path.startswith("bbox_attention.") and path.endswith(".weight"):
        return lambda x: nn.init.xavier_uniform_(x, gain=float(cast(float, config.get("init_xavier_std", 1.0))))
    return None


FAMILY = (
    Builder("detr", read, keys, prefix="model")
    .public(
        config="DetrConfig",
        image_processor="DetrImageProcessor",
        row="object detection, segmentation (Hub's and timm's ResNet backbones)",
        usual={
            "is_encoder_decoder": True,
            "init_std": 0.02,
            "init_xavier_std": 1.0,
            "encoder_layerdrop": 0.0,
            "decoder_layerdrop": 0.0,
        },
    )
    .begins(beginning)
    .base("DetrModel", build)
    .head("DetrForObjectDetection", "object-detection", object_detector)
    .architecture(
        "DetrForSegmentation",
        ("image-segmentation", "universal-segmentation"),
        segmenter,
        segmenter_keys,
        prefix="detr",
    )
    .done()
)
