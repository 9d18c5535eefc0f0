"""What RT-DETR and its successors share: their configs, their parts, where their weights live."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from torch import nn

from omniform.architectures.backbone import Backbone
from omniform.architectures.denoising import Denoising
from omniform.architectures.hybrid import (
    ConvNorm,
    FusionBlock,
    GridPlaces,
    HybridEncoder,
    MapEncoder,
    RenormedLayer,
    TrainedGridPlaces,
)
from omniform.architectures.hybrid_detector import (
    Anchors,
    BoxDecoder,
    FixedAnchors,
    HybridDetector,
    HybridObjectDetector,
    Perceptron,
    RefiningDecoder,
)
from omniform.architectures.parts import read_width
from omniform.architectures.sigmoid_sets import VarifocalSetLoss
from omniform.blocks.layers import CrossPostNorm, PostNorm
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.blocks.positioned import PositionedAttention
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.init import normal
from omniform.weights.keymap import KeyMap


class Nested(Protocol):
    """The backbone that a config names."""

    @property
    def channels(self) -> tuple[int, ...]: ...

    @property
    def keys(self) -> KeyMap: ...

    def build(self) -> Backbone: ...

    def build_frozen(self) -> Backbone: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """The size of the hybrid encoder.

    Attributes:
        levels: how many maps go in and out.
        attended: which of them have layers of attention.
        hidden: channels within blocks of convolutions.
        places: how those layers know where a pixel is.
        layer: their kind.
    """

    dim: int
    levels: int
    layers: int
    heads: int
    ffn: int
    act: str
    attended: tuple[int, ...]
    hidden: int
    conv_act: str
    places: GridPlaces
    layer: type[PostNorm]

    @classmethod
    def read(cls, r: ConfigReader) -> Encoder:
        """The fields under their usual names."""
        dim, heads = read_width(
            r, "encoder_hidden_dim", 256, "encoder_attention_heads", 8, heads_also=("num_attention_heads",)
        )
        if dim % 4:
            raise r.fail("encoder_hidden_dim", "a multiple of 4", dim)
        levels = len(r.integers("encoder_in_channels", (512, 1024, 2048)))
        attended = r.integers("encode_proj_layers", (2,), least=-levels)
        if any(i >= levels for i in attended):
            raise r.fail("encode_proj_layers", f"numbers below {levels}, one per map", list(attended))
        places = GridPlaces if r.maybe_size("eval_size") is None else TrainedGridPlaces
        return cls(
            dim=dim,
            levels=levels,
            layers=r.layers("encoder_layers", 1),
            heads=heads,
            ffn=r.integer("encoder_ffn_dim", 1024),
            act=r.choice("encoder_activation_function", ACTIVATIONS, "gelu"),
            attended=attended,
            hidden=int(dim * r.number("hidden_expansion", 1.0)),
            conv_act=r.choice("activation_function", ACTIVATIONS, "silu"),
            places=places(dim, r.number("positional_encoding_temperature", 10000)),
            layer=RenormedLayer if r.flag("normalize_before", False) else PostNorm,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """The size of the decoder."""

    dim: int
    levels: int
    layers: int
    heads: int
    ffn: int
    act: str
    points: int

    @classmethod
    def read(cls, r: ConfigReader) -> Decoder:
        """The fields under their usual names."""
        dim, heads = read_width(r, "d_model", 256, "decoder_attention_heads", 8, also=("hidden_size",))
        return cls(
            dim=dim,
            levels=r.integer("num_feature_levels", 3),
            layers=r.layers("decoder_layers", 6, least=1),
            heads=heads,
            ffn=r.integer("decoder_ffn_dim", 1024),
            act=r.choice("decoder_activation_function", ACTIVATIONS, "relu"),
            points=r.integer("decoder_n_points", 4),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridConfig:
    """What an RT-DETR computes."""

    backbone: Nested
    backbone_norms_frozen: bool
    encoder: Encoder
    decoder: Decoder
    inputs: tuple[int, ...]
    norm_eps: float
    batch_norm_eps: float
    dropout: float
    attention_dropout: float
    activation_dropout: float
    queries: int
    learned: bool
    anchors: Anchors
    copies: int
    label_noise: float
    box_noise: float
    loss: VarifocalSetLoss
    auxiliary: bool

    def norm(self, dim: int) -> nn.Module:
        """One norm."""
        return nn.LayerNorm(dim, self.norm_eps)

    def mlp(self, dim: int, hidden: int, act: str) -> MLP:
        """One feed-forward."""
        return MLP(dim, hidden, act, dropout=self.activation_dropout)


def read_hybrid(r: ConfigReader, backbone: Nested) -> HybridConfig:
    """The fields that all of these families have."""
    r.inert("with_box_refine", "disable_custom_kernels", "tie_word_embeddings")
    r.inert("initializer_bias_prior_prob", is_encoder_decoder=True)
    r.number("initializer_range", 0.01)
    encoder, decoder = Encoder.read(r), Decoder.read(r)
    inputs = r.integers("decoder_in_channels", (256, 256, 256), least=1)
    if len(inputs) != encoder.levels or decoder.levels < len(inputs):
        expected = f"{encoder.levels} numbers (as encoder_in_channels), at most num_feature_levels ({decoder.levels})"
        raise r.fail("decoder_in_channels", expected, list(inputs))
    strides = r.integers("feat_strides", (8, 16, 32), least=1)
    size = r.maybe_size("anchor_image_size")
    anchors = Anchors() if size is None else FixedAnchors(maps=tuple((size[0] // s, size[1] // s) for s in strides))
    return HybridConfig(
        backbone=backbone,
        backbone_norms_frozen=r.flag("freeze_backbone_batch_norms", True),
        encoder=encoder,
        decoder=decoder,
        inputs=inputs,
        norm_eps=r.number("layer_norm_eps", 1e-5),
        batch_norm_eps=r.number("batch_norm_eps", 1e-5),
        dropout=r.probability("dropout"),
        attention_dropout=r.probability("attention_dropout"),
        activation_dropout=r.probability("activation_dropout"),
        queries=r.integer("num_queries", 300),
        learned=r.flag("learn_initial_query", False),
        anchors=anchors,
        copies=r.integer("num_denoising", 100, least=-(2**31)),
        label_noise=r.number("label_noise_ratio", 0.5),
        box_noise=r.number("box_noise_scale", 1.0),
        loss=VarifocalSetLoss.read(r),
        auxiliary=r.flag("auxiliary_loss", True),
    )


def _encoder(c: HybridConfig) -> HybridEncoder:
    e, eps, steps = c.encoder, c.batch_norm_eps, range(c.encoder.levels - 1)

    def layer() -> PostNorm:
        attention = PositionedAttention(e.dim, e.heads, rule=Full(), dropout=c.dropout)
        mlp = c.mlp(e.dim, e.ffn, e.act)
        return e.layer.of(lambda: c.norm(e.dim), self_attn=attention, mlp=mlp, dropout=c.dropout)

    def attended() -> MapEncoder:
        return MapEncoder(layers=nn.ModuleList(layer() for _ in range(e.layers)), places=e.places)

    def fusions() -> nn.ModuleList:
        return nn.ModuleList(FusionBlock(2 * e.dim, e.dim, e.hidden, act=e.conv_act, eps=eps) for _ in steps)

    def convolutions(size: int, stride: int) -> nn.ModuleList:
        return nn.ModuleList(ConvNorm(e.dim, e.dim, size, act=e.conv_act, eps=eps, stride=stride) for _ in steps)

    return HybridEncoder(
        aifi=nn.ModuleList(attended() for _ in e.attended),
        indices=e.attended,
        lateral_convs=convolutions(1, 1),
        fpn_blocks=fusions(),
        downsample_convs=convolutions(3, 2),
        pan_blocks=fusions(),
    )


Look = Callable[[], nn.Module]
"""Makes the attention of one decoder layer over the encoder's maps."""


def _decoder_layers(c: HybridConfig, look: Look) -> nn.ModuleList:
    d = c.decoder

    def layer() -> CrossPostNorm:
        return CrossPostNorm.of(
            lambda: c.norm(d.dim),
            self_attn=PositionedAttention(d.dim, d.heads, rule=Full(), dropout=c.attention_dropout),
            encoder_attn=look(),
            mlp=c.mlp(d.dim, d.ffn, d.act),
            dropout=c.dropout,
        )

    return nn.ModuleList(layer() for _ in range(d.layers))


def _projections(c: HybridConfig) -> nn.ModuleList:
    """The encoder's maps to the decoder's width; those beyond make maps half as large."""
    dim, further, inner = c.decoder.dim, c.decoder.levels - len(c.inputs), c.inputs[-1]
    made: list[nn.Conv2d] = [nn.Conv2d(width, dim, 1, bias=False) for width in c.inputs]
    for _ in range(further):
        made.append(nn.Conv2d(inner, dim, 3, stride=2, padding=1, bias=False))
        inner = dim
    return nn.ModuleList(nn.Sequential(conv, nn.BatchNorm2d(dim, c.batch_norm_eps)) for conv in made)


def _model(c: HybridConfig, common: Common, decoder: BoxDecoder) -> HybridDetector:
    dim, classes = c.decoder.dim, common.num_labels
    if len(c.backbone.channels) != c.encoder.levels:
        raise ConfigError(
            "the backbone gives another number of maps than the encoder takes",
            where="encoder_in_channels",
            expected=len(c.backbone.channels),
            found=c.encoder.levels,
        )
    denoising = Denoising(queries=c.copies, label_noise=c.label_noise, box_noise=c.box_noise, classes=classes)
    return HybridDetector(
        backbone=c.backbone.build_frozen() if c.backbone_norms_frozen else c.backbone.build(),
        encoder_input_proj=nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, c.encoder.dim, 1, bias=False), nn.BatchNorm2d(c.encoder.dim))
            for width in c.backbone.channels
        ),
        encoder=_encoder(c),
        denoising_class_embed=nn.Embedding(classes + 1, dim, padding_idx=classes) if c.copies > 0 else None,
        weight_embedding=nn.Embedding(c.queries, dim) if c.learned else None,
        enc_output=nn.Sequential(nn.Linear(dim, dim), c.norm(dim)),
        enc_score_head=nn.Linear(dim, classes),
        enc_bbox_head=Perceptron(dim, dim, dim, 4),
        decoder_input_proj=_projections(c),
        decoder=decoder,
        queries=c.queries,
        anchors=c.anchors,
        denoising=denoising if c.copies > 0 else None,
    )


def hybrid_model(c: HybridConfig, common: Common, look: Look) -> HybridDetector:
    """The detector without heads on its decoder."""
    dim = c.decoder.dim
    decoder = BoxDecoder(layers=_decoder_layers(c, look), query_pos_head=Perceptron(4, 2 * dim, dim))
    return _model(c, common, decoder)


def hybrid_object_detector(c: HybridConfig, common: Common, look: Look) -> HybridObjectDetector:
    """A class and a box per query."""
    dim, layers = c.decoder.dim, range(c.decoder.layers)
    decoder = RefiningDecoder(
        layers=_decoder_layers(c, look),
        query_pos_head=Perceptron(4, 2 * dim, dim),
        class_embed=nn.ModuleList(nn.Linear(dim, common.num_labels) for _ in layers),
        bbox_embed=nn.ModuleList(Perceptron(dim, dim, dim, 4) for _ in layers),
    )
    return HybridObjectDetector(model=_model(c, common, decoder), loss=c.loss, auxiliary=c.auxiliary)


MAP_LAYER, QUERY_LAYER = "encoder.aifi.{i}.layers.{j}", "decoder.layers.{i}"

HYBRID_KEYS = KeyMap(
    {
        "encoder.aifi": "encoder.encoder",
        f"{MAP_LAYER}.self_attn.o_proj": "encoder.encoder.{i}.layers.{j}.self_attn.out_proj",
        f"{MAP_LAYER}.mlp": "encoder.encoder.{i}.layers.{j}",
        f"{QUERY_LAYER}.self_attn.o_proj": f"{QUERY_LAYER}.self_attn.out_proj",
        f"{QUERY_LAYER}.mlp": QUERY_LAYER,
    },
    aliases=(
        # The names inside newer releases.
        (r"\.self_attn\.o_proj\.", ".self_attn.out_proj."),
        (r"\.mlp\.(fc[12])\.", r".\1."),
        (r"(^|\.)encoder\.aifi\.(\d+)\.", r"\1encoder.encoder.\2."),
    ),
    # Heads of the decoder, in a checkpoint that is read without them.
    ignored=(r"(^|\.)decoder\.(class|bbox)_embed\.",),
    modules=(
        (r"(^|\.)self_attn\.out_proj", r"\1self_attn.o_proj"),
        (r"(layers\.\d+)\.(?=fc[12](\.|$))", r"\1.mlp."),
        (r"(^|\.)encoder\.encoder\.(\d+)", r"\1encoder.aifi.\2"),
    ),
)


def hybrid_keys(c: HybridConfig) -> KeyMap:
    """Where the weights live."""
    return c.backbone.keys.under("backbone", "backbone.model") | HYBRID_KEYS


def hybrid_beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Scores begin where every class is about as rare as all are together, boxes where they are."""
    if path.startswith(("backbone.", "model.backbone.")):
        return None
    prior = cast(float | None, config.get("initializer_bias_prior_prob")) or 1 / (config.num_labels + 1)
    if re.search(r"(enc_score_head|class_embed\.\d+)\.bias$", path):
        return lambda x: x.fill_(-math.log((1 - prior) / prior))
    if re.search(r"\bbbox_embed\.\d+\.layers\.2\.", path):
        return nn.init.zeros_
    if re.search(r"(enc_score_head|class_embed\.\d+|denoising_class_embed|weight_embedding)\.weight$", path):
        return nn.init.xavier_uniform_
    if re.search(r"(\.norm|_input_proj\.\d+\.1)\.weight$", path):  # of batch norms, as matrices
        return normal(config.common.initializer_range)
    return None
