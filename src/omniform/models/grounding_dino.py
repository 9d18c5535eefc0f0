"""Grounding DINO (https://arxiv.org/abs/2303.05499): objects that a text names."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.detector import Places
from omniform.architectures.family import Builder
from omniform.architectures.grounded_detector import (
    BestPlaces,
    FixedStart,
    Fusion,
    FusionLayer,
    GroundedDecoder,
    GroundedDecoderLayer,
    GroundedDetector,
    GroundedEncoder,
    GroundedEncoderLayer,
    GroundedObjectDetector,
    WordAttention,
)
from omniform.architectures.grounded_loss import PhraseLoss
from omniform.architectures.hybrid_detector import Perceptron
from omniform.architectures.parts import Sides
from omniform.architectures.stack import TextEncoder
from omniform.blocks.deformable import DeformableAttention, DeformableCrossAttention
from omniform.blocks.layers import PostNorm
from omniform.blocks.mlp import MLP
from omniform.blocks.positioned import LearnedPlaces, PositionedAttention, WideSinePlaces
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.models.backbones import NestedBackbone, read_backbone
from omniform.models.deformable_detr import GROUPS, projections
from omniform.models.registry import Part
from omniform.weights.init import normal
from omniform.weights.keymap import KeyMap, Rule

SWIN = {"model_type": "swin", "out_indices": [2, 3, 4]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Grounding DINO computes.

    Attributes:
        places: how maps know places, ``"sine"`` or ``"learned"``; ``temperature``: of sines.
        proposes: whether the maps' places propose where queries stand.
        shared: whether all layers' boxes have one head.
        tied: whether the decoder's heads are those that answer.
    """

    backbone: NestedBackbone
    text: Part
    sides: Sides
    eps: float
    queries: int
    places: str
    temperature: float
    levels: int
    points: tuple[int, int]
    proposes: bool
    longest: int
    text_dropout: float
    fusion_dropout: float
    drop_path: float
    shared: bool
    tied: bool
    auxiliary: bool
    loss: PhraseLoss


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("init_std", "is_encoder_decoder", "disable_custom_kernels", "use_timm_backbone")
    sides = Sides.read(r, dim=256, layers=6, heads=8, hidden=2048, act="relu", least=1)
    for name, value, divisor in (
        ("d_model", sides.dim, GROUPS),
        ("encoder_attention_heads", sides.encoder.heads, 2),
        ("encoder_ffn_dim", sides.encoder.hidden, max(sides.encoder.heads, 2)),
    ):
        if value % divisor:
            raise r.fail(name, f"a multiple of {divisor}", value)
    r.only("embedding_init_target", True, why="queries are learned")
    r.only("query_dim", 4, why="queries stand in boxes")
    shared = r.flag("decoder_bbox_embed_share", True)
    if r.flag("two_stage_bbox_embed_share", False) and not shared:
        raise r.fail("decoder_bbox_embed_share", "true, where two_stage_bbox_embed_share is", False)
    return Config(
        backbone=read_backbone(r, SWIN),
        text=Part.of(r, "text_config", {"model_type": "bert"}),
        sides=sides,
        eps=r.number("layer_norm_eps", 1e-5),
        queries=r.integer("num_queries", 900),
        places=r.choice("position_embedding_type", ("sine", "learned"), "sine"),
        temperature=r.number("positional_embedding_temperature", 20.0),
        levels=r.integer("num_feature_levels", 4),
        points=(r.integer("encoder_n_points", 4), r.integer("decoder_n_points", 4)),
        proposes=r.flag("two_stage", True),
        longest=r.integer("max_text_len", 256),
        text_dropout=r.probability("text_enhancer_dropout"),
        fusion_dropout=r.probability("fusion_dropout"),
        drop_path=r.probability("fusion_droppath", 0.1),
        shared=shared,
        tied=r.flag("tie_word_embeddings", True),
        auxiliary=r.flag("auxiliary_loss", False),
        loss=PhraseLoss.read(r),
    )


def encoder_layer(c: Config) -> GroundedEncoderLayer:
    """One layer over maps and words; words have half the heads and half the width between."""
    sides, dim, heads, inner = c.sides, c.sides.dim, c.sides.encoder.heads // 2, c.sides.encoder.hidden // 2

    def norm() -> nn.LayerNorm:
        return nn.LayerNorm(dim, c.eps)

    words = PositionedAttention(dim, heads, rule=Full(), dropout=sides.attention_dropout)
    maps = DeformableAttention(dim, sides.encoder.heads, c.levels, c.points[0])
    return GroundedEncoderLayer(
        fusion_layer=FusionLayer(Fusion(dim, inner, heads, c.fusion_dropout), dim, c.eps, c.drop_path),
        text_enhancer_layer=PostNorm.of(
            norm, self_attn=words, mlp=MLP(dim, inner, sides.act, dropout=c.text_dropout), dropout=c.text_dropout
        ),
        deformable_layer=PostNorm.of(norm, self_attn=maps, mlp=sides.mlp(sides.encoder), dropout=sides.dropout),
    )


def decoder_layer(c: Config) -> GroundedDecoderLayer:
    """One layer over queries."""
    sides, dim, heads = c.sides, c.sides.dim, c.sides.decoder.heads
    return GroundedDecoderLayer.of(
        lambda: nn.LayerNorm(dim, c.eps),
        self_attn=PositionedAttention(dim, heads, rule=Full(), dropout=sides.attention_dropout),
        encoder_attn_text=WordAttention(dim, heads, dropout=sides.attention_dropout),
        encoder_attn=DeformableCrossAttention(dim, heads, c.levels, c.points[1]),
        mlp=sides.mlp(sides.decoder),
        dropout=sides.dropout,
    )


def model(c: Config, movers: nn.ModuleList | None) -> GroundedDetector:
    """The detector; ``movers``: how the decoder's layers move queries."""
    dim, table = c.sides.dim, nn.Embedding(c.queries, c.sides.dim)
    text = c.text.build_as(TextEncoder)
    text.pooler = None
    start: FixedStart | BestPlaces = FixedStart(
        query_position_embeddings=table, reference_points=nn.Embedding(c.queries, 4)
    )
    if c.proposes:
        start = BestPlaces(
            query_position_embeddings=table,
            enc_output=nn.Linear(dim, dim),
            enc_output_norm=nn.LayerNorm(dim, c.eps),
            encoder_output_bbox_embed=Perceptron(dim, dim, dim, 4),
        )
    places: Places = WideSinePlaces(dim, temperature=c.temperature) if c.places == "sine" else LearnedPlaces(dim)
    return GroundedDetector(
        backbone=c.backbone.build_frozen(),
        position_embedding=places,
        input_proj=projections(dim, c.backbone.channels, c.levels),
        level_embed=nn.Embedding(c.levels, dim),
        text_backbone=text,
        text_projection=nn.Linear(text.width, dim),
        encoder=GroundedEncoder(layers=nn.ModuleList(encoder_layer(c) for _ in range(c.sides.encoder.layers))),
        start=start,
        decoder=GroundedDecoder(
            layers=nn.ModuleList(decoder_layer(c) for _ in range(c.sides.decoder.layers)),
            layer_norm=nn.LayerNorm(dim, c.eps),
            reference_points_head=Perceptron(2 * dim, dim, dim),
            bbox_embed=movers,
        ),
        longest=c.longest,
    )


def build(c: Config) -> GroundedDetector:
    """The detector without heads; its queries stay where they begin."""
    return model(c, None)


def object_detector(c: Config, _: Common) -> GroundedObjectDetector:
    """Boxes, and the words that they are like."""
    dim, count = c.sides.dim, c.sides.decoder.layers

    def movers() -> nn.ModuleList:
        one = c.shared and c.tied
        made = [Perceptron(dim, dim, dim, 4) for _ in range(1 if one else count)]
        return nn.ModuleList(made * count if one else made)

    own = movers()
    inner = model(c, own if c.tied else movers())
    return GroundedObjectDetector(model=inner, bbox_embed=own, loss=c.loss, auxiliary=c.auxiliary)


def _attention(ours: str) -> dict[str, Rule]:
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out_proj"}
    return {f"{ours}.{mine}": f"{ours}.{theirs}" for mine, theirs in parts.items()}


def _plain(ours: str) -> dict[str, Rule]:
    return {f"{ours}.mlp.fc1": f"{ours}.fc1", f"{ours}.mlp.fc2": f"{ours}.fc2"}


_WORDS = "encoder.layers.{i}.text_enhancer_layer"
OWN_KEYS = KeyMap(
    {
        **_attention(f"{_WORDS}.self_attn"),
        **_plain(_WORDS),
        f"{_WORDS}.self_attn_layer_norm": f"{_WORDS}.layer_norm_before",
        f"{_WORDS}.final_layer_norm": f"{_WORDS}.layer_norm_after",
        **_plain("encoder.layers.{i}.deformable_layer"),
        **_attention("decoder.layers.{i}.self_attn"),
        **_attention("decoder.layers.{i}.encoder_attn_text"),
        **_plain("decoder.layers.{i}"),
        "start": "",
        "level_embed.weight": "level_embed",
        "input_proj": "input_proj_vision",
        "position_embedding": "backbone.position_embedding",
    },
    # Heads of the decoder, in a checkpoint that is read without them.
    ignored=(r"(^|\.)decoder\.bbox_embed\.", r"relative_position_index$"),
)


def keys(c: Config) -> KeyMap:
    """Where the weights live."""
    backbone = c.backbone.bare_keys.under("backbone", "backbone.conv_encoder.model")
    return backbone | c.text.keys.under("text_backbone", "text_backbone") | OWN_KEYS


def beginning(_: ModelConfig, path: str) -> Beginning | None:
    """Vectors of maps, places on two axes and boxes have distributions of their own."""
    if path.endswith("level_embed.weight"):
        return normal(1.0)
    if path.endswith(("row_embeddings.weight", "column_embeddings.weight")):
        return nn.init.uniform_
    if path.endswith("start.reference_points.weight"):
        return nn.init.xavier_uniform_
    if path.endswith(("bbox_embed.layers.2.weight", "reference_points_head.layers.1.weight")):
        return nn.init.zeros_
    return nn.init.zeros_ if ".bbox_embed." in f".{path}" and path.endswith(".layers.2.weight") else None


FAMILY = (
    Builder("grounding-dino", read, keys, prefix="model")
    .public(
        config="GroundingDinoConfig",
        tokenizer="BertTokenizer",
        image_processor="GroundingDinoImageProcessor",
        processor="GroundingDinoProcessor",
        row="detection by texts",
        usual={
            "is_encoder_decoder": True,
            "init_std": 0.02,
            "disable_custom_kernels": False,
            "embedding_init_target": True,
            "query_dim": 4,
        },
    )
    .begins(beginning)
    .base("GroundingDinoModel", build)
    .head("GroundingDinoForObjectDetection", "zero-shot-object-detection", object_detector)
    .done()
)
