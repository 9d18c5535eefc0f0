"""Normalisations. ``LayerNorm`` is torch's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root mean square normalisation (https://arxiv.org/abs/1910.07467), computed in float32.

    Args:
        dim: width of the last axis.
        eps: added to the mean square.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis. Shape: [..., D] in and out."""
        # torch's own without a weight: the weight is applied in its dtype, after the result was rounded to it.
        normed = F.rms_norm(x.float(), self.weight.shape, None, self.eps)
        normed = normed.to(self.weight.dtype)
        return self.weight * normed if torch.is_grad_enabled() else normed.mul_(self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"
