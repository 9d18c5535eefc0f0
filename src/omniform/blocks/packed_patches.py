"""Patches of pictures and films of any sizes, end to end in one long row (Qwen2-VL, https://arxiv.org/abs/2409.12191).

A picture's *grid* says how many patches it has in time, down and across. ``merge`` by ``merge`` neighbours stand side
by side in the row, for they become one token. What follows from grids alone (places, windows, where learned positions
are read) is made on the host, from numbers that are known before anything is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.fused import activated, through
from omniform.blocks.lowering import Value
from omniform.blocks.rotary import turned
from omniform.core.areas import Areas
from omniform.core.context import Mask, StepContext
from omniform.core.errors import ConfigError, InputError, brief
from omniform.core.host import is_traced, kept_unless_traced
from omniform.core.rules import Full, Rule

if TYPE_CHECKING:
    from omniform.blocks.builder import Builder

_FIELDS = tuple(f.name for f in fields(StepContext) if f.name != "_memo")
Grid = tuple[int, int, int]
"""Patches in time, down and across."""


def read_grids(value: object, merge: int, *, where: str) -> tuple[Grid, ...]:
    """Grids as a caller gives them, on the host: a tensor, or numbers.

    Args:
        value: Shape: [N, 3].
        merge: rows and columns are multiples of it.
        where: the input's name.

    Raises:
        InputError: they are no such numbers.
    """
    rows = value.tolist() if isinstance(value, Tensor) and value.dim() == 2 else value
    if isinstance(rows, Sequence) and not isinstance(rows, str):
        found = tuple(tuple(int(n) for n in row) if isinstance(row, Sequence) else () for row in rows)
        if all(len(g) == 3 and min(g) > 0 and not g[1] % merge and not g[2] % merge for g in found):
            return found  # type: ignore[return-value]
    raise InputError(
        "these are no grids of patches",
        where=where,
        expected=f"numbers of shape [pictures, 3]: time, rows and columns, the latter multiples of {merge}",
        found=f"shape {list(value.shape)}" if isinstance(value, Tensor) and value.dim() != 2 else brief(value),
        remedy="Let the checkpoint's own processor prepare pictures and films.",
    )


def patches_of(grid: Grid) -> int:
    """How many patches a grid has."""
    return grid[0] * grid[1] * grid[2]


class WithinWindow(Full):
    """Patches of one window of a picture see one another."""


WINDOW, FRAME = WithinWindow(), Full()
"""What a layer's patches see: their window, or their whole picture (in a film: their frame)."""


@dataclass(frozen=True, slots=True)
class PatchPlan:
    """All that grids say of the patches of a row.

    Attributes:
        places: row and column of each patch, in the order in which layers read them. Shape: [N, 2].
        areas: what a patch sees, by the rule of a layer; nothing where pictures are not end to end, but the rows of a
            batch, each of which sees itself.
        order: which patch of the row is read at which place; None where they are read as they come. Shape: [N].
        back: which merged token, as they are read, each of the row's is. Shape: [N / merge ** 2].
    """

    places: Tensor
    areas: Mapping[Rule, Areas]
    order: Tensor | None
    back: Tensor | None


def plan_of(grids: tuple[Grid, ...], merge: int, window: int | None, device: torch.device) -> PatchPlan:
    """The plan of some grids.

    Args:
        merge: rows and columns of patches that become one token.
        window: rows and columns of such tokens in a window; None where there are none.
        device: where its tensors are used.
    """
    if is_traced():
        return _plan(grids, merge, window, device)
    with torch.inference_mode(False):  # they are kept, and training may use them later
        return _plan(grids, merge, window, device)


@kept_unless_traced(8)
def _plan(grids: tuple[Grid, ...], merge: int, window: int | None, device: torch.device) -> PatchPlan:
    places = torch.cat([_places(grid, merge) for grid in grids])
    frames = [rows * columns for time, rows, columns in grids for _ in range(time)]
    areas: dict[Rule, Areas] = {FRAME: Areas.of(frames, device)}
    if window is None:
        return PatchPlan(places.to(device), areas, None, None)
    units, lengths, first = [], [], 0
    for grid in grids:
        order, sizes = _windows(grid, merge, window)
        units.append(order + first)
        lengths += [size * merge**2 for size in sizes]
        first += len(order)
    unit = torch.cat(units)
    order = (unit[:, None] * merge**2 + torch.arange(merge**2, device="cpu")).flatten()
    areas[WINDOW] = Areas.of(lengths, device)
    return PatchPlan(places[order].to(device), areas, order.to(device), torch.argsort(unit).to(device))


def alike(grid: Grid, device: torch.device) -> PatchPlan:
    """The plan of a batch of pictures of one grid, each a row of its own: any number of them."""
    if is_traced():
        return _alike(grid, device)
    with torch.inference_mode(False):
        return _alike(grid, device)


@kept_unless_traced(8)
def _alike(grid: Grid, device: torch.device) -> PatchPlan:
    return PatchPlan(_places(grid, 1).to(device), {}, None, None)


def _merged_order(x_RCn: Tensor, merge: int) -> Tensor:
    """From row by row to the order of the row, where neighbours that are merged stand together. To [R * C, n]."""
    rows, columns, width = x_RCn.shape
    blocks = x_RCn.reshape(rows // merge, merge, columns // merge, merge, width)
    return blocks.transpose(1, 2).reshape(rows * columns, width)


def _places(grid: Grid, merge: int) -> Tensor:
    """Row and column of every patch of a grid. Shape: [N, 2]."""
    time, rows, columns = grid
    axes = torch.arange(rows, device="cpu"), torch.arange(columns, device="cpu")
    return _merged_order(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1), merge).repeat(time, 1)


def _windows(grid: Grid, merge: int, window: int) -> tuple[Tensor, list[int]]:
    """The merged tokens of a grid, window by window, and how many each window has. Shape: [N / merge ** 2]."""
    time, rows, columns = grid[0], grid[1] // merge, grid[2] // merge
    tokens = torch.arange(time * rows * columns, device="cpu").view(time, rows, columns)
    parts = [
        frame[top : top + window, left : left + window].flatten()
        for frame in tokens
        for top in range(0, rows, window)
        for left in range(0, columns, window)
    ]
    return torch.cat(parts), [len(part) for part in parts]


@dataclass(frozen=True, slots=True)
class PatchContext(StepContext):
    """A step over patches end to end, as one row, Shape: [1, N, ...]; or over pictures alike, a row each.

    Attributes:
        plan: what their grids say.
    """

    plan: PatchPlan | None = None

    @classmethod
    def of(cls, ctx: StepContext, plan: PatchPlan) -> PatchContext:
        """``ctx`` with a plan."""
        return cls(**{name: getattr(ctx, name) for name in _FIELDS}, plan=plan)

    def mask(self, rule: Rule, queries: int, device: torch.device) -> Mask | Areas:  # type: ignore[override]
        """What patches see."""
        assert self.plan is not None
        return self.plan.areas[rule] if self.plan.areas else StepContext.mask(self, rule, queries, device)


@dataclass(frozen=True, slots=True)
class AxialRotary:
    """Turns queries and keys of patches in float32: half of the channel pairs by the row, the others by the column.

    Channel ``i`` is paired with channel ``i + dim / 2``.

    Attributes:
        dim: width of a head; a multiple of 4.
        theta: the base.
    """

    dim: int
    theta: float

    def __post_init__(self) -> None:
        if self.dim % 4:
            raise ConfigError("patches turn by two axes", where="head", expected="a multiple of 4", found=self.dim)

    def __call__(self, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """Shape: [B, T, H, D] in and out."""
        assert isinstance(ctx, PatchContext) and ctx.plan is not None
        places = ctx.plan.places
        cos, sin = ctx.once(self, lambda: self._tables(places))
        return turned(q_BTHD.float(), cos, sin).to(q_BTHD.dtype), turned(k_BTHD.float(), cos, sin).to(k_BTHD.dtype)

    def lower_pair(self, b: Builder, q: Value, k: Value) -> tuple[Value, Value]:
        return b.rotate(q, self, neighbours=False), b.rotate(k, self, neighbours=False)

    def turns(self, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """See :class:`~omniform.blocks.operations.Turning`."""
        assert isinstance(ctx, PatchContext) and ctx.plan is not None
        cos, sin = self._tables(ctx.plan.places)
        return cos.transpose(0, 1), sin.transpose(0, 1)

    @property
    def by_position(self) -> bool:
        return False

    def paces(self, device: torch.device) -> Tensor:
        """How far channel pairs turn from one row, and from one column, to the next. Shape: [1 or 2, dim / 4]."""
        half = self.dim // 2
        steps = torch.arange(0, half, 2, dtype=torch.float32, device=device) / half
        return (1.0 / self.theta**steps)[None]

    def _tables(self, places_N2: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every patch. Shape: [N, 1, dim] each."""
        angles = (places_N2[..., None].float() * self.paces(places_N2.device)).flatten(1)[:, None]
        cos, sin = angles.cos(), angles.sin()
        # The first half of the channels turns by minus the second: the sign is put into the table.
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


@dataclass(frozen=True, slots=True)
class AlternatingRotary(AxialRotary):
    """One whose rows and columns turn at paces of their own: every other one of those of a head's channel pairs."""

    def paces(self, device: torch.device) -> Tensor:
        steps = torch.arange(0, self.dim, 2, dtype=torch.float32, device=device) / self.dim
        return (1.0 / self.theta**steps).unflatten(0, (-1, 2)).T  # type: ignore[no-untyped-call, no-any-return]

    lower_pair = AxialRotary.lower_pair


class FlatPatches(nn.Module):
    """Projects patches that were cut out before: a convolution in one place.

    Args:
        channels: colours of a picture.
        time: frames of a patch.
        size: pixels of a patch, down and across.
        dim: width of a vector.
        bias: whether the projection has a bias.
    """

    def __init__(self, channels: int, time: int, size: tuple[int, int], dim: int, *, bias: bool) -> None:
        super().__init__()
        kernel = (time, *size)
        self.proj = nn.Conv3d(channels, dim, kernel_size=kernel, stride=kernel, bias=bias)

    @property
    def numbers(self) -> int:
        """How many numbers a patch has."""
        return self.proj.weight[0].numel()

    def forward(self, patches_NP: Tensor) -> Tensor:
        """Shape: [N, channels * time * height * width] to [N, D]."""
        weight = self.proj.weight.flatten(1)
        return F.linear(patches_NP.to(weight.dtype), weight, self.proj.bias)

    def check(self, patches: object, grids: Sequence[Grid], *, where: str) -> None:
        """Raise :class:`InputError` unless there are as many patches as grids say, and of this size."""
        wanted = [sum(map(patches_of, grids)), self.numbers]
        shape = list(patches.shape) if isinstance(patches, Tensor) else None
        if shape != wanted or not (isinstance(patches, Tensor) and patches.is_floating_point()):
            raise InputError(
                "the patches do not fit the model and their grids",
                where=where,
                expected=f"floating-point numbers of shape {wanted}",
                found=type(patches).__name__ if shape is None else f"shape {shape}",
            )


class InterpolatedTable(nn.Embedding):
    """Learned positions of a square of patches, read for any grid: between four of them, both corners kept.

    Args:
        count: how many are learned; those beyond the largest square are never read.
        dim: width of a vector.
    """

    def at(self, grids: Sequence[Grid], merge: int) -> Tensor:
        """The positions of all patches. Shape: [N, D], in float32 or wider."""
        side = int(self.num_embeddings**0.5)
        taps = [_taps(grid, merge, side) for grid in grids]
        index, share = (torch.cat(x).to(self.weight.device) for x in zip(*taps, strict=True))
        found: Tensor = (self(index) * share[..., None]).sum(1)
        if all(grid[0] == 1 for grid in grids):
            return found
        frames = torch.split(found, [grid[1] * grid[2] for grid in grids])
        return torch.cat([frame.repeat(grid[0], 1) for frame, grid in zip(frames, grids, strict=True)])


def _taps(grid: Grid, merge: int, side: int) -> tuple[Tensor, Tensor]:
    """Which learned positions each patch of a frame lies between, and their shares. Shape: [rows * columns, 4] each."""
    (top, down), (left, across) = (_between(size, side) for size in grid[1:])
    index = (top[:, None, :, None] * side + left[None, :, None, :]).flatten(2)
    share = (down[:, None, :, None] * across[None, :, None, :]).flatten(2)
    return _merged_order(index, merge), _merged_order(share, merge)


def _between(size: int, side: int) -> tuple[Tensor, Tensor]:
    """Along one axis: the two learned places around each of ``size``, and their shares. Shape: [size, 2] each."""
    at = torch.arange(size, dtype=torch.float32, device="cpu") * (side - 1) / max(size - 1, 1)
    low = at.floor()
    beyond = at - low
    index = torch.stack((low, low + 1), dim=-1).long().clamp(max=side - 1)
    return index, torch.stack((1 - beyond, beyond), dim=-1)


class PatchMerger(Composed):
    """Neighbouring patches become one token: a norm of each, then two projections of them all.

    Attributes:
        norm: of a patch.
        unit: how many patches become one.
    """

    norm: nn.Module
    linear_fc1: nn.Linear
    linear_fc2: nn.Linear
    unit: int

    @classmethod
    def of(cls, norm: nn.Module, dim: int, unit: int, out: int) -> PatchMerger:
        """One for patches of width ``dim``, that gives tokens of width ``out``."""
        wide = dim * unit
        return cls(norm=norm, linear_fc1=nn.Linear(wide, wide), linear_fc2=nn.Linear(wide, out), unit=unit)

    def normed(self, x_ND: Tensor) -> Tensor:
        """Shape: [N, D] to [N / unit, unit * D]."""
        normed: Tensor = self.norm(x_ND)
        return normed.unflatten(0, (-1, self.unit)).flatten(1)  # type: ignore[no-untyped-call, no-any-return]

    def forward(self, x_ND: Tensor) -> Tensor:
        """Shape: [N, D] to [N / unit, out]."""
        return through(activated(self.normed(x_ND), self.linear_fc1, F.gelu), self.linear_fc2)


class WholeNormMerger(PatchMerger):
    """One whose norm is of all the patches that become one, side by side (Qwen3-VL's deep stack)."""

    def normed(self, x_ND: Tensor) -> Tensor:
        normed: Tensor = self.norm(x_ND.unflatten(0, (-1, self.unit)).flatten(1))  # type: ignore[no-untyped-call]
        return normed
