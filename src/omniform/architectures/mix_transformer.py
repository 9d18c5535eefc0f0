"""Mix transformers (https://arxiv.org/abs/2105.15203): encoders of stages without positions, and a head of theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.architectures.semantic import SemanticSegmenter, enlarged
from omniform.blocks.composed import Composed
from omniform.blocks.drop_path import DropPath
from omniform.blocks.layers import Layer, passed
from omniform.blocks.patches import check_pictures
from omniform.blocks.reduced import MapAttention, OverlappingPatches, as_map, channels_last
from omniform.core.context import StepContext, Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, ClassifierOutput


class MixLayer(Layer):
    """A pre-norm layer on a map, whose branches are left out for some pictures in training."""

    layernorm_before: nn.Module
    attention: MapAttention
    layernorm_after: nn.Module
    mlp: nn.Module
    drop_path: DropPath

    def forward(self, x_BHWC: Tensor, ctx: StepContext) -> Tensor:
        x_BHWC = self.add(x_BHWC, self.attention(self.layernorm_before(x_BHWC), ctx), ctx)
        return self.add(x_BHWC, self.mlp(self.layernorm_after(x_BHWC)), ctx)

    def add(self, x_BTD: Tensor, branch_BTD: Tensor, ctx: StepContext) -> Tensor:
        branch_BTD = F.dropout(branch_BTD, self.dropout, self.training)
        kept: Tensor = self.drop_path(branch_BTD)
        return x_BTD + kept


class MixStage(Composed):
    """A map to a coarser one."""

    patch_embeddings: OverlappingPatches
    blocks: nn.ModuleList
    layer_norm: nn.Module

    def forward(self, x_BCHW: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, C, H, W] to [B, H', W', C']."""
        x_BHWC = self.patch_embeddings(x_BCHW)
        for number, layer in enumerate(self.blocks):
            x_BHWC = passed(layer, number, x_BHWC, ctx)
        normed: Tensor = self.layer_norm(x_BHWC)
        return normed


class MixEncoder(Model):
    """Stages from fine to coarse, without positions: convolutions between the layers tell where a place is.

    Args:
        stages: each halves the map, or so.
        channels: of a picture.
        last_as_map: whether the last stage's output is a map and not a row of places.
    """

    main_input = "pixel_values"

    stages: nn.ModuleList
    channels: int
    last_as_map: bool

    def get_input_embeddings(self) -> nn.Module:
        return cast(MixStage, self.stages[0]).patch_embeddings

    def arrive(self, inputs: dict[str, object]) -> None:
        pixels = inputs.get("pixel_values")
        if not isinstance(pixels, Tensor):
            raise InputError("there are no pictures", where="pixel_values", expected="a tensor", found=str(pixels))
        check_pictures(pixels, self.channels)
        height, width = pixels.shape[2:]
        for stage in cast("Iterable[MixStage]", self.stages):
            height, width = stage.patch_embeddings.grid_of(height, width)
            least = max([layer.attention.least for layer in cast("Iterable[MixLayer]", stage.blocks)], default=1)
            if min(height, width) < least:
                raise InputError(
                    "the pictures are too small for the model's stages",
                    where="pixel_values",
                    found=f"shape {list(pixels.shape)}",
                    remedy="Enlarge them, or pad them.",
                )

    def maps(self, pixel_values: Tensor, ctx: StepContext) -> tuple[Tensor, ...]:
        """The map of every stage, from fine to coarse. Shape: [B, C, H, W] each."""
        x_BCHW, maps = pixel_values.to(self.dtype), []
        for number, stage in enumerate(self.stages):
            x_BCHW = as_map(stage(x_BCHW, ctx))
            maps.append(x_BCHW)
            ctx.taps.hidden(self.shown(number, x_BCHW))
        return tuple(maps)

    def shown(self, number: int, x_BCHW: Tensor) -> Tensor:
        """What a stage's map is to whoever asks: the last may be a row of places. Shape: [B, C, H, W] or [B, T, C]."""
        if self.last_as_map or number < len(self.stages) - 1:
            return x_BCHW
        return x_BCHW.flatten(2).transpose(1, 2)

    def forward(self, pixel_values: Tensor | None = None, **given: Unpack[Tapped]) -> BaseModelOutput:
        """The coarsest map of pictures.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            given: see :class:`~omniform.core.context.Tapped`; of hidden states there is one per stage.

        Raises:
            InputError: no pictures, or pictures of the wrong shape.
        """
        assert pixel_values is not None
        ctx = self.step(pixel_values, given)
        last = self.shown(len(self.stages) - 1, self.maps(pixel_values, ctx)[-1])
        return BaseModelOutput(last_hidden_state=last, **ctx.taps.noted())


class LinearProjection(nn.Module):
    """One stage's channels to those of the head."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inner, outer)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, D, H, W]."""
        return as_map(self.proj(channels_last(x_BCHW)))


class Fusion(nn.Conv2d):
    """A convolution of 1x1 over maps side by side that have different sizes, enlarged to that of the last.

    Enlarging is linear and works channel by channel, so each map goes through its part of the convolution at its own
    size: the sum is the same, most of the work is done on small maps, and nothing is laid side by side.
    """

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__(inner, outer, kernel_size=1, bias=False)

    def forward(self, input: Tensor | Sequence[Tensor]) -> Tensor:
        """Shape: [B, C, H, W] of one map, or of several in the order of the channels, to [B, D, H, W] of the last."""
        if isinstance(input, Tensor):
            return super().forward(input)
        parts = torch.split(self.weight.flatten(1), [x.shape[1] for x in input], dim=1)
        maps = [as_map(F.linear(channels_last(x), part)) for x, part in zip(input, parts, strict=True)]
        *coarse, total = maps
        for x in coarse:
            total = total + enlarged(x, total.shape[2:])
        return total


class DecodeHead(nn.Module):
    """The maps of all stages, enlarged to the finest and put together, to class scores.

    Args:
        inner: channels of the maps, from fine to coarse.
        dim: channels that each becomes.
        classes: how many scores a place has.
        dropout: before the classifier, in training.
    """

    def __init__(self, inner: Sequence[int], dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.linear_projections = nn.ModuleList(LinearProjection(channels, dim) for channels in inner)
        self.linear_fuse: nn.Module = Fusion(dim * len(inner), dim)
        self.batch_norm = nn.BatchNorm2d(dim)
        self.classifier = nn.Conv2d(dim, classes, kernel_size=1)
        self.dropout = dropout

    def forward(self, maps_BCHW: Sequence[Tensor]) -> Tensor:
        """Shape: [B, C, H, W] each, from fine to coarse, to [B, classes, H, W] of the finest."""
        fused = F.relu(self.batch_norm(self.fused(maps_BCHW)))
        scores: Tensor = self.classifier(F.dropout(fused, self.dropout, self.training))
        return scores

    def fused(self, maps_BCHW: Sequence[Tensor]) -> Tensor:
        """What the maps are together, at the size of the finest. Shape: as above."""
        projected = [project(x) for project, x in zip(self.linear_projections, maps_BCHW, strict=True)][::-1]
        if isinstance(self.linear_fuse, Fusion):
            together: Tensor = self.linear_fuse(projected)
            return together
        # What an adapter or a quantizer has put in its place reads one tensor.
        size = projected[-1].shape[2:]
        side_by_side: Tensor = self.linear_fuse(torch.cat([enlarged(x, size) for x in projected], dim=1))
        return side_by_side


class MixSegmenter(SemanticSegmenter):
    """A class for every place of the finest map."""

    model: MixEncoder
    decode_head: DecodeHead

    def arrive(self, inputs: dict[str, object]) -> None:
        self.model.arrive(inputs)

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        num_items_in_batch: Tensor | int | None = None,
        **given: Unpack[Tapped],
    ) -> ClassifierOutput:
        """Class scores of places.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            labels: the class of every pixel; gives a loss. Shape: [B, height, width].
            num_items_in_batch: how many pixels count in all batches of a step, if not those of this one.
            given: see :class:`~omniform.core.context.Tapped`.
        """
        ctx = self.step(pixel_values, given)
        logits = self.decode_head(self.model.maps(pixel_values, ctx))
        return self.answer(logits, labels, ctx.taps.noted(), items=num_items_in_batch)
