"""Sines of any position: counted over what is no padding, or by a learned share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.embeddings import Embeddings
from omniform.core.context import StepContext


def sines_then_cosines(places: Tensor, dim: int) -> Tensor:
    """Sines, and cosines after them, whose slowest wavelength is 20000 pi. Shape: [...] to [..., dim], float32."""
    half, odd = divmod(dim, 2)
    channels = torch.arange(half, dtype=torch.float32, device=places.device)
    angles = places[..., None] * torch.exp(channels * -(math.log(10000.0) / (half - 1)))
    return F.pad(torch.cat((angles.sin(), angles.cos()), dim=-1), (0, odd))


def cosines_then_sines(places: Tensor, dim: int) -> Tensor:
    """The same the other way round. Shape: [...] to [..., dim], float32."""
    half, both = dim // 2, sines_then_cosines(places, dim)
    return torch.cat((both[..., half : 2 * half], both[..., :half], both[..., 2 * half :]), dim=-1)


def sines_by_turns(places: Tensor, dim: int) -> Tensor:
    """Sines and cosines by turns (https://arxiv.org/abs/1706.03762). Shape: [...] to [..., dim], float32."""
    channels = torch.arange(0, dim, 2, dtype=torch.float32, device=places.device)
    angles = places[..., None] * torch.exp(channels * -(math.log(10000.0) / dim))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[..., :dim]


class CountedSinusoids(Embeddings):
    """Sines of any position, counted over what is no padding; padding stands nowhere, at -1 (M2M-100, SpeechT5).

    Attributes:
        dim: width of the vectors.
        padding: the padding token, whose number the reference counts on from.
    """

    dim: int
    padding: int

    def count(self, input_ids: Tensor | None, tokens: Tensor, past: int) -> Tensor | None:
        if input_ids is None:
            return None
        real = (input_ids != self.padding).long()
        return (real.cumsum(1) + past) * real - 1

    def stand(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        return positions.masked_fill(input_ids == self.padding, -1)

    def placed(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors in their places. Shape: [B, T, D] in and out."""
        sines = sines_then_cosines(ctx.positions + self.padding + 1, self.dim) * (ctx.positions >= 0)[..., None]
        return embeds_BTD + sines.to(embeds_BTD.dtype)

    def forward(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        return super().forward(self.placed(embeds_BTD, ctx), ctx)


class NormedCountedSinusoids(CountedSinusoids):
    """The same with a norm behind them (TrOCR).

    Attributes:
        norm: None for none.
    """

    norm: nn.Module | None = None

    def forward(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        placed = self.placed(embeds_BTD, ctx)
        return Embeddings.forward(self, placed if self.norm is None else self.norm(placed), ctx)


class WeighedSines(nn.Module):
    """Sines whose share is learned (https://arxiv.org/abs/1809.08895, section 3.2).

    Args:
        dim: width of the vectors.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.alpha = nn.Parameter(torch.empty(()))

    def reset(self, std: float) -> None:
        """All of them."""
        self.alpha.fill_(1.0)

    def forward(self, places: Tensor) -> Tensor:
        """Shape: [...] to [..., dim]."""
        return self.alpha * sines_by_turns(places, self.dim).to(self.alpha.dtype)
