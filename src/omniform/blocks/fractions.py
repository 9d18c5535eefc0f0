"""Positions of patches by how far along their own picture they lie (NaViT, https://arxiv.org/abs/2307.06304)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FractionPositions(nn.Module):
    """Learned positions of a square grid, which pictures of other shapes share out among their patches.

    A patch takes the learned position that lies as far along the square as it does along its own picture; what is
    padding takes the first.

    Args:
        side: rows, and columns, of the square.
        dim: width of a vector.
    """

    def __init__(self, side: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(side * side, dim))
        self.side = side

    def reset(self, std: float) -> None:
        """Start from small random numbers."""
        nn.init.normal_(self.weight, std=std)

    def forward(self, real_BHW: Tensor) -> Tensor:
        """The positions of pictures that fill the upper left of their grids.

        Args:
            real_BHW: true for patches of the picture. Shape: [B, rows, columns].

        Returns:
            Shape: [B, rows * columns, D].
        """
        rows, columns = self._nearest(real_BHW[:, :, 0]), self._nearest(real_BHW[:, 0])
        places = rows[:, :, None] * self.side + columns[:, None, :]
        return self.weight[torch.where(real_BHW, places, 0).flatten(1)]

    def _nearest(self, real_BN: Tensor) -> Tensor:
        """The row, or the column, that each patch along one edge takes. Shape: [B, N] in and out.

        In float32 and in this order: another rounding would move a patch on the edge to the next row.
        """
        share = torch.arange(real_BN.shape[1], dtype=torch.float32, device=real_BN.device) * (
            1.0 / real_BN.sum(dim=1, keepdim=True)
        )
        edges = torch.arange(1 / self.side, 1.0, 1 / self.side, dtype=torch.float32, device=real_BN.device)
        return torch.bucketize(share.clamp(max=1.0 - 1e-6), edges, right=True)

    def extra_repr(self) -> str:
        return f"side={self.side}"


class ResampledPositions(nn.Module):
    """Learned positions of a square grid, stretched or squeezed to the shape of each picture of a batch.

    As bilinear resampling gives them that looks at all that a coarser grid leaves out; but by weights that follow from
    shapes on their device, so that nothing waits for these, and a program for one shape is one for all.

    Args:
        side: rows, and columns, of the square.
        dim: width of a vector.
    """

    def __init__(self, side: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(side * side, dim))
        self.side = side

    def reset(self, std: float) -> None:
        """Start from small random numbers."""
        nn.init.normal_(self.weight, std=std)

    def forward(self, shapes_B2: Tensor, length: int) -> Tensor:
        """The positions of pictures, row by row; what is padding behind them stands where the first patch does.

        Args:
            shapes_B2: rows and columns of each picture.
            length: patches of the longest, with padding.

        Returns:
            Shape: [B, length, D].
        """
        rows, columns = shapes_B2[:, :1], shapes_B2[:, 1:]
        number = torch.arange(length, device=shapes_B2.device).expand(shapes_B2.shape[0], -1)
        number = torch.where(number < rows * columns, number, 0)
        down = self._shares(number // columns, rows)
        across = self._shares(number % columns, columns)
        shares_BNS = (down[..., :, None] * across[..., None, :]).flatten(2)
        return (shares_BNS.to(self.weight.device) @ self.weight.float()).to(self.weight.dtype)

    def _shares(self, place_BN: Tensor, count_B1: Tensor) -> Tensor:
        """How much of each learned row (or column) a patch takes, by its place among so many. Shape: [B, N, side]."""
        scale = self.side / count_B1.float()
        centre = (place_BN + 0.5) * scale
        learned = torch.arange(self.side, device=place_BN.device) + 0.5
        near = (1 - (learned - centre[..., None]).abs() / scale.clamp(min=1)[..., None]).clamp(min=0)
        return near / near.sum(-1, keepdim=True)

    def extra_repr(self) -> str:
        return f"side={self.side}"
