"""Attention within the windows of a map (Swin, https://arxiv.org/abs/2103.14030 and https://arxiv.org/abs/2111.09883).

A map is cut into squares; every token sees the others of its square. Every second layer shifts the squares by half a
side, wrapping around the edges; what wrapping brings together from opposite edges does not see one another. What a
layer adds to its scores for that and for distances is one tensor: the shifts' part is made once per step and size.

Tokens lie on maps, Shape: [B, height, width, C], all the way: everything but the attention acts on ``[..., C]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.attend import attend, computed_whole
from omniform.blocks.attention import Projections
from omniform.blocks.drop_path import DropPath
from omniform.blocks.fused import applied, through
from omniform.blocks.layers import BranchNorm, PreNorm
from omniform.blocks.patches import Size
from omniform.blocks.poolers import ComputedPart
from omniform.blocks.scores import Scores
from omniform.core.context import EVERYTHING, Backend, Computed, StepContext, counted
from omniform.core.state import KV

_FIELDS = tuple(f.name for f in fields(StepContext))

APART = -100.0
"""What is added to the scores of tokens that a shift has brought together from opposite edges."""


@dataclass(frozen=True, slots=True)
class Windows:
    """A map cut into squares; what is missing at its right and bottom edges is filled with zeros.

    Attributes:
        side: of a square.
        shift: by how much the squares are shifted down and to the right.
        grid: rows and columns of the map.
    """

    side: int
    shift: int
    grid: Size

    @property
    def filled(self) -> Size:
        """Rows and columns with what is filled in."""
        height, width = self.grid
        return height + -height % self.side, width + -width % self.side

    @property
    def squares(self) -> Size:
        """How many squares lie below and beside one another."""
        height, width = self.filled
        return height // self.side, width // self.side

    def cut(self, x_BHWC: Tensor) -> Tensor:
        """The squares of a map. Shape: [B, H, W, C] to [B * squares, side * side, C]."""
        if self.filled != self.grid:
            x_BHWC = F.pad(x_BHWC, (0, 0, 0, self.filled[1] - self.grid[1], 0, self.filled[0] - self.grid[0]))
        if self.shift:
            x_BHWC = x_BHWC.roll((-self.shift, -self.shift), (1, 2))
        rows, columns = self.squares
        squares = x_BHWC.reshape(-1, rows, self.side, columns, self.side, x_BHWC.shape[-1]).transpose(2, 3)
        return squares.reshape(-1, self.side**2, x_BHWC.shape[-1])

    def join(self, squares: Tensor) -> Tensor:
        """The map that squares were cut from. Shape: [B * squares, side * side, C] to [B, H, W, C]."""
        rows, columns = self.squares
        x = squares.view(-1, rows, columns, self.side, self.side, squares.shape[-1]).transpose(2, 3)
        x_BHWC = x.reshape(-1, *self.filled, squares.shape[-1])
        if self.shift:
            x_BHWC = x_BHWC.roll((self.shift, self.shift), (1, 2))
        return x_BHWC[:, : self.grid[0], : self.grid[1]] if self.filled != self.grid else x_BHWC

    def apart(self, device: torch.device) -> Tensor | None:
        """Which tokens of each square come from opposite edges. Shape: [squares, 1, T, T]; None without a shift."""
        if not self.shift:
            return None
        # Of each axis only the last square holds tokens from both edges.
        (height, width), (rows, columns) = self.filled, self.squares
        wraps_down = torch.arange(height, device=device).view(rows, 1, self.side, 1) >= height - self.shift
        wraps_across = torch.arange(width, device=device).view(1, columns, 1, self.side) >= width - self.shift
        edge = (wraps_down.long() * 2 + wraps_across.long()).view(-1, self.side**2)
        return (edge[:, None, :] != edge[:, :, None])[:, None]


@dataclass(frozen=True, slots=True)
class Windowing:
    """How maps of any size are cut.

    Attributes:
        side: of a square.
        shift: by how much squares are shifted.
    """

    side: int
    shift: int

    def fixed(self, grid: Size) -> Windows:
        """Squares of the very same size, whatever the map's."""
        return Windows(self.side, self.shift, grid)

    def over(self, grid: Size) -> Windows:
        """The squares of a map."""
        return self.fixed(grid)


@dataclass(frozen=True, slots=True)
class FittingWindowing(Windowing):
    """One that makes its squares smaller where a map is, and does not shift these."""

    def over(self, grid: Size) -> Windows:
        least = min(grid)
        return Windows(least, 0, grid) if least <= self.side else self.fixed(grid)


@dataclass(frozen=True, slots=True)
class FixedWindowsContext(StepContext):
    """A step whose squares keep their size on small maps too (the ecosystem's ``always_partition``)."""

    @classmethod
    def of(cls, ctx: StepContext) -> FixedWindowsContext:
        """``ctx`` with such squares."""
        return cls(**{name: getattr(ctx, name) for name in _FIELDS})


def offsets(side: int, table_side: int, device: torch.device) -> Tensor:
    """For every pair of a square's tokens, where the number for their distance stands in a table of distances.

    Args:
        side: of the square.
        table_side: of the squares that the table was made for; not less than ``side``.

    Returns:
        Shape: [side ** 2, side ** 2].
    """
    place = torch.arange(side, device=device)
    apart = place[:, None] - place[None, :] + (table_side - 1)
    down, across = apart[:, None, :, None], apart[None, :, None, :]
    return (down * (2 * table_side - 1) + across).reshape(side**2, side**2)


class DistanceBias(Protocol):
    """What the heads add to the scores of two tokens for how far they stand apart."""

    def __call__(self, side: int, ctx: StepContext) -> Tensor:
        """For squares of this side. Shape: [H, side ** 2, side ** 2]."""
        ...


class TableBias(nn.Module):
    """One learned number per head and distance.

    Args:
        side: of the largest square.
        heads: number of heads.
    """

    def __init__(self, side: int, heads: int) -> None:
        super().__init__()
        self.side = side
        self.weight = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))

    def reset(self, std: float) -> None:
        """Start without a bias."""
        nn.init.zeros_(self.weight)

    def forward(self, side: int, ctx: StepContext) -> Tensor:
        """For squares of this side; smaller ones know fewer distances. Shape: [H, side ** 2, side ** 2]."""
        table, device = self.side, self.weight.device
        places = ctx.once(("offsets", counted(side), table), lambda: offsets(side, table, device))
        return self.weight[places].permute(2, 0, 1)

    def extra_repr(self) -> str:
        return f"side={self.side}, heads={self.weight.shape[1]}"


class Index(ComputedPart):
    """Where the numbers for distances stand in a table; some checkpoints keep it.

    Args:
        side: of the squares.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("places", torch.zeros(side**2, side**2, dtype=torch.long))
        self.places: Tensor

    def reset(self, std: float) -> None:
        """What follows from the side."""
        self.places.copy_(offsets(self.side, self.side, self.places.device))


class IndexedBias(TableBias):
    """A table of biases that brings its index with it."""

    def __init__(self, side: int, heads: int) -> None:
        super().__init__(side, heads)
        self.index = Index(side)

    def forward(self, side: int, ctx: StepContext) -> Tensor:
        if side != self.side:
            return super().forward(side, ctx)
        return self.weight[self.index.places].permute(2, 0, 1)


class ContinuousBias(nn.Module):
    """A small network from distances, on a logarithmic scale, to what each head adds (Swin v2, section 3.3).

    Args:
        side: of the squares.
        heads: number of heads.
        trained_side: of the squares that it was first trained on, which distances are parts of; 0: of its own.
    """

    def __init__(self, side: int, heads: int, *, trained_side: int = 0) -> None:
        super().__init__()
        self.side = side
        self.trained_side = trained_side
        self.hidden = nn.Linear(2, 512)
        self.out = nn.Linear(512, heads, bias=False)

    def distances(self) -> Tensor:
        """All distances on two axes, in [-1, 1] and beyond. Shape: [(2 * side - 1) ** 2, 2]."""
        farthest = (self.trained_side or self.side) - 1
        steps = torch.arange(1 - self.side, self.side, device=self.hidden.weight.device).float()
        if self.trained_side or self.side > 1:
            steps = steps / farthest
        steps = steps * 8
        grown = steps.sign() * (steps.abs() + 1).log2() / math.log2(8)
        return torch.cartesian_prod(grown, grown).to(self.hidden.weight.dtype).view(-1, 2)

    def forward(self, side: int, ctx: StepContext) -> Tensor:
        """For squares of its own side. Shape: [H, side ** 2, side ** 2]."""
        device = self.hidden.weight.device
        table: Tensor = self.out(F.relu(self.hidden(self.distances())))
        places = ctx.once(("offsets", counted(side), side), lambda: offsets(side, side, device))
        return 16 * table[places].permute(2, 0, 1).sigmoid()

    def extra_repr(self) -> str:
        return f"side={self.side}, trained_side={self.trained_side}"


class WindowedAttention(Projections):
    """Attention of a map's tokens to the others of their squares.

    Args:
        windowing: how a map is cut.
        distance_bias: what is added to the scores for distances.
        output_dropout: on what it gives, in training.
    """

    JOINT: ClassVar[tuple[tuple[str, ...], ...]] = (("q_proj", "k_proj", "v_proj"),)
    APART: ClassVar[float] = APART

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        windowing: Windowing,
        distance_bias: nn.Module,
        biases: str = "qkvo",
        scores: Scores | None = None,
        dropout: float = 0.0,
        output_dropout: float = 0.0,
    ) -> None:
        super().__init__(dim, heads, biases=biases, scores=scores, dropout=dropout)
        self.windowing = windowing
        self.distance_bias = distance_bias
        self.output_dropout = output_dropout

    def state_spec(self) -> KV:
        return KV(self.kv_heads, self.head_dim, self.head_dim)

    def computed(self, backend: Backend) -> Computed:
        why = "windows see themselves whole; distances and shifts are added to the scores"
        return computed_whole(backend, self.scores, why, biased=True)

    def forward(self, x_BHWC: Tensor, ctx: StepContext) -> Tensor:
        """Attend within the squares. Shape: [B, H, W, C] in and out."""
        grid = (x_BHWC.shape[1], x_BHWC.shape[2])
        windows = self.windowing.fixed(grid) if isinstance(ctx, FixedWindowsContext) else self.windowing.over(grid)
        squares = windows.cut(x_BHWC)
        q, k, v = map(self.split, applied(squares, self.q_proj, self.k_proj, self.v_proj))
        q, k = self.compared(q, k)
        mixed = attend(
            q,
            k.transpose(1, 2),
            v.transpose(1, 2),
            EVERYTHING,
            scores=self.scores,
            backend=ctx.backend,
            bias=self.bias(windows, squares, ctx),
            dropout=self.dropout if self.training else 0.0,
            weights=ctx.taps.attentions if ctx.taps.wants_attentions else None,
        )
        out = F.dropout(through(mixed, self.o_proj), self.output_dropout, self.training)
        return windows.join(out)

    def compared(self, q_BTHD: Tensor, k_BTHD: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys as they are compared. Shape: [B, T, H, D] each."""
        return q_BTHD, k_BTHD

    def bias(self, windows: Windows, squares: Tensor, ctx: StepContext) -> Tensor:
        """What is added to all scores. Shape: [1, H, T, T], or [B * squares, H, T, T] where squares are shifted."""
        near: Tensor = self.distance_bias(windows.side, ctx)
        device, rows, columns = squares.device, *windows.squares
        key = ("apart", windows.side, windows.shift, counted(rows), counted(columns))
        apart = ctx.once(key, lambda: windows.apart(device))
        if apart is None:
            return near[None].to(squares.dtype)
        both = (near + apart * self.APART).to(squares.dtype)
        return both.expand(squares.shape[0] // (rows * columns), *both.shape).flatten(0, 1)

    def extra_repr(self) -> str:
        return f"side={self.windowing.side}, shift={self.windowing.shift}"


class CosineWindowedAttention(WindowedAttention):
    """One that compares queries and keys by the angle between them, on a learned scale (Swin v2, section 3.2)."""

    APART: ClassVar[float] = 2 * APART  # the reference adds it twice
    GREATEST: ClassVar[float] = math.log(100.0)

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        windowing: Windowing,
        distance_bias: nn.Module,
        biases: str,
        dropout: float,
        output_dropout: float,
    ) -> None:
        super().__init__(
            dim,
            heads,
            windowing=windowing,
            distance_bias=distance_bias,
            biases=biases,
            scores=Scores(1.0),
            dropout=dropout,
            output_dropout=output_dropout,
        )
        self.logit_scale = nn.Parameter(torch.empty(heads, 1, 1))

    def reset(self, std: float) -> None:
        """Start with a factor of ten."""
        nn.init.constant_(self.logit_scale, math.log(10.0))

    def compared(self, q_BTHD: Tensor, k_BTHD: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.logit_scale.clamp(max=self.GREATEST).exp().view(-1, 1)
        return F.normalize(q_BTHD, dim=-1) * scale, F.normalize(k_BTHD, dim=-1)


class WindowedLayer(PreNorm):
    """A pre-norm layer whose attention is left out by chance while a model learns (Swin)."""

    drop_path: DropPath

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = x_BTD + self.drop_path(self.self_attn(self.input_layernorm(x_BTD), ctx))
        return self.add(x_BTD, self.mlp(self.post_attention_layernorm(x_BTD)), ctx)


class WindowedBranchNorm(BranchNorm):
    """A layer that norms what branches add, and leaves them out by chance while a model learns (Swin v2)."""

    drop_path: DropPath

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = x_BTD + self.drop_path(self.post_attention_layernorm(self.self_attn(x_BTD, ctx)))
        thought = F.dropout(self.mlp(x_BTD), self.dropout, self.training)
        out: Tensor = x_BTD + self.drop_path(self.post_feedforward_layernorm(thought))
        return out
