"""Attention on maps whose scores know rows and columns apart (MViTv2, https://arxiv.org/abs/2112.01526, section 4.1).

What a query adds to its scores is a product with a vector for how far a key lies below it, and one for how far beside.
Some layers attend within squares of the map, others over all of it (ViTDet, https://arxiv.org/abs/2203.16527).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from omniform.blocks.attend import attend, computed_whole
from omniform.blocks.attention import Projections
from omniform.blocks.joint import outputs_of
from omniform.blocks.patches import Learned, Size
from omniform.blocks.windowed import Windows
from omniform.core.context import EVERYTHING, Backend, Computed, StepContext, counted
from omniform.core.errors import InputError
from omniform.core.state import KV


class Reach(Protocol):
    """How far the tokens of a map see: what the map is cut into, within which they attend."""

    def cut(self, x_BHWC: Tensor) -> Tensor:
        """The pieces of a map. Shape: [B, H, W, C] to [B * pieces, T, C]."""
        ...

    def join(self, pieces: Tensor, grid: Size, stride: Size) -> Tensor:
        """The map that pieces make. Shape: [B * pieces, T, C] to [B, H, W, C].

        Args:
            grid: rows and columns of the map that was cut.
            stride: how many of its rows and columns have become one.

        Raises:
            InputError: pieces that have become smaller make no map.
        """
        ...

    def piece(self, grid: Size) -> Size:
        """Rows and columns of a piece of a map."""
        ...


@dataclass(frozen=True, slots=True)
class Squares:
    """Tokens see those of their square; what is missing at the edges is filled with zeros, which are seen too.

    Attributes:
        side: of a square.
    """

    side: int

    def cut(self, x_BHWC: Tensor) -> Tensor:
        """See :class:`Reach`."""
        return Windows(self.side, 0, (x_BHWC.shape[1], x_BHWC.shape[2])).cut(x_BHWC)

    def join(self, pieces: Tensor, grid: Size, stride: Size) -> Tensor:
        """See :class:`Reach`."""
        fine = Windows(self.side, 0, grid)
        coarse = Windows(self.side // stride[0], 0, (grid[0] // stride[0], grid[1] // stride[1]))
        if stride[0] != stride[1] or coarse.squares != fine.squares:
            raise InputError(
                "squares of this map do not make a coarser one",
                where="pixel_values",
                expected=f"maps whose sides are multiples of {max(stride)}",
                found=f"{grid[0]} x {grid[1]}",
                remedy="Resize the pictures.",
            )
        return coarse.join(pieces)

    def piece(self, grid: Size) -> Size:
        """Rows and columns of a piece of a map."""
        return self.side, self.side


@dataclass(frozen=True, slots=True)
class Everywhere:
    """Tokens see the whole map."""

    def cut(self, x_BHWC: Tensor) -> Tensor:
        """See :class:`Reach`."""
        return x_BHWC.flatten(1, 2)

    def join(self, pieces: Tensor, grid: Size, stride: Size) -> Tensor:
        """See :class:`Reach`."""
        return pieces.view(pieces.shape[0], grid[0] // stride[0], grid[1] // stride[1], -1)

    def piece(self, grid: Size) -> Size:
        """Rows and columns of a piece of a map."""
        return grid


class DecomposedBias(nn.Module):
    """A learned vector for every distance between rows, and one for every distance between columns.

    Args:
        grid: rows and columns of what is attended within.
        head_dim: width of a query.
    """

    def __init__(self, grid: Size, head_dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.rows = Learned(2 * grid[0] - 1, head_dim)
        self.columns = Learned(2 * grid[1] - 1, head_dim)

    def forward(self, q_BTHD: Tensor, ctx: StepContext) -> Tensor:
        """What queries add to their scores, before these are scaled. Shape: [B, T, H, D] to [B, H, T, T]."""
        (height, width), device = self.grid, q_BTHD.device
        below = self.rows.weight[ctx.once(("apart", counted(height)), lambda: _apart(height, device))]
        beside = self.columns.weight[ctx.once(("apart", counted(width)), lambda: _apart(width, device))]
        q_BYXHD = q_BTHD.view(q_BTHD.shape[0], *self.grid, *q_BTHD.shape[2:])
        vertical = torch.einsum("byxhd,ykd->bhyxk", q_BYXHD, below)
        horizontal = torch.einsum("byxhd,xkd->bhyxk", q_BYXHD, beside)
        return (vertical[..., None] + horizontal[..., None, :]).flatten(4).flatten(2, 3)

    def extra_repr(self) -> str:
        return f"grid={self.grid}"


class MapAttention(Projections):
    """Attention of a map's tokens to the others of their piece.

    Args:
        reach: what a piece is.
        bias: what queries add to their scores for where keys lie; None for nothing.
    """

    JOINT: ClassVar[tuple[tuple[str, ...], ...]] = (("q_proj", "k_proj", "v_proj"),)

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        reach: Reach,
        bias: DecomposedBias | None = None,
        biases: str = "qkvo",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim, heads, biases=biases, dropout=dropout)
        self.reach = reach
        self.bias = bias

    def state_spec(self) -> KV:
        return KV(self.kv_heads, self.head_dim, self.head_dim)

    def computed(self, backend: Backend) -> Computed:
        why = "the pieces of a map see themselves whole; distances are added to the scores"
        return computed_whole(backend, self.scores, why, biased=self.bias is not None)

    def forward(self, x_BHWC: Tensor, ctx: StepContext) -> Tensor:
        """Attend within the pieces. Shape: [B, H, W, C] in and out."""
        pieces = self.reach.cut(x_BHWC)
        q, k, v = map(self.split, outputs_of(pieces, self.q_proj, self.k_proj, self.v_proj))
        mixed = attend(
            q,
            k.transpose(1, 2),
            v.transpose(1, 2),
            EVERYTHING,
            scores=self.scores,
            backend=ctx.backend,
            bias=None if self.bias is None else self.bias(q, ctx),
            dropout=self.dropout if self.training else 0.0,
            weights=ctx.taps.attentions if ctx.taps.wants_attentions else None,
        )
        return self.reach.join(self.o_proj(mixed), (x_BHWC.shape[1], x_BHWC.shape[2]), (1, 1))

    def extra_repr(self) -> str:
        return f"reach={self.reach}"


def _apart(side: int, device: torch.device) -> Tensor:
    """For every two places of an axis, where the vector for their distance stands. Shape: [side, side]."""
    place = torch.arange(side, device=device)
    return place[:, None] - place[None, :] + (side - 1)
