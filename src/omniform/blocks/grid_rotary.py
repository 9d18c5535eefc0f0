"""Rotary positions of the patches of a picture, by rows and columns (DINOv3, https://arxiv.org/abs/2508.10104)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from omniform.blocks.lowering import Value
from omniform.blocks.patches import Size
from omniform.blocks.rotary import in_float32, turned
from omniform.core.context import StepContext
from omniform.core.host import is_rounded

if TYPE_CHECKING:
    from omniform.blocks.builder import Builder

_FIELDS = tuple(f.name for f in fields(StepContext))


@dataclass(frozen=True, slots=True)
class GridContext(StepContext):
    """A step over the patches of a picture and the tokens around them.

    Attributes:
        grid: rows and columns of patches.
        places: of the patches, rows first. Shape: [N, 2], from -1 to 1; None where nobody turns by them.
    """

    grid: Size = (0, 0)
    places: Tensor | None = None

    @classmethod
    def of(cls, ctx: StepContext, grid: Size, places: Tensor | None = None) -> GridContext:
        """``ctx`` with a grid."""
        kept = {name: getattr(ctx, name) for name in _FIELDS}
        return cls(**kept, grid=grid, places=places)


@dataclass(frozen=True, slots=True)
class GridRotary:
    """Turns queries and keys of patches by their places; the tokens before the patches stay as they are.

    Half of the pairs of channels turn by the row, the others by the column; channel ``i`` is paired with
    channel ``i + dim / 2``.

    Attributes:
        dim: width of a head; a multiple of 4.
        base: how many times slower the slowest pair turns than the fastest, about.
    """

    dim: int
    base: float

    def __call__(self, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """Shape: [B, T, H, D] in and out."""
        if is_rounded(q_BTHD):
            return in_float32(self, q_BTHD, k_BTHD, ctx)
        assert isinstance(ctx, GridContext) and ctx.places is not None
        tokens, places, dtype = q_BTHD.shape[1], ctx.places, q_BTHD.dtype
        cos, sin = ctx.once((self, dtype), lambda: self._tables(places, tokens, dtype))
        return turned(q_BTHD, cos, sin), turned(k_BTHD, cos, sin)

    def lower_pair(self, b: Builder, q: Value, k: Value) -> tuple[Value, Value]:
        return b.rotate(q, self, neighbours=False), b.rotate(k, self, neighbours=False)

    def turns(self, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """See :class:`~omniform.blocks.operations.Turning`."""
        assert isinstance(ctx, GridContext) and ctx.places is not None
        cos, sin = self._tables(ctx.places, ctx.positions.shape[-1], torch.float32)
        return cos.transpose(0, 1), sin.transpose(0, 1)

    @property
    def by_position(self) -> bool:
        return False

    def _tables(self, places_N2: Tensor, tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every token's angles, computed in float32. Shape: [T, 1, dim] each."""
        steps = torch.arange(0, 1, 4 / self.dim, dtype=torch.float32, device=places_N2.device)
        angles = (2 * math.pi * places_N2[:, :, None] * (1 / self.base**steps)).flatten(1)
        cos, sin = angles.cos(), angles.sin()
        before = tokens - angles.shape[0]
        still = angles.new_zeros(before, self.dim)
        # The first half of the channels turns by minus the second: the sign is put into the table.
        cos = torch.cat((still + 1, torch.cat((cos, cos), dim=-1)))
        sin = torch.cat((still, torch.cat((-sin, sin), dim=-1)))
        return cos[:, None].to(dtype), sin[:, None].to(dtype)


class PatchPlaces(nn.Module):
    """Where the centres of patches are, from -1 at one edge of the picture to 1 at the other.

    In training all of them move together, so that what is learned holds for pictures of other sizes and shapes.

    Args:
        shift: rows and columns are moved by up to so much; None for not at all.
        jitter: each of the two axes is stretched, or squeezed, by up to this factor.
        rescale: both are, by the same.
    """

    def __init__(self, shift: float | None, jitter: float | None, rescale: float | None) -> None:
        super().__init__()
        self.shift = shift
        self.jitter = jitter
        self.rescale = rescale

    def forward(self, grid: Size, device: torch.device) -> Tensor:
        """Shape: [rows * columns, 2], rows first."""
        axes = [(torch.arange(n, dtype=torch.float32, device=device) + 0.5) / n for n in grid]
        places = 2.0 * torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1) - 1.0
        if not self.training:
            return places
        if self.shift is not None:
            places = places + places.new_empty(1, 2).uniform_(-self.shift, self.shift)
        for factor, axes_moved in ((self.jitter, (1, 2)), (self.rescale, (1,))):
            if factor is not None:
                most = abs(math.log(factor))
                places = places * places.new_empty(axes_moved).uniform_(-most, most).exp()
        return places

    def extra_repr(self) -> str:
        return f"shift={self.shift}, jitter={self.jitter}, rescale={self.rescale}"
