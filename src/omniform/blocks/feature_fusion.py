"""Two maps of one sound made into one (attentional feature fusion, https://arxiv.org/abs/2009.14082).

Only some rows of a batch have two. Which ones is known to the device alone, so that all rows are computed; a batch's
statistics are those of the rows that have two.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RowsBatchNorm(nn.BatchNorm2d):
    """Batch normalisation that learns from some of the rows, as if there were no others."""

    def forward(self, x_BCHW: Tensor, counts_B: Tensor) -> Tensor:  # type: ignore[override]
        """Norm all rows.

        Args:
            x_BCHW: Shape: [B, C, H, W].
            counts_B: Shape: [B], true for rows whose numbers count.
        """
        if not self.training:
            return super().forward(x_BCHW)
        x = x_BCHW.float()
        weights, rows = counts_B.float()[:, None, None, None], counts_B.sum()
        numbers = (rows * x.shape[2] * x.shape[3]).float().clamp(min=1)
        mean = (x * weights).sum((0, 2, 3)) / numbers
        apart = x - mean[:, None, None]
        variance = (apart.square() * weights).sum((0, 2, 3)) / numbers
        self._learn(rows > 0, mean.detach(), variance.detach() * numbers / (numbers - 1).clamp(min=1))
        scale = (variance + self.eps).rsqrt() * self.weight
        return (apart * scale[:, None, None] + self.bias[:, None, None]).to(x_BCHW.dtype)

    @torch.no_grad()
    def _learn(self, any_counts: Tensor, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        for kept, new in ((self.running_mean, mean), (self.running_var, variance)):
            kept.add_(torch.where(any_counts, self.momentum * (new - kept), 0).to(kept.dtype))
        self.num_batches_tracked.add_(any_counts.to(self.num_batches_tracked.dtype))


class FusionBranch(nn.Module):
    """What says of each channel how much of the one map is taken, and how much of the other.

    Args:
        channels: of the maps.
        inner: of what lies between.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, inner, 1)
        self.down_norm = RowsBatchNorm(inner)
        self.up = nn.Conv2d(inner, channels, 1)
        self.up_norm = RowsBatchNorm(channels)

    def forward(self, x_BCHW: Tensor, counts_B: Tensor) -> Tensor:
        """Shape: [B, C, H, W] in and out; ``counts_B``: see :class:`RowsBatchNorm`."""
        inner = F.relu(self.down_norm(self.down(x_BCHW), counts_B))
        out: Tensor = self.up_norm(self.up(inner), counts_B)
        return out


class FeatureFusion(nn.Module):
    """Weighs two maps by what stands at each place, and by what stands on the whole map.

    Args:
        channels: of the maps.
        inner: of what lies between.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.local = FusionBranch(channels, inner)
        self.whole = FusionBranch(channels, inner)

    def forward(self, x_BCHW: Tensor, other_BCHW: Tensor, counts_B: Tensor) -> Tensor:
        """Shape: [B, C, H, W] each, in and out; ``counts_B``: see :class:`RowsBatchNorm`."""
        both = x_BCHW + other_BCHW
        share = torch.sigmoid(self.local(both, counts_B) + self.whole(both.mean((2, 3), keepdim=True), counts_B))
        return 2 * x_BCHW * share + 2 * other_BCHW * (1 - share)
