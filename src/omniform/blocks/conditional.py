"""Attention whose queries and keys keep what they hold and where they are apart (https://arxiv.org/abs/2108.06152)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from omniform.blocks.attend import attend
from omniform.blocks.positioned import PlacedContext
from omniform.blocks.scores import Scores
from omniform.core.context import StepContext
from omniform.core.rules import Full

_FIELDS = tuple(f.name for f in fields(PlacedContext))


@dataclass(frozen=True, slots=True)
class WavedContext(PlacedContext):
    """A step whose queries stand at points of the picture.

    Attributes:
        waves: sines and cosines of these, Shape: [B, Q, D].
    """

    waves: Tensor | None = None

    @classmethod
    def at(cls, ctx: PlacedContext, waves: Tensor) -> WavedContext:
        """``ctx`` with points."""
        return cls(**{name: getattr(ctx, name) for name in _FIELDS}, waves=waves)


def point_waves(points: Tensor, dim: int) -> Tensor:
    """Sines and cosines of points' y and x, as parts of a full turn. Shape: [..., 2] (x and y) to [..., dim]."""
    channels = torch.arange(dim // 2, dtype=torch.float32, device=points.device)
    wavelengths = 10000 ** (2 * torch.div(channels, 2, rounding_mode="floor") / (dim // 2))
    angles = points.flip(-1)[..., None] * (2 * math.pi) / wavelengths
    waves = torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1)
    return waves.flatten(-3).to(points.dtype)


class ConditionalSelfAttention(nn.Module):
    """Queries and keys are sums of a projection of what is there and of one of where it is."""

    def __init__(self, dim: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.rule = Full()
        self.dropout = dropout
        self.scores = Scores((dim // heads) ** -0.5)
        self.q_content_proj, self.q_pos_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.k_content_proj, self.k_pos_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v_proj, self.o_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x_BQD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, Q, D] in and out."""
        assert isinstance(ctx, PlacedContext)
        q = self.q_content_proj(x_BQD) + self.q_pos_proj(ctx.places)
        k = self.k_content_proj(x_BQD) + self.k_pos_proj(ctx.places)
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (q, k, self.v_proj(x_BQD)))
        mixed = attend(
            q,
            k.transpose(1, 2),
            v.transpose(1, 2),
            ctx.mask(self.rule, x_BQD.shape[1], x_BQD.device),
            scores=self.scores,
            backend=ctx.backend,
            dropout=self.dropout if self.training else 0.0,
            weights=ctx.taps.attentions if ctx.taps.wants_attentions else None,
        )
        out: Tensor = self.o_proj(mixed)
        return out


class ConditionalCrossAttention(nn.Module):
    """Queries and keys are what is there beside where it is, head by head; the step is a :class:`WavedContext`."""

    def __init__(self, dim: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.scores = Scores((2 * dim // heads) ** -0.5)
        self.q_content_proj, self.q_pos_sine_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.k_content_proj, self.k_pos_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v_proj, self.o_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x_BQD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, Q, D] in and out."""
        assert isinstance(ctx, WavedContext) and ctx.memory is not None
        memory, there = ctx.memory.hidden, self.k_pos_proj(ctx.memory_places)
        q, k = self.contents(self.q_content_proj(x_BQD), self.k_content_proj(memory), there, ctx)
        parts = (q, self.q_pos_sine_proj(ctx.waves), k, there, self.v_proj(memory))
        q, here, k, there, v = (t.unflatten(-1, (self.heads, -1)) for t in parts)
        mixed = attend(
            torch.cat((q, here), dim=-1),
            torch.cat((k, there), dim=-1).transpose(1, 2),
            v.transpose(1, 2),
            ctx.memory_mask(x_BQD.shape[1]),
            scores=self.scores,
            backend=ctx.backend,
            dropout=self.dropout if self.training else 0.0,
            weights=ctx.taps.cross_attentions if ctx.taps.wants_attentions else None,
        )
        out: Tensor = self.o_proj(mixed)
        return out

    def contents(self, q: Tensor, k: Tensor, there: Tensor, ctx: PlacedContext) -> tuple[Tensor, Tensor]:
        """What is there, of queries and of keys. Shape: [B, Q, D] and [B, S, D]."""
        return q, k


class FirstConditionalCrossAttention(ConditionalCrossAttention):
    """The first layer's, which also adds to what is there where it is: its queries hold nothing yet."""

    def __init__(self, dim: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__(dim, heads, dropout=dropout)
        self.q_pos_proj = nn.Linear(dim, dim)

    def contents(self, q: Tensor, k: Tensor, there: Tensor, ctx: PlacedContext) -> tuple[Tensor, Tensor]:
        return q + self.q_pos_proj(ctx.places), k + there
