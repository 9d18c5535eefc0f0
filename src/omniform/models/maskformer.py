"""MaskFormer (https://arxiv.org/abs/2107.06278)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn

from omniform.architectures.detector import DeepQueryDecoder, QueryDecoder
from omniform.architectures.family import Builder
from omniform.architectures.mask_losses import MaskSetLoss, WholeMasks
from omniform.architectures.mask_segmenter import PixelLevel
from omniform.architectures.parts import SIDE_KEYS, Side, Sides
from omniform.architectures.pixel_decoder import FeaturePyramid, PyramidPixelDecoder, read_channels
from omniform.architectures.pyramid_segmenter import DeepMaskFormer, MaskFormer, MaskFormerCore, QueryModule
from omniform.architectures.query_decoder import ReluStack
from omniform.blocks.layers import CrossPostNorm
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.positioned import PositionedAttention, PositionedCrossAttention, SinePlaces
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.models.backbones import NestedBackbone, read_backbone
from omniform.weights.keymap import KeyMap

SWIN = {
    "embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12, "image_size": 384,
    "drop_path_rate": 0.3,
}  # fmt: skip
"""The backbone where the file names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queries:
    """The decoder of queries, which is DETR's.

    Attributes:
        deep: whether every layer ends in the norm.
    """

    count: int
    sides: Sides
    deep: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a MaskFormer computes.

    Attributes:
        pyramid: channels of the pyramid's maps.
        pixels: channels of the map that masks are read from.
        deep: whether every layer predicts.
        weights: of classes, masks and dice in the loss, and of "no object".
    """

    backbone: NestedBackbone
    pyramid: int
    pixels: int
    queries: Queries
    deep: bool
    shows: bool
    weights: tuple[float, float, float, float]


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("init_std", "init_xavier_std")
    nested = r.mapping("decoder_config") or {}
    config = ModelConfig.from_raw(nested, read=read_queries, where=f"{r.where}: decoder_config")
    r.values["decoder_config"] = config
    queries = cast(Queries, config.spec)
    heads, layers = config.get("encoder_attention_heads"), config.get("encoder_layers")
    r.inert(num_attention_heads=heads, num_hidden_layers=layers)
    return Config(
        backbone=read_stand(r),
        pyramid=read_channels(r, "fpn_feature_size", 256),
        pixels=r.integer("mask_feature_size", 256, also=("hidden_size",)),
        queries=queries,
        deep=r.flag("use_auxiliary_loss", False),
        shows=r.flag("output_auxiliary_logits", False),
        weights=(
            r.number("cross_entropy_weight", 1.0),
            r.number("mask_weight", 20.0),
            r.number("dice_weight", 1.0),
            r.number("no_object_weight", 0.1),
        ),
    )


def read_queries(r: ConfigReader) -> Queries:
    """A DETR's config, of which the decoder alone is built."""
    r.choice("model_type", ("detr",), "detr")
    dim = r.integer("d_model", 256, also=("hidden_size",))
    if dim % 4:
        raise r.fail("d_model", "a multiple of 4 for sine positions", dim)
    # What tools read of the encoder that is not there.
    r.integer("encoder_attention_heads", 8, also=("num_attention_heads",))
    r.integer("encoder_layers", 6, also=("num_hidden_layers",), least=0)
    decoder = Side.read(r, "decoder", dim, layers=6, heads=8, hidden=2048, least=1)
    sides = Sides(
        dim=dim,
        encoder=decoder,
        decoder=decoder,
        act=r.choice("activation_function", ACTIVATIONS, "relu"),
        dropout=r.probability("dropout", 0.1),
        attention_dropout=r.probability("attention_dropout"),
        activation_dropout=r.probability("activation_dropout"),
    )
    made = Queries(count=r.integer("num_queries", 100), sides=sides, deep=r.flag("auxiliary_loss", False))
    r.inert(*r.raw)
    return made


def read_stand(r: ConfigReader) -> NestedBackbone:
    """The backbone; a Swin gives all four maps, each with a norm of its own, whatever its config says."""
    nested = r.mapping("backbone_config")
    named = r.maybe_text("backbone") is not None
    if (nested or {}).get("model_type", "swin") != "swin" or (nested is None and named):
        return read_backbone(r)
    r.inert("backbone_kwargs", "use_timm_backbone", "use_pretrained_backbone")
    kept = {name: value for name, value in (nested or SWIN).items() if name != "out_indices"}
    all_four = {"model_type": "maskformer-swin", "out_features": [f"stage{i}" for i in range(1, 5)]}
    part = NestedBackbone(r.within({**kept, **all_four}, "backbone_config"), "maskformer-swin")
    part.check()
    r.values["backbone_config"] = part.config
    return part


def build(c: Config) -> MaskFormerCore:
    """The model without heads."""
    backbone, sides, dim = c.backbone.build(), c.queries.sides, c.queries.sides.dim
    channels, dropout = c.backbone.channels, c.queries.sides.attention_dropout

    def layer() -> CrossPostNorm:
        own = PositionedAttention(dim, sides.decoder.heads, rule=Full(), dropout=dropout)
        cross = PositionedCrossAttention(dim, sides.decoder.heads, dropout=dropout)
        return sides.crossed(CrossPostNorm, own, cross)

    decoder = DeepQueryDecoder if c.queries.deep else QueryDecoder
    return MaskFormerCore(
        pixel_level_module=PixelLevel(
            encoder=backbone,
            decoder=PyramidPixelDecoder(
                fpn=FeaturePyramid(channels, c.pyramid),
                mask_projection=nn.Conv2d(c.pyramid, c.pixels, 3, padding=1),
            ),
        ),
        transformer_module=QueryModule(
            input_projection=nn.Identity() if channels[-1] == dim else nn.Conv2d(channels[-1], dim, 1),
            position_embedding=SinePlaces(dim),
            queries_embedder=nn.Embedding(c.queries.count, dim),
            decoder=decoder(layers=nn.ModuleList(layer() for _ in range(sides.decoder.layers)), layernorm=sides.norm()),
        ),
    )


def segmenter(c: Config, common: Common) -> MaskFormer:
    """A class, or none, and a mask per query."""
    dim, (of_class, of_mask, of_dice, of_none) = c.queries.sides.dim, c.weights
    criterion = MaskSetLoss(
        common.num_labels,
        WholeMasks(),
        class_cost=1.0,
        class_weight=of_class,
        mask_weight=of_mask,
        dice_weight=of_dice,
        no_object_weight=of_none,
    )
    kind = DeepMaskFormer if c.deep else MaskFormer
    return kind(
        model=build(c),
        class_predictor=nn.Linear(dim, common.num_labels + 1),
        mask_embedder=ReluStack(dim, dim, dim, c.pixels),
        criterion=criterion,
        shows_auxiliary=c.shows,
    )


FPN = "pixel_level_module.decoder.fpn"
DECODER = "transformer_module.decoder"

MODULES = (
    (r"(transformer_module\..*attn)\.out_proj", r"\1.o_proj"),
    (r"(transformer_module\..*layers\.\d+)\.(?=fc[12](\.|$))", r"\1.mlp."),
)
"""What newer releases call the decoder's layers, but in checkpoints."""


def keys(c: Config) -> KeyMap:
    """Where the weights live."""
    rules = {
        f"{FPN}.{place}.{part}": f"{FPN}.{place}.{number}"
        for place in ("stem", "layers.{i}.proj", "layers.{i}.block")
        for number, part in enumerate(("conv", "norm"))
    }
    backbone = c.backbone.keys.under("pixel_level_module.encoder", "pixel_level_module.encoder")
    return KeyMap(rules, modules=MODULES) | backbone | KeyMap(SIDE_KEYS).under(DECODER, DECODER)


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """What carries maps, and what draws masks, keep a signal's variance."""
    inside = path.removeprefix("model.")
    convolved = inside.startswith((FPN, "transformer_module.input_projection")) and "norm" not in inside
    if path.endswith(".weight") and (convolved or path.startswith("mask_embedder.")):
        gain = float(cast(float, config.get("init_xavier_std", 1.0)))
        return lambda x: nn.init.xavier_uniform_(x, gain=gain)
    return None


FAMILY = (
    Builder("maskformer", read, keys, prefix="model")
    .public(
        config="MaskFormerConfig",
        image_processor="MaskFormerImageProcessor",
        row="instance, semantic and panoptic segmentation",
        usual={"init_std": 0.02, "init_xavier_std": 1.0},
    )
    .begins(beginning)
    .base("MaskFormerModel", build)
    .head(
        "MaskFormerForInstanceSegmentation",
        ("instance-segmentation", "universal-segmentation"),
        segmenter,
        {"mask_embedder.layers.{i}": "mask_embedder.{i}.0"},
    )
    .done()
)
