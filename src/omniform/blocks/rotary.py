"""Rotary positions: the modules that turn queries and keys (https://arxiv.org/abs/2104.09864).

How fast each pair of channels turns is told by a :class:`~omniform.blocks.frequencies.Frequencies`.
Cosines and sines are computed once per step, however many layers share the frequencies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from omniform.blocks.frequencies import Frequencies
from omniform.blocks.lowering import Value
from omniform.blocks.poolers import OptionalPart
from omniform.blocks.small import fused_turn
from omniform.core.context import StepContext
from omniform.core.errors import ConfigError
from omniform.core.host import is_rounded, kept_unless_traced

if TYPE_CHECKING:
    from omniform.blocks.builder import Builder

Turn = Callable[[Tensor, Tensor, StepContext], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Rotary:
    """Turns the first ``frequencies.dim`` channels of queries and keys by their positions.

    Channel ``i`` is paired with channel ``i + dim / 2`` (the "half-split" pairing of the Hub's weights).
    """

    READ: ClassVar[frozenset[str]] = frozenset({"_turns"})

    frequencies: Frequencies

    def __post_init__(self) -> None:
        if self.frequencies.dim % 2:
            raise ConfigError(
                "rotary positions need an even number of channels", expected="even", found=self.frequencies.dim
            )

    def regimes(self) -> tuple[Frequencies, ...]:
        """How the angles depend on the length of the row."""
        return (self.frequencies,)

    def __call__(self, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """Shape: [B, T, H, D] in and out."""
        if is_rounded(q_BTHD):
            return in_float32(self, q_BTHD, k_BTHD, ctx)
        cos, sin = ctx.once((self.frequencies, q_BTHD.dtype), lambda: self._tables(ctx, q_BTHD.dtype))
        return turned(q_BTHD, cos, sin), turned(k_BTHD, cos, sin)

    def lower_pair(self, b: Builder, q: Value, k: Value) -> tuple[Value, Value]:
        return b.rotate(q, self, neighbours=False), b.rotate(k, self, neighbours=False)

    def turns(self, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """See :class:`~omniform.blocks.operations.Turning`."""
        cos, sin = self._tables(ctx, torch.float32)
        return cos.squeeze(-2), sin.squeeze(-2)

    @property
    def by_position(self) -> bool:
        return not self.frequencies.by_length

    def _tables(self, ctx: StepContext, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every position's angles, computed in float32. Shape: [B, T, 1, dim] each."""
        positions, length = ctx.positions, ctx.lengths_seen
        inverse = self.frequencies.inverse(positions.device, length[..., None] if length.dim() else length)
        angles = (self._turns(positions) * inverse).unsqueeze(-2)
        scale = self.frequencies.magnitude
        cos, sin = angles.cos(), angles.sin()
        if scale != 1.0:
            cos, sin = cos * scale, sin * scale
        # The first half of the channels turns by minus the second: the sign is put into the table.
        return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)

    def _turns(self, positions: Tensor) -> Tensor:
        """How far each pair of channels turns, before its frequency. Shape: [B, T] to [B, T, 1 or dim / 2]."""
        return positions[..., None].float()


@dataclass(frozen=True, slots=True)
class AxesRotary(Rotary):
    """Turns each pair of channels by one of several axes of positions (M-RoPE, https://arxiv.org/abs/2409.12191).

    Where positions have one axis, as those of text, all pairs turn by it.

    Attributes:
        axes: the axis of each pair: 0 for time, 1 for rows, 2 for columns.
    """

    axes: tuple[int, ...]

    def _turns(self, positions: Tensor) -> Tensor:
        if positions.dim() < 3:
            return Rotary._turns(self, positions)
        return positions.float().movedim(0, -1)[..., _numbers(self.axes, positions.device)]


@kept_unless_traced(8)
def _numbers(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, device=device)


class WideRotary(Rotary):
    """Rotary positions whose turning is computed in float32, whatever their dtype (OLMo 2)."""

    def __call__(self, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
        q, k = super().__call__(q_BTHD.float(), k_BTHD.float(), ctx)
        return q.to(q_BTHD.dtype), k.to(k_BTHD.dtype)

    lower_pair = Rotary.lower_pair


class StoredRotary(OptionalPart):
    """Wide rotary positions whose frequencies lie in the checkpoint, as rounded as the model was trained with (ESM).

    One module for all layers. A checkpoint without them gets plain ones.

    Args:
        frequencies: the plain ones.
    """

    inv_freq: Tensor
    KEPT: ClassVar[frozenset[str]] = frozenset({"inv_freq"})

    def __init__(self, frequencies: Frequencies) -> None:
        super().__init__()
        if frequencies.dim % 2:
            raise ConfigError("rotary positions need an even number of channels", found=frequencies.dim)
        self.frequencies = frequencies
        self.register_buffer("inv_freq", torch.empty(frequencies.dim // 2, dtype=torch.float32))

    def reset(self, std: float) -> None:
        """Plain frequencies."""
        device = self.inv_freq.device
        self.inv_freq.copy_(self.frequencies.inverse(device, torch.tensor(1, device=device)))

    def forward(self, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """Shape: [B, T, H, D] in and out."""
        if is_rounded(q_BTHD):
            return in_float32(self, q_BTHD, k_BTHD, ctx)
        cos, sin = ctx.once(("stored", id(self), q_BTHD.dtype), lambda: self._tables(ctx, q_BTHD.dtype))
        q, k = turned(q_BTHD.float(), cos, sin), turned(k_BTHD.float(), cos, sin)
        return q.to(q_BTHD.dtype), k.to(k_BTHD.dtype)

    def lower_pair(self, b: Builder, q: Value, k: Value) -> tuple[Value, Value]:
        return b.rotate(q, self, neighbours=False), b.rotate(k, self, neighbours=False)

    def turns(self, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """See :class:`~omniform.blocks.operations.Turning`."""
        cos, sin = self._tables(ctx, torch.float32)
        return cos.squeeze(-2), sin.squeeze(-2)

    @property
    def by_position(self) -> bool:
        return True

    def _tables(self, ctx: StepContext, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every position. Shape: [B, T, 1, dim] each."""
        angles = (ctx.positions[..., None].float() * self.inv_freq.float()).unsqueeze(-2)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


@dataclass(frozen=True, slots=True)
class InterleavedRotary(Rotary):
    """Turns neighbouring channels, ``2i`` with ``2i + 1``, as the first paper has it (GPT-J, Cohere, GLM)."""

    def __call__(self, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """Shape: [B, T, H, D] in and out."""
        if is_rounded(q_BTHD):
            return in_float32(self, q_BTHD, k_BTHD, ctx)
        cos, sin = self.tables(q_BTHD.dtype, ctx)
        return turned_neighbours(q_BTHD, cos, sin), turned_neighbours(k_BTHD, cos, sin)

    def lower_pair(self, b: Builder, q: Value, k: Value) -> tuple[Value, Value]:
        return b.rotate(q, self, neighbours=True), b.rotate(k, self, neighbours=True)

    def turns(self, ctx: StepContext) -> tuple[Tensor, Tensor]:
        cos, sin = self._neighbours(ctx, torch.float32)
        return cos.squeeze(-2), sin.squeeze(-2)

    def tables(self, dtype: torch.dtype, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """Cosines and sines of a step, made once for all layers. Shape: [B, T, 1, dim] each."""
        return ctx.once(("interleaved", self.frequencies, dtype), lambda: self._neighbours(ctx, dtype))

    def _neighbours(self, ctx: StepContext, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The tables of the half-split pairing, each pair side by side. Shape: [B, T, 1, dim] each."""
        halves = self._tables(ctx, dtype)
        cos, sin = (x.view(*x.shape[:-1], 2, -1).transpose(-1, -2).flatten(-2) for x in halves)
        return cos, sin


class WideInterleavedRotary(InterleavedRotary):
    """One that turns in float32, by cosines and sines that were rounded to the dtype of the vectors (Cohere)."""

    def __call__(self, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
        if is_rounded(q_BTHD):
            return in_float32(self, q_BTHD, k_BTHD, ctx)
        cos, sin = self.tables(q_BTHD.dtype, ctx)
        q, k = turned_neighbours(q_BTHD.float(), cos, sin), turned_neighbours(k_BTHD.float(), cos, sin)
        return q.to(q_BTHD.dtype), k.to(k_BTHD.dtype)

    lower_pair = InterleavedRotary.lower_pair


def in_float32(turn: Turn, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
    """Queries and keys that were rounded by autocast, turned as a model in float32 turns its own, and rounded again.

    Cosines and sines are the model's, which autocast leaves alone; only products of matrices are in halves.
    """
    q, k = turn(q_BTHD.float(), k_BTHD.float(), ctx)
    return q.to(q_BTHD.dtype), k.to(k_BTHD.dtype)


def turned_neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel pairs ``(2i, 2i + 1)`` of the first ``dim`` channels; the rest passes through."""
    dim = cos.shape[-1]
    if dim < x.shape[-1]:
        return torch.cat((turned_neighbours(x[..., :dim], cos, sin), x[..., dim:]), dim=-1)
    swapped = x.reshape(*x.shape[:-1], -1, 2).flip(-1).flatten(-2)
    return x * cos + swapped * sin


@dataclass(frozen=True, slots=True)
class RoundedRotary(Rotary):
    """Cosines and sines in the dtype of the queries, whose turning is computed in float32 (ModernBERT)."""

    def __call__(self, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """Shape: [B, T, H, D] in and out."""
        if is_rounded(q_BTHD):
            return in_float32(self, q_BTHD, k_BTHD, ctx)
        dtype = q_BTHD.dtype
        cos, sin = ctx.once((self.frequencies, dtype), lambda: self._tables(ctx, dtype))
        return turned(q_BTHD.float(), cos, sin).to(dtype), turned(k_BTHD.float(), cos, sin).to(dtype)

    lower_pair = Rotary.lower_pair


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel pairs ``(i, i + dim / 2)`` of the first ``dim`` channels; the rest passes through."""
    helped = fused_turn(x, cos, sin)
    if helped is not None:
        return helped
    dim = cos.shape[-1]
    if dim < x.shape[-1]:
        return torch.cat((turned(x[..., :dim], cos, sin), x[..., dim:]), dim=-1)
    if torch.is_grad_enabled():
        return x * cos + x.roll(dim // 2, -1) * sin
    return (x * cos).add_(x.roll(dim // 2, -1).mul_(sin))
