"""Depth: how far away every pixel is. What the families differ in is what stands below, their necks and their heads."""

from __future__ import annotations

from typing import Unpack, cast

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.backbone import Backbone
from omniform.architectures.depth_neck import DepthNeck, doubled
from omniform.architectures.model import Model
from omniform.blocks.patches import Size
from omniform.core.context import Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import BackboneOutput, DepthEstimatorOutput


class DepthEstimator(Model):
    """Base of the models of depth; there is no loss, as in the reference."""

    main_input = "pixel_values"

    def arrive(self, inputs: dict[str, object]) -> None:
        if inputs.get("labels") is not None:
            raise InputError("models of depth have no loss", where="labels", remedy="Compute it from predicted_depth.")


def grid_of(pixel_values: Tensor, patch: int) -> Size:
    """Rows and columns of square patches in pictures.

    Raises:
        InputError: no pictures, or pictures smaller than a patch.
    """
    if not isinstance(pixel_values, Tensor) or pixel_values.dim() != 4 or min(pixel_values.shape[2:]) < patch:
        found = list(pixel_values.shape) if isinstance(pixel_values, Tensor) else type(pixel_values).__name__
        raise InputError(
            "the pictures do not fit the model",
            where="pixel_values",
            expected=f"[batch, channels, height, width] of at least {patch} pixels",
            found=found,
        )
    return pixel_values.shape[2] // patch, pixel_values.shape[3] // patch


class BackboneDepth(DepthEstimator):
    """Depth on any backbone.

    Args:
        backbone: pictures to tokens of some layers, or to maps, from fine to coarse.
        neck: fuses these.
        head: fused maps to depth; also told the grid of patches.
        patch: side of a patch in pixels.
    """

    backbone: Backbone
    neck: DepthNeck
    head: nn.Module
    patch: int

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **given: Unpack[Tapped]
    ) -> DepthEstimatorOutput:
        """How far away each pixel is.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            labels: refused: there is no loss.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: labels; pictures of the wrong shape.
        """
        grid = grid_of(pixel_values, self.patch)
        out = cast(BackboneOutput, self.backbone(pixel_values, **given))
        assert out.feature_maps is not None
        depth = self.head(self.neck(out.feature_maps, grid), grid)
        return DepthEstimatorOutput(predicted_depth=depth, hidden_states=out.hidden_states, attentions=out.attentions)


class DepthHead(nn.Module):
    """Convolutions at half the size and at the whole (DPT).

    Args:
        dim: channels of the fused maps.
        index: which of them is read.
        hidden: channels before the last convolution.
        projected: whether there is one more convolution in front.
    """

    def __init__(self, dim: int, index: int, *, hidden: int = 32, projected: bool = False) -> None:
        super().__init__()
        self.index = index
        self.projection = nn.Conv2d(dim, dim, kernel_size=3, padding=1) if projected else None
        self.conv1 = nn.Conv2d(dim, dim // 2, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(dim // 2, hidden, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(hidden, 1, kernel_size=1)

    def seen(self, fused: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Depth, and what it is told from. Shape: [B, H, W] and [B, hidden, H, W]."""
        x = fused[self.index]
        if self.projection is not None:
            x = F.relu(self.projection(x))
        features = F.relu(self.conv2(doubled(self.conv1(x))))
        return F.relu(self.conv3(features)).squeeze(1), features

    def forward(self, fused: list[Tensor], grid: Size) -> Tensor:
        """Fused maps to depth. Shape: [B, C, h, w] each to [B, H, W]."""
        return self.seen(fused)[0]
