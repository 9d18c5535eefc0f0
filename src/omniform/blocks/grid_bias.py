"""Score biases for how far patches of a picture stand apart, and for the class token before them (BEiT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.grid_rotary import GridContext
from omniform.blocks.patches import Size
from omniform.core.context import Bias, StepContext, counted

TOKENS = 3
"""Entries of a table beyond its distances: the class token to a patch, a patch to it, and it to itself."""


def places_of(grid: Size, device: torch.device) -> Tensor:
    """For the class token and every patch of a grid, and each of these again, where their bias stands in a table.

    Returns:
        Shape: [1 + rows * columns, 1 + rows * columns].
    """
    (rows, columns), width = grid, 2 * grid[1] - 1
    row, column = torch.arange(rows, device=device), torch.arange(columns, device=device)
    down = (row[:, None] - row[None, :] + (rows - 1))[:, None, :, None]
    across = (column[:, None] - column[None, :] + (columns - 1))[None, :, None, :]
    between = (down * width + across).reshape(rows * columns, rows * columns)
    whole = F.pad(between, (1, 0, 1, 0))
    first = (2 * rows - 1) * width
    whole[0], whole[:, 0] = first, first + 1
    whole[0, 0] = first + 2
    return whole


class GridBias(nn.Module):
    """One learned number per head and distance on a grid; resampled for another grid (MiDaS v3.1's way).

    Args:
        grid: rows and columns that it was learned on.
        heads: number of heads.
        beside: what is added to it: a bias that layers share.
    """

    def __init__(self, grid: Size, heads: int, *, beside: SharedBias | None = None) -> None:
        super().__init__()
        self.grid = grid
        self.beside = beside
        self.weight = nn.Parameter(torch.zeros((2 * grid[0] - 1) * (2 * grid[1] - 1) + TOKENS, heads))

    def reset(self, std: float) -> None:
        """Start without a bias."""
        nn.init.zeros_(self.weight)

    def forward(self, q_BTHD: Tensor, k: Tensor, ctx: StepContext) -> Bias:
        """The bias of one step. Shape: [1, H, T, T]."""
        return self.of_step(ctx)

    def of_step(self, ctx: StepContext) -> Tensor:
        """See :class:`~omniform.blocks.operations.ByStep`."""
        assert isinstance(ctx, GridContext)
        grid = ctx.grid
        table, device = self.table(grid), self.weight.device
        places = ctx.once(("grid places", counted(grid[0]), counted(grid[1])), lambda: places_of(grid, device))
        bias = table[places].permute(2, 0, 1)[None]
        return bias if self.beside is None else bias + self.beside.of_step(ctx)

    def table(self, grid: Size) -> Tensor:
        """The numbers for a grid. Shape: [distances + 3, heads].

        A table of a grid that is no square is read with its axes changed over, as the reference reads it: checkpoints
        have learned it so.
        """
        height, width = (2 * length - 1 for length in self.grid)
        size = (2 * grid[0] - 1, 2 * grid[1] - 1)
        if size == (width, height):
            return self.weight
        distances = self.weight[:-TOKENS].view(1, width, height, -1).permute(0, 3, 1, 2)
        resampled = F.interpolate(distances, size=size, mode="bilinear")[0]
        return torch.cat((resampled.flatten(1).t(), self.weight[-TOKENS:]))

    def extra_repr(self) -> str:
        return f"grid={self.grid}, heads={self.weight.shape[1]}"


@dataclass(frozen=True, slots=True)
class SharedBias:
    """A bias that all layers share, and none of them holds: it is computed once per step.

    Attributes:
        bias: the module, which is the encoder's.
    """

    bias: GridBias

    def __call__(self, q_BTHD: Tensor, k: Tensor, ctx: StepContext) -> Bias | None:
        return ctx.once(("grid bias", id(self.bias)), lambda: cast(Tensor, self.bias(q_BTHD, k, ctx)))

    def of_step(self, ctx: StepContext) -> Tensor:
        """See :class:`~omniform.blocks.operations.ByStep`."""
        return ctx.once(("grid bias", id(self.bias)), lambda: self.bias.of_step(ctx))
