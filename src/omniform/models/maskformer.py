"""MaskFormer (https://arxiv.org/abs/2107.06278)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.detector import DeepQueryDecoder, QueryDecoder
from omniform.architectures.family import Builder
from omniform.architectures.losses import Items
from omniform.architectures.mask_losses import MaskSetLoss, PerPicture, WholeMasks
from omniform.architectures.mask_outputs import MaskFormerForInstanceSegmentationOutput, MaskFormerModelOutput
from omniform.architectures.mask_segmenter import MaskSegmenter, PictureModel, PixelLevel, predicted
from omniform.architectures.parts import SIDE_KEYS, Sides
from omniform.architectures.pixel_decoder import FeaturePyramid, PyramidPixelDecoder, read_channels, whole_places
from omniform.architectures.query_decoder import ReluStack, drawn, rows_of
from omniform.blocks.composed import Composed
from omniform.blocks.layers import CrossPostNorm
from omniform.blocks.positioned import PlacedContext, PositionedAttention, PositionedCrossAttention, SinePlaces
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.context import Memory, Tapped
from omniform.core.outputs import Layers
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
    sides = Sides.read(r, dim=256, layers=6, heads=8, hidden=2048, act="relu", least=1)
    if sides.dim % 4:
        raise r.fail("d_model", "a multiple of 4 for sine positions", sides.dim)
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


class QueryModule(Composed):
    """Queries that look at the backbone's coarsest map."""

    input_projection: nn.Module
    position_embedding: SinePlaces
    queries_embedder: nn.Embedding
    decoder: QueryDecoder


class MaskFormerCore(PictureModel):
    """MaskFormer without heads."""

    pixel_level_module: PixelLevel
    transformer_module: QueryModule

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor | None = None, **given: Unpack[Tapped]
    ) -> MaskFormerModelOutput:
        """Vectors of queries and of pixels.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            pixel_mask: Shape: [B, height, width]; changes nothing.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: pictures or masks of the wrong shape.
        """
        maps = self.pixel_level_module.encoder.maps(pixel_values)
        pixels, fine = self.pixel_level_module.decoder(maps)
        module = self.transformer_module
        x = module.input_projection(maps[-1])
        table = rows_of(module.queries_embedder, x.device).expand(len(x), -1, -1)
        queries = torch.zeros_like(table)
        ctx = self.step(queries, given).with_(memory=Memory(x.flatten(2).transpose(1, 2)))
        places = whole_places(module.position_embedding, x)
        hidden, _ = module.decoder(queries, PlacedContext.of(ctx, table, places))
        seen = ctx.taps.hidden_or_none
        return MaskFormerModelOutput(
            encoder_last_hidden_state=maps[-1],
            pixel_decoder_last_hidden_state=pixels,
            transformer_decoder_last_hidden_state=hidden,
            encoder_hidden_states=None if seen is None else maps,
            pixel_decoder_hidden_states=None if seen is None else fine,
            transformer_decoder_hidden_states=seen,
            hidden_states=None if seen is None else (*maps, *fine, *seen),
            attentions=ctx.taps.attentions_or_none,
        )


class MaskFormer(MaskSegmenter):
    """MaskFormer with its heads: a class (or none) and a mask per query."""

    class_predictor: nn.Linear
    mask_embedder: ReluStack

    def queries(self) -> int:
        return cast(MaskFormerCore, self.model).transformer_module.queries_embedder.num_embeddings

    def run(self, pixels: Tensor, mask: Tensor | None, given: Tapped) -> tuple[MaskFormerModelOutput, Layers]:
        """The model's output, and the queries' vectors that predict."""
        out = cast(MaskFormerModelOutput, self.model(pixels, mask, **given))
        assert out.transformer_decoder_last_hidden_state is not None
        return out, (out.transformer_decoder_last_hidden_state,)

    def forward(
        self,
        pixel_values: Tensor,
        mask_labels: PerPicture | None = None,
        class_labels: PerPicture | None = None,
        pixel_mask: Tensor | None = None,
        output_auxiliary_logits: bool | None = None,
        num_items_in_batch: Items = None,
        **given: Unpack[Tapped],
    ) -> MaskFormerForInstanceSegmentationOutput:
        """Classes and masks.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            mask_labels: of each picture's objects, Shape: [n, height, width] each; gives a loss with ``class_labels``.
            class_labels: of the same objects, Shape: [n] each.
            pixel_mask: Shape: [B, height, width]; changes nothing.
            output_auxiliary_logits: whether to return what earlier layers predict, where they do.
            num_items_in_batch: what the loss's sums are divided by, if not this batch's own; see :meth:`loss_items`.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: pictures, masks or labels of the wrong shape.
        """
        out, states = self.run(pixel_values, pixel_mask, given)
        pixels = out.pixel_decoder_last_hidden_state
        assert pixels is not None
        *first, last = predicted(
            [self.class_predictor(x) for x in states], [drawn(self.mask_embedder(x), pixels) for x in states]
        )
        loss = None
        if mask_labels is not None and class_labels is not None:
            loss = self.criterion([last, *first], mask_labels, class_labels, num_items_in_batch)
        entries = {name: out[name] for name in out}
        return MaskFormerForInstanceSegmentationOutput(
            loss=loss, **last, auxiliary_logits=first if self.shows(output_auxiliary_logits) else None, **entries
        )  # type: ignore[arg-type] # one output's entries are the other's


class DeepMaskFormer(MaskFormer):
    """The same where every layer predicts, and what the queries begin as."""

    def run(self, pixels: Tensor, mask: Tensor | None, given: Tapped) -> tuple[MaskFormerModelOutput, Layers]:
        out = cast(MaskFormerModelOutput, self.model(pixels, mask, **{**given, "output_hidden_states": True}))
        states = out.transformer_decoder_hidden_states
        assert states is not None
        if not given.get("output_hidden_states"):
            out.encoder_hidden_states = out.pixel_decoder_hidden_states = None
            out.transformer_decoder_hidden_states = out.hidden_states = None
        return out, states


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


def keys(c: Config) -> KeyMap:
    """Where the weights live."""
    rules = {
        f"{FPN}.{place}.{part}": f"{FPN}.{place}.{number}"
        for place in ("stem", "layers.{i}.proj", "layers.{i}.block")
        for number, part in enumerate(("conv", "norm"))
    }
    backbone = c.backbone.keys.under("pixel_level_module.encoder", "pixel_level_module.encoder")
    return KeyMap(rules) | backbone | KeyMap(SIDE_KEYS).under(DECODER, DECODER)


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
