"""What a user points at, as vectors: points, boxes and masks (SAM, https://arxiv.org/abs/2304.02643, appendix A)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.convnext import MapNorm
from omniform.blocks.mlp import activation
from omniform.blocks.patches import Size

NOWHERE, PADDING = -1, -10
"""Labels of points that are none: the first stands for itself, the second for nothing at all."""


class FourierPlaces(nn.Module):
    """Places as sines and cosines along random directions (https://arxiv.org/abs/2006.10739).

    Args:
        features: how many directions; half the width of a vector.
        scale: spread of the directions.
    """

    def __init__(self, features: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.hold(torch.empty(2, features))

    def hold(self, directions: Tensor) -> None:
        """Keep the directions as what is learned."""
        self.positional_embedding: Tensor = nn.Parameter(directions)

    def reset(self, std: float) -> None:
        """Start with directions of the spread."""
        nn.init.normal_(self.positional_embedding, std=self.scale)

    def forward(self, places: Tensor) -> Tensor:
        """Shape: [..., 2], x and y in [0, 1], to [..., D]."""
        turns = (2 * places - 1).to(self.positional_embedding.dtype) @ self.positional_embedding
        angles = 2 * math.pi * turns
        return torch.cat((angles.sin(), angles.cos()), dim=-1)

    def grid(self, size: Size) -> Tensor:
        """The middles of a map's places. Shape: [1, D, H, W]."""
        height, width = size
        like = self.positional_embedding
        y = (torch.arange(1, height + 1, device=like.device, dtype=like.dtype) - 0.5) / height
        x = (torch.arange(1, width + 1, device=like.device, dtype=like.dtype) - 0.5) / width
        places = torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), dim=-1)
        vectors: Tensor = self(places)
        return vectors.permute(2, 0, 1)[None]

    def extra_repr(self) -> str:
        return f"{self.positional_embedding.shape[1]}, scale={self.scale}"


class FixedFourierPlaces(FourierPlaces):
    """Places along directions that are not learned, and kept in files (SAM 2)."""

    def hold(self, directions: Tensor) -> None:
        """Keep the directions as what is not learned."""
        self.register_buffer("positional_embedding", directions)


class MaskEmbedding(nn.Module):
    """A mask as a map of vectors, a quarter as high and wide.

    Args:
        channels: between the convolutions.
        dim: width of the vectors.
        act: name of the activation.
        eps: of the norms.
    """

    def __init__(self, channels: int, dim: int, act: str, eps: float) -> None:
        super().__init__()
        few = channels // 4
        self.conv1 = nn.Conv2d(1, few, kernel_size=2, stride=2)
        self.conv2 = nn.Conv2d(few, channels, kernel_size=2, stride=2)
        self.conv3 = nn.Conv2d(channels, dim, kernel_size=1)
        self.layer_norm1 = MapNorm(few, eps)
        self.layer_norm2 = MapNorm(4 * few, eps)
        self._act = activation(act)

    def forward(self, masks_B1HW: Tensor) -> Tensor:
        """Shape: [B, 1, H, W] to [B, D, H / 4, W / 4]."""
        fine = self._act(self.layer_norm1(self.conv1(masks_B1HW.to(self.conv1.weight.dtype))))
        map_BDHW: Tensor = self.conv3(self._act(self.layer_norm2(self.conv2(fine))))
        return map_BDHW


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a mask decoder is told.

    Attributes:
        sparse: points and corners of boxes, Shape: [B, prompts, points, D]; None for none.
        dense: the mask, or that there is none, Shape: [B or 1, D, H, W].
    """

    sparse: Tensor | None
    dense: Tensor


class PromptEncoder(Composed):
    """Points, boxes and masks as vectors.

    Args:
        shared_embedding: places as vectors.
        mask_embed: masks as maps.
        no_mask_embed: the map's vector where there is no mask.
        not_a_point_embed: of points that are none.
        kinds: vectors of what points are: outside, inside, and the corners of a box.
        image_size: pixels that a side of the model's pictures has.
        map_size: rows and columns of the map.
    """

    shared_embedding: FourierPlaces
    mask_embed: MaskEmbedding
    no_mask_embed: nn.Embedding
    not_a_point_embed: nn.Embedding
    kinds: nn.Module
    image_size: int
    map_size: Size

    def forward(
        self, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, masks: Tensor | None
    ) -> Prompt:
        """See :meth:`~omniform.architectures.prompted.PromptedSegmenter.forward` for the arguments."""
        told: list[Tensor] = []
        if points is not None:
            assert labels is not None
            told.append(self.points(points, labels, closed=boxes is None))
        if boxes is not None:
            told.append(self.corners(boxes))
        if masks is not None:
            dense = self.mask_embed(masks)
        else:
            rows = told[0].shape[0] if told else 1
            dense = self.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(rows, -1, *self.map_size)
        return Prompt(sparse=torch.cat(told, dim=2) if told else None, dense=dense)

    def places(self, pixels: Tensor) -> Tensor:
        """Vectors of the middles of pixels. Shape: [..., 2] to [..., D]."""
        vectors: Tensor = self.shared_embedding((pixels + 0.5) / self.image_size)
        return vectors

    def points(self, pixels: Tensor, labels: Tensor, *, closed: bool) -> Tensor:
        """Vectors of points.

        Args:
            pixels: Shape: [B, prompts, points, 2].
            labels: Shape: [B, prompts, points].
            closed: whether a point that is none ends each prompt; a box does, where there is one.

        Returns:
            Shape: [B, prompts, points, or one more, D].
        """
        if closed:
            pixels, labels = F.pad(pixels, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=NOWHERE)
        vectors = self.places(pixels)
        which = labels[..., None]
        vectors = torch.where(which == NOWHERE, self.not_a_point_embed.weight, vectors)
        vectors = torch.where(which == PADDING, torch.zeros_like(vectors), vectors)
        return vectors + self.kinds_of(labels).to(vectors.dtype)

    def kinds_of(self, labels: Tensor) -> Tensor:
        """What points are, by their labels; zeros for other labels. Shape: [B, prompts, points] to [..., D]."""
        which, kinds = labels[..., None], self.vectors()
        inside = torch.where(which == 1, kinds[1], torch.zeros_like(kinds[1]))
        return torch.where(which == 0, kinds[0], inside)

    def vectors(self) -> Tensor:
        """The vectors of all kinds. Shape: [kinds, D]."""
        assert isinstance(self.kinds, nn.ModuleList)
        return torch.cat([cast(nn.Embedding, table).weight for table in self.kinds])

    def corners(self, boxes: Tensor) -> Tensor:
        """Vectors of the first and the last corner of boxes. Shape: [B, boxes, 4] to [B, boxes, 2, D]."""
        vectors = self.places(boxes.reshape(*boxes.shape[:2], 2, 2))
        return vectors + self.vectors()[2:4]


class TablePromptEncoder(PromptEncoder):
    """One whose kinds of points are one table, and whose boxes end with a point that is none (SAM 2)."""

    def kinds_of(self, labels: Tensor) -> Tensor:
        real = labels >= 0
        # An embedding takes integers only; where labels are none, whatever it gives is left out.
        known: Tensor = self.kinds(labels.clamp(min=0).long())
        return known * real[..., None]

    def vectors(self) -> Tensor:
        assert isinstance(self.kinds, nn.Embedding)
        return self.kinds.weight

    def corners(self, boxes: Tensor) -> Tensor:
        """Shape: [B, boxes, 4] to [B, boxes, 3, D]."""
        two = super().corners(boxes)
        none = self.not_a_point_embed.weight.to(two.dtype).expand(*two.shape[:2], 1, -1)
        return torch.cat((two, none), dim=2)
