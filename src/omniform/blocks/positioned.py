"""Attention on pictures of any size: places as vectors that are added to queries and keys, and not to values.

They differ from step to step, so they travel in a context of their own, :class:`PlacedContext`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor, nn

from omniform.blocks.attention import Attention, CrossAttention
from omniform.core.context import StepContext
from omniform.core.errors import InputError

_FIELDS = tuple(f.name for f in fields(StepContext))


@dataclass(frozen=True, slots=True)
class PlacedContext(StepContext):
    """A step whose queries, and the memory that they look at, have places.

    Attributes:
        places: of this step's tokens. Shape: [B or 1, T, D].
        memory_places: of the memory's. Shape: [B or 1, S, D].
    """

    places: Tensor | None = None
    memory_places: Tensor | None = None

    @classmethod
    def of(cls, ctx: StepContext, places: Tensor | None, memory_places: Tensor | None = None) -> PlacedContext:
        """``ctx`` with places."""
        kept = {name: getattr(ctx, name) for name in _FIELDS}
        return cls(**kept, places=places, memory_places=memory_places)


def placed(x_BTD: Tensor, places: Tensor | None) -> Tensor:
    """Hidden states with their places added."""
    return x_BTD if places is None else x_BTD + places


class PositionedAttention(Attention):
    """Self-attention whose queries and keys, and not values, are made of hidden states plus their places."""

    JOINT: ClassVar[tuple[tuple[str, ...], ...]] = ()

    def queries_keys_values(self, x_BTD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor, Tensor]:
        assert isinstance(ctx, PlacedContext)
        here = placed(x_BTD, ctx.places)
        return self.split(self.q_proj(here)), self.split(self.k_proj(here)), self.split(self.v_proj(x_BTD))


class PositionedCrossAttention(CrossAttention):
    """Cross-attention with places on the queries and on the memory's keys."""

    def asking(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        assert isinstance(ctx, PlacedContext)
        return placed(x_BTD, ctx.places)

    def keys_values(self, ctx: StepContext) -> tuple[Tensor, Tensor]:
        assert isinstance(ctx, PlacedContext) and ctx.memory is not None
        k = self.split(self.k_proj(placed(ctx.memory.hidden, ctx.memory_places)))
        return k.transpose(1, 2), self.split(self.v_proj(ctx.memory.hidden)).transpose(1, 2)


class SinePlaces(nn.Module):
    """Sines and cosines of a pixel's row and column, as parts of a full turn of the picture (padding left out).

    The first half of the channels tells the row, the second half the column (https://arxiv.org/abs/2005.12872,
    appendix A.4).

    Args:
        dim: width of a position vector; a multiple of 4.
        temperature: the longest wavelength, in turns.
        shift: how far before its end a pixel is taken to be, in pixels.
    """

    def __init__(self, dim: int, *, temperature: float = 10000.0, shift: float = 0.0) -> None:
        super().__init__()
        self.dim = dim
        self.shift = shift
        self.temperature = temperature

    def forward(self, real_BHW: Tensor, dtype: torch.dtype) -> Tensor:
        """Position vectors of a map, row by row.

        Args:
            real_BHW: Shape: [B, H, W], True inside the picture, False in its padding.
            dtype: what to compute in.

        Returns:
            Shape: [B, H * W, D].
        """
        counts = real_BHW.to(dtype)
        turns = [
            (along - self.shift) / (along.select(axis, -1).unsqueeze(axis) + 1e-6) * (2 * math.pi)
            for along, axis in ((counts.cumsum(1), 1), (counts.cumsum(2), 2))
        ]
        channels = torch.arange(self.dim // 2, device=real_BHW.device).to(dtype)
        wavelengths = self.temperature ** (2 * torch.div(channels, 2, rounding_mode="floor") / (self.dim // 2))
        return torch.cat([_waves(turn[..., None] / wavelengths) for turn in turns], dim=-1).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"{self.dim}, temperature={self.temperature}"


class WideSinePlaces(SinePlaces):
    """The same, computed in float32 whatever the model's numbers are (Grounding DINO)."""

    def forward(self, real_BHW: Tensor, dtype: torch.dtype) -> Tensor:
        return super().forward(real_BHW, torch.float32).to(dtype)


class LearnedPlaces(nn.Module):
    """A learned vector per column and per row, side by side.

    Args:
        dim: width of a position vector; half for the column, half for the row.
        limit: how many rows and columns there are vectors for.
    """

    def __init__(self, dim: int, *, limit: int = 50) -> None:
        super().__init__()
        self.row_embeddings = nn.Embedding(limit, dim // 2)
        self.column_embeddings = nn.Embedding(limit, dim // 2)

    def forward(self, real_BHW: Tensor, dtype: torch.dtype) -> Tensor:
        """Position vectors of a map, row by row. Shape: [B, H, W] to [B, H * W, D].

        Raises:
            InputError: the map has more rows or columns than there are vectors.
        """
        rows, height, width = real_BHW.shape
        limit = self.row_embeddings.num_embeddings
        if max(height, width) > limit:
            raise InputError(
                "the picture is larger than the model's learned positions",
                where="pixel_values",
                expected=f"a map of at most {limit} x {limit} places",
                found=f"{height} x {width}",
                remedy="Resize the picture to a smaller size.",
            )
        places = torch.arange(max(height, width), device=real_BHW.device)
        columns = self.column_embeddings(places[:width])[None].expand(height, -1, -1)
        lines = self.row_embeddings(places[:height])[:, None].expand(-1, width, -1)
        return torch.cat((columns, lines), dim=-1).flatten(0, 1).expand(rows, -1, -1)


def _waves(angles: Tensor) -> Tensor:
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1).flatten(-2)
