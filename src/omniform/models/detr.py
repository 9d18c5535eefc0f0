"""DETR (https://arxiv.org/abs/2005.12872)."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
from omniform.architectures.segmenter import AttentionMap, MaskHead, Segmenter
from omniform.blocks.layers import CrossPostNorm, PostNorm
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.blocks.positioned import LearnedPlaces, PositionedAttention, PositionedCrossAttention, SinePlaces
from omniform.blocks.resnet import ResNet
from omniform.core.config import Common
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.models.backbones import Backbone, read_backbone
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a DETR computes."""

    backbone: Backbone
    dim: int
    queries: int
    places: str
    encoder_layers: int
    encoder_heads: int
    encoder_hidden: int
    decoder_layers: int
    decoder_heads: int
    decoder_hidden: int
    act: str
    dropout: float
    attention_dropout: float
    activation_dropout: float
    deep: bool
    loss: SetLoss


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("encoder_layerdrop", "decoder_layerdrop", "init_std", "init_xavier_std", "classifier_dropout")
    r.inert("max_position_embeddings", "scale_embedding", "tie_word_embeddings")
    dim = r.integer("d_model", 256, also=("hidden_size",))
    places = r.choice("position_embedding_type", ("sine", "learned"), "sine")
    parts = 4 if places == "sine" else 2  # rows and columns, and of each a sine and a cosine
    if dim % parts:
        raise r.fail("d_model", f"a multiple of {parts} for {places} positions", dim)
    heads = r.integer("encoder_attention_heads", 8, also=("num_attention_heads",))
    decoder_heads = r.integer("decoder_attention_heads", 8)
    for name, count in (("encoder_attention_heads", heads), ("decoder_attention_heads", decoder_heads)):
        if dim % count:
            raise r.fail(name, f"a divisor of {dim} (d_model)", count)
    return Config(
        backbone=read_backbone(r),
        dim=dim,
        queries=r.integer("num_queries", 100),
        places=places,
        encoder_layers=r.layers("encoder_layers", 6, also=("num_hidden_layers",)),
        encoder_heads=heads,
        encoder_hidden=r.integer("encoder_ffn_dim", 2048),
        decoder_layers=r.layers("decoder_layers", 6, least=1),
        decoder_heads=decoder_heads,
        decoder_hidden=r.integer("decoder_ffn_dim", 2048),
        act=r.choice("activation_function", ACTIVATIONS, "relu"),
        dropout=r.probability("dropout", 0.1),
        attention_dropout=r.probability("attention_dropout"),
        activation_dropout=r.probability("activation_dropout"),
        deep=r.flag("auxiliary_loss", False),
        loss=SetLoss(
            class_cost=r.number("class_cost", 1),
            bbox_cost=r.number("bbox_cost", 5),
            giou_cost=r.number("giou_cost", 2),
            bbox_weight=r.number("bbox_loss_coefficient", 5),
            giou_weight=r.number("giou_loss_coefficient", 2),
            mask_weight=r.number("mask_loss_coefficient", 1),
            dice_weight=r.number("dice_loss_coefficient", 1),
            no_object_weight=r.number("eos_coefficient", 0.1),
        ),
    )


def build(c: Config) -> QueryDetector:
    """The detector without heads."""

    def attention(heads: int) -> PositionedAttention:
        return PositionedAttention(c.dim, heads, rule=Full(), dropout=c.attention_dropout)

    def mlp(hidden: int) -> MLP:
        return MLP(c.dim, hidden, c.act, dropout=c.activation_dropout)

    def encoder_layer() -> PostNorm:
        return PostNorm(
            self_attn=attention(c.encoder_heads),
            self_attn_layer_norm=nn.LayerNorm(c.dim),
            mlp=mlp(c.encoder_hidden),
            final_layer_norm=nn.LayerNorm(c.dim),
            dropout=c.dropout,
        )

    def decoder_layer() -> CrossPostNorm:
        return CrossPostNorm(
            self_attn=attention(c.decoder_heads),
            self_attn_layer_norm=nn.LayerNorm(c.dim),
            encoder_attn=PositionedCrossAttention(c.dim, c.decoder_heads, dropout=c.attention_dropout),
            encoder_attn_layer_norm=nn.LayerNorm(c.dim),
            mlp=mlp(c.decoder_hidden),
            final_layer_norm=nn.LayerNorm(c.dim),
            dropout=c.dropout,
        )

    decoder = DeepQueryDecoder if c.deep else QueryDecoder
    return QueryDetector(
        backbone=ResNet(c.backbone.spec),
        input_projection=nn.Conv2d(c.backbone.spec.output_channels[-1], c.dim, kernel_size=1),
        position_embedding=SinePlaces(c.dim) if c.places == "sine" else LearnedPlaces(c.dim),
        encoder=QueryEncoder((encoder_layer() for _ in range(c.encoder_layers)), dropout=c.dropout),
        query_position_embeddings=nn.Embedding(c.queries, c.dim),
        decoder=decoder((decoder_layer() for _ in range(c.decoder_layers)), nn.LayerNorm(c.dim)),
    )


def object_detector(c: Config, common: Common) -> ObjectDetector:
    """A class, or none, and a box per query."""
    return ObjectDetector(
        model=build(c),
        class_labels_classifier=nn.Linear(c.dim, common.num_labels + 1),
        bbox_predictor=BoxHead(c.dim),
        loss=c.loss,
    )


def segmenter(c: Config, common: Common) -> Segmenter:
    """A class, or none, a box and an outline per query."""
    fine = c.backbone.spec.output_channels[2::-1]
    if len(fine) < 3:
        raise ConfigError("outlines need finer maps", where="backbone_config", expected="3 or more", found=len(fine))
    head = MaskHead(c.dim, c.encoder_heads, fine, c.act)
    return Segmenter(
        model=object_detector(c, common), bbox_attention=AttentionMap(c.dim, c.encoder_heads), mask_head=head
    )


def keys(c: Config) -> KeyMap:
    """Where the weights live; the backbone's names depend on which library it came from."""
    return c.backbone.keys.under("backbone", "backbone.conv_encoder.model") | KeyMap(
        {
            f"{stack}.layers.{{i}}.{ours}": f"{stack}.layers.{{i}}.{theirs}"
            for stack in ("encoder", "decoder")
            for ours, theirs in (
                ("self_attn.o_proj", "self_attn.out_proj"),
                ("encoder_attn.o_proj", "encoder_attn.out_proj"),
                ("mlp.fc1", "fc1"),
                ("mlp.fc2", "fc2"),
            )
        },
        aliases=(
            # Where the learned positions were, and the names inside newer releases.
            (r"backbone\.position_embedding\.", "position_embedding."),
            (r"backbone\.model\.", "backbone.conv_encoder.model."),
            (r"\.o_proj\.", ".out_proj."),
            (r"\.mlp\.(fc[12])\.", r".\1."),
            # Out of a checkpoint with outlines.
            (r"^detr\.model\.", ""),
        ),
    )


MASK_HEAD = {
    "bbox_attention.q_proj": "bbox_attention.q_linear",
    "bbox_attention.k_proj": "bbox_attention.k_linear",
    "mask_head.conv1.conv": "mask_head.lay1",
    "mask_head.conv1.norm": "mask_head.gn1",
    "mask_head.conv2.conv": "mask_head.lay2",
    "mask_head.conv2.norm": "mask_head.gn2",
    "mask_head.fpn_stages.0.fpn_adapter": "mask_head.adapter1",
    "mask_head.fpn_stages.0.refine.conv": "mask_head.lay3",
    "mask_head.fpn_stages.0.refine.norm": "mask_head.gn3",
    "mask_head.fpn_stages.1.fpn_adapter": "mask_head.adapter2",
    "mask_head.fpn_stages.1.refine.conv": "mask_head.lay4",
    "mask_head.fpn_stages.1.refine.norm": "mask_head.gn4",
    "mask_head.fpn_stages.2.fpn_adapter": "mask_head.adapter3",
    "mask_head.fpn_stages.2.refine.conv": "mask_head.lay5",
    "mask_head.fpn_stages.2.refine.norm": "mask_head.gn5",
    "mask_head.output_conv": "mask_head.out_lay",
}


def segmenter_keys(c: Config) -> KeyMap:
    """Where the weights of a detector with outlines live; our own names are those inside newer releases."""
    aliases = [(rf"^{re.escape(ours)}\.", f"{theirs}.") for ours, theirs in MASK_HEAD.items()]
    # Out of a checkpoint without heads.
    aliases.append((r"^(backbone|encoder|decoder|\w+_projection|\w+_embeddings?)\.", r"detr.model.\1."))
    return keys(c).under("model", "model").under("model", "detr") | KeyMap(MASK_HEAD, aliases)


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
    .base("DetrModel", build)
    .head("DetrForObjectDetection", "object-detection", object_detector)
    .architecture("DetrForSegmentation", ("image-segmentation",), segmenter, segmenter_keys, prefix="detr")
    .done()
)
