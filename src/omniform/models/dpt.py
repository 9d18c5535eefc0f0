"""DPT (https://arxiv.org/abs/2103.13413): depth and semantic segmentation on a vision transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.backbone import Backbone
from omniform.architectures.depth import BackboneDepth, DepthEstimator, DepthHead
from omniform.architectures.depth_neck import (
    NECK_KEYS,
    READOUTS,
    DepthNeck,
    Fusing,
    doubled,
    neck_on,
    read_normed,
    readout,
)
from omniform.architectures.family import Builder
from omniform.architectures.semantic import SemanticLoss, SemanticSegmenter, read_ignored
from omniform.architectures.vision import FreeVisionEncoder
from omniform.architectures.vit_family import PLAIN_KEYS, PlainVision, Pooling, zeros
from omniform.blocks.patches import ClassToken, GridPositions, Patching, PatchStem, Size
from omniform.blocks.poolers import DensePooler
from omniform.core.config import Common
from omniform.core.context import StepContext, Tapped, Taps
from omniform.core.errors import ConfigError, InputError
from omniform.core.outputs import BaseModelOutput, ClassifierOutput, DepthEstimatorOutput, IntermediateOutput
from omniform.core.reader import ConfigReader
from omniform.models.backbones import NestedBackbone, read_backbone
from omniform.weights.keymap import KeyMap

BIT = {
    "model_type": "bit",
    "global_padding": "same",
    "layer_type": "bottleneck",
    "depths": [3, 4, 9],
    "out_features": ["stage1", "stage2", "stage3"],
    "embedding_dynamic_padding": True,
}
"""The backbone of a hybrid that names none."""
KEPT = 2
"""How many of a hybrid's stages are its backbone's maps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a DPT computes.

    Attributes:
        layers: whose hidden states the neck reads, where the encoder is DPT's own.
        backbone: what depth is told from in place of the encoder; None where there is none.
        convolutions: what the encoder of a hybrid stands on; None for pixels.
        convolved: channels of that network's last map.
        classifier_dropout: in front of the scores of classes, in training.
        auxiliary: what a second head's loss counts for; None without one.
    """

    vision: PlainVision
    pooling: Pooling
    layers: tuple[int, ...]
    backbone: NestedBackbone | None
    convolutions: NestedBackbone | None
    convolved: int
    readout: str
    fusing: Fusing
    projected: bool
    classifier_dropout: float
    auxiliary: float | None
    ignored: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    # Files whose depth stands on another backbone hold null for what the encoder would be, of any width.
    heads = math.gcd(12, r.integer("hidden_size", 768))
    vision = PlainVision.read(r, image_size=(384, 384), heads=heads)
    hybrid = r.flag("is_hybrid", False)
    named = r.mapping("backbone_config") is not None or r.maybe_text("backbone") is not None
    nested = read_backbone(r, BIT) if hybrid or named else None
    r.inert("use_pretrained_backbone", "use_timm_backbone", "backbone_kwargs")
    shape = r.integers("backbone_featmap_shape", (1, 1024, 24, 24), least=1)
    kept = r.integers("neck_ignore_stages", (0, 1), least=0)
    kind = r.choice("readout_type", READOUTS, "project")
    if hybrid and kind != "project":
        raise r.fail("readout_type", "'project' (is_hybrid)", repr(kind))
    if hybrid and len(shape) < 2:
        raise r.fail("backbone_featmap_shape", "[1, channels, height, width]", list(shape))
    if not hybrid:
        r.values["backbone_featmap_shape"], r.values["neck_ignore_stages"] = None, []
    fusing = read_normed(r, Fusing.read(r))
    if hybrid and {i for i in kept if i < len(fusing.widths)} != {*range(KEPT)}:
        raise r.fail("neck_ignore_stages", "[0, 1], the backbone's maps", list(kept))
    indices = r.integers("backbone_out_indices", (2, 5, 8, 11), least=-1000)
    if nested is not None and not hybrid and "backbone_out_indices" not in r.raw and r.raw.get("backbone") is not None:
        r.values["backbone_out_indices"] = None
    indices = indices[KEPT:] if hybrid else indices
    auxiliary = r.number("auxiliary_loss_weight", 0.4) if r.flag("use_auxiliary_head", True) else None
    r.inert("auxiliary_loss_weight", auxiliary_loss_weight=0.4)
    return Config(
        vision=vision,
        pooling=Pooling.read(r, vision.tower.dim),
        layers=tuple(i for i in range(vision.tower.layers) if i in indices),
        backbone=None if hybrid else nested,
        convolutions=nested if hybrid else None,
        convolved=shape[1] if len(shape) > 1 else 1,
        readout=kind,
        fusing=fusing,
        projected=r.flag("add_projection", False),
        classifier_dropout=r.probability("semantic_classifier_dropout", 0.1),
        auxiliary=auxiliary,
        ignored=read_ignored(r),
    )


def bilinear(learned: Tensor, size: Size) -> Tensor:
    """Learned positions at another grid."""
    return F.interpolate(learned, size=size, mode="bilinear", align_corners=False)


class DPTEncoder(FreeVisionEncoder):
    """DPT's own encoder; the neck reads hidden states of some layers as they are."""

    def stages(self, pixel_values: Tensor, layers: Sequence[int], asked: Tapped) -> tuple[list[Tensor], Size, Taps]:
        """What the neck reads, the grid of its patches, and what was seen on the way.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            layers: whose hidden states are wanted; no layer behind the last of them is computed.
        """
        grid = self.grid_of(pixel_values)
        embeds = self.embed(pixel_values)
        ctx = self.context(embeds, grid, asked)
        return self.of_layers(embeds, ctx, layers), grid, ctx.taps

    def of_layers(self, embeds_BTD: Tensor, ctx: StepContext, layers: Sequence[int]) -> list[Tensor]:
        """The hidden states of some layers. Shape: [B, T, D] each."""
        told = ctx.taps.wants_hidden or ctx.taps.wants_attentions
        states = self.states(embeds_BTD, ctx, len(self.layers) if told else max(layers, default=-1) + 1)
        return [states[i + 1] for i in layers]


class HybridStem(PatchStem):
    """A network of convolutions whose coarsest map's places are the patches.

    Args:
        backbone: pictures to three maps.
        patching: the sizes of pictures and patches.
        channels: of its last map.
        dim: width of a vector.
    """

    def __init__(self, backbone: Backbone, patching: Patching, channels: int, dim: int) -> None:
        one = Patching(channels=channels, image_size=patching.grid, patch_size=(1, 1))
        super().__init__(one, dim)
        self.patching = patching
        self.backbone = backbone

    def maps(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """The network's maps. Shape: [B, C, H, W] each.

        Raises:
            InputError: pictures that the model was not made for.
        """
        self.check(pixel_values)
        return self.backbone.maps(pixel_values.to(self.projection.weight.dtype))

    def patches(self, coarsest_BCHW: Tensor) -> Tensor:
        """The places of the coarsest map. Shape: [B, C, H, W] to [B, N, D]."""
        vectors: Tensor = self.projection(coarsest_BCHW)
        return vectors.flatten(2).transpose(1, 2)

    def forward(self, pixel_values: Tensor, *, any_size: bool = False) -> Tensor:
        return self.patches(self.maps(pixel_values)[-1])


class HybridEncoder(DPTEncoder):
    """An encoder on a network of convolutions, whose finer maps the neck reads as well."""

    def entered(self, pixel_values: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Size]:
        """What enters the first layer, the finer maps, and the grid of patches."""
        stem = self.patches
        assert isinstance(stem, HybridStem)
        *finer, last = stem.maps(pixel_values)
        grid = (last.shape[2], last.shape[3])
        return self.placed(stem.patches(last), grid), tuple(finer), grid

    def stages(self, pixel_values: Tensor, layers: Sequence[int], asked: Tapped) -> tuple[list[Tensor], Size, Taps]:
        embeds, finer, grid = self.entered(pixel_values)
        ctx = self.context(embeds, grid, asked)
        return [*finer[:KEPT], *self.of_layers(embeds, ctx, layers)], grid, ctx.taps

    def forward(
        self,
        pixel_values: Tensor | None = None,
        *,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> BaseModelOutput:
        """See :meth:`~omniform.architectures.vision.VisionEncoder.forward`; pictures are of the model's size."""
        if pixel_values is None:
            raise InputError("there are no pictures", where="pixel_values", expected="a tensor", found="None")
        embeds, finer, grid = self.entered(pixel_values)
        ctx = self.context(embeds, grid, given, attention_mask)
        hidden = self.encode(embeds, ctx)
        return IntermediateOutput(
            last_hidden_state=hidden,
            pooler_output=None if self.pooler is None else self.pooler(hidden),
            intermediate_activations=finer[:KEPT],
            **ctx.taps.noted(),
        )


def build(c: Config, pooler: DensePooler | None = None) -> DPTEncoder:
    """The encoder; its heads do without the pooler."""
    vision, dim = c.vision, c.vision.tower.dim
    grid = vision.patching.grid
    side = math.isqrt(grid[0] * grid[1])
    # Learned positions are taken for those of a square, whatever shape the pictures have.
    square = (side, side) if side * side == grid[0] * grid[1] else grid
    kind, stem, dropout = DPTEncoder, PatchStem(vision.patching, dim), vision.dropout
    if c.convolutions is not None:
        backbone = c.convolutions.build()
        if len(backbone.channels) != KEPT + 1 or backbone.channels[-1] != c.convolved:
            raise ConfigError(
                "a hybrid stands on three maps",
                where="backbone_config",
                expected=f"3 maps, the last of {c.convolved} channels (backbone_featmap_shape)",
                found=f"channels {backbone.channels}",
            )
        kind, stem, dropout = HybridEncoder, HybridStem(backbone, vision.patching, c.convolved, dim), 0.0
    return kind(
        patches=stem,
        positions=GridPositions(square, dim, before=1, resample=bilinear),
        class_token=ClassToken(dim),
        layers=vision.stack(),
        norm=vision.tower.norm(),
        pooler=pooler,
        dropout=dropout,
    )


def with_pooler(c: Config) -> DPTEncoder:
    """The encoder and one vector per picture."""
    return build(c, c.pooling.pooler(c.vision.tower.dim))


def neck(c: Config, widths: Sequence[int], kept: int = 0) -> DepthNeck:
    """The neck on stages of some widths, of which the first are maps already."""
    return neck_on(c.fusing, widths, lambda width: readout(c.readout, width, c.vision.tower.act), kept)


def own_neck(c: Config) -> DepthNeck:
    """The neck on DPT's own encoder."""
    maps = 0 if c.convolutions is None else KEPT
    return neck(c, (c.vision.tower.dim,) * (maps + len(c.layers)), maps)


class DPTDepth(DepthEstimator):
    """Depth on DPT's own encoder.

    Args:
        layers: whose hidden states the neck reads.
    """

    model: DPTEncoder
    neck: DepthNeck
    head: DepthHead
    layers: tuple[int, ...]

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **given: Unpack[Tapped]
    ) -> DepthEstimatorOutput:
        """See :meth:`~omniform.architectures.depth.BackboneDepth.forward`."""
        stages, grid, taps = self.model.stages(pixel_values, self.layers, given)
        return DepthEstimatorOutput(predicted_depth=self.head(self.neck(stages, grid), grid), **taps.noted())


def estimator(c: Config, _: Common) -> DepthEstimator:
    """How far away each pixel is."""
    head = DepthHead(c.fusing.dim, c.fusing.index, projected=c.projected)
    if c.backbone is None:
        return DPTDepth(model=build(c), neck=own_neck(c), head=head, layers=c.layers)
    backbone = c.backbone.build()
    on = neck(c, backbone.channels, len(backbone.channels) if backbone.is_pyramid else 0)
    return BackboneDepth(backbone=backbone, neck=on, head=head, patch=backbone.reductions[0])


class ScoringHead(nn.Module):
    """A fused map to scores of classes, at the map's size.

    Args:
        dim: channels of the map.
        labels: number of classes.
        dropout: in front of the scores, in training.
    """

    def __init__(self, dim: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(dim)
        self.classifier = nn.Conv2d(dim, labels, kernel_size=1)
        self.dropout = dropout

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, dim, H, W] to [B, labels, H, W]."""
        x = F.dropout(F.relu(self.batch_norm(self.conv(x_BCHW))), self.dropout, self.training)
        scores: Tensor = self.classifier(x)
        return scores


class DPTSegmenter(SemanticSegmenter):
    """A class for every place; scores are half as large as the pictures.

    Args:
        auxiliary_head: a second head, for the loss; None without one.
        layers: whose hidden states the neck reads.
        index: which of the fused maps the head reads; the second head reads the finest.
    """

    model: DPTEncoder
    neck: DepthNeck
    head: ScoringHead
    auxiliary_head: ScoringHead | None
    layers: tuple[int, ...]
    index: int

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        num_items_in_batch: Tensor | int | None = None,
        **given: Unpack[Tapped],
    ) -> ClassifierOutput:
        """Scores of every place.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            labels: Shape: [B, height, width], a class for every pixel; gives a loss.
            num_items_in_batch: how many pixels count in all batches of a step, if not those of this one.
            given: see :class:`~omniform.core.context.Tapped`.
        """
        stages, grid, taps = self.model.stages(pixel_values, self.layers, given)
        fused = self.neck(stages, grid)
        scores = doubled(self.head(fused[self.index]))
        # Its batch norm learns whenever the model does; without either, nobody reads what it says.
        wanted = self.auxiliary_head is not None and (labels is not None or self.training)
        second = self.auxiliary_head(fused[-1]) if wanted and self.auxiliary_head is not None else None
        return self.answer(scores, labels, taps.noted(), auxiliary=second, items=num_items_in_batch)


def segmenter(c: Config, common: Common) -> DPTSegmenter:
    """A class for every place, on DPT's own encoder."""
    labels, dim = common.num_labels, c.fusing.dim
    return DPTSegmenter(
        model=build(c),
        neck=own_neck(c),
        head=ScoringHead(dim, labels, c.classifier_dropout),
        auxiliary_head=None if c.auxiliary is None else ScoringHead(dim, labels, 0.1),
        layers=c.layers,
        index=c.fusing.index,
        loss=SemanticLoss(labels, c.ignored, c.auxiliary or 0.0),
    )


def keys(c: Config) -> KeyMap:
    """Where the encoder's weights live."""
    plain = KeyMap(PLAIN_KEYS.rules)
    if c.convolutions is None:
        return plain
    inner = c.convolutions.keys.under("patches.backbone", "embeddings.backbone")
    return plain | KeyMap({"patches": "embeddings"}) | inner


DEPTH_KEYS = NECK_KEYS | KeyMap({"head.conv1": "head.head.0", "head.conv2": "head.head.2", "head.conv3": "head.head.4"})
SCORE_KEYS = NECK_KEYS | KeyMap(
    {
        f"{head}.{ours}": f"{head}.head.{number}"
        for head in ("head", "auxiliary_head")
        for ours, number in (("conv", 0), ("batch_norm", 1), ("classifier", 4))
    }
)


def depth_keys(c: Config) -> KeyMap:
    """Where the weights of a model of depth live."""
    if c.backbone is not None:
        return c.backbone.keys.under("backbone", "backbone") | DEPTH_KEYS
    return keys(c).under("model", "dpt") | DEPTH_KEYS


FAMILY = (
    Builder("dpt", read, keys, prefix="dpt")
    .public(
        config="DPTConfig", image_processor="DPTImageProcessor", row="depth, semantic segmentation; on any backbone"
    )
    .begins(zeros("class_token.weight", "positions.weight"))
    .base("DPTModel", with_pooler)
    .architecture("DPTForDepthEstimation", ("depth-estimation",), estimator, depth_keys, prefix="dpt")
    .head("DPTForSemanticSegmentation", "semantic-segmentation", segmenter, SCORE_KEYS)
    .done()
)
