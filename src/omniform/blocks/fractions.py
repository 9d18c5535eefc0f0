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
