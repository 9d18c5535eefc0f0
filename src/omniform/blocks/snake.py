"""Snake activations (https://arxiv.org/abs/2006.08195): what sounds repeat, layers keep."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SnakeBeta(nn.Module):
    """``x + sin(a x)^2 / b``, with an ``a`` and a ``b`` of its own for every channel, kept as logarithms.

    Args:
        channels: of what is read.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels))
        self.beta = nn.Parameter(torch.empty(channels))

    def reset(self, std: float) -> None:
        """Both begin as one."""
        nn.init.zeros_(self.alpha)
        nn.init.zeros_(self.beta)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] in and out."""
        often, high = self.alpha.exp()[:, None], self.beta.exp()[:, None]
        return x_BCT + (x_BCT * often).sin().square() / (high + 1e-9)
