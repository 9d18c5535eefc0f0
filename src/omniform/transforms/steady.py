"""Steps of single tokens that go on from one another: what the library is told of them is moved on in place.

Most steps of an engine bring one token of the rows that the step before had, one place further. Telling such a step
anew takes some hundred small operations on memory that the weights have pushed out of the caches since; moving the last
one on takes a handful. Whatever differs makes it be told anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omniform.blocks.operations import Turning
from omniform.core.packed import PackedContext, Segment, Table
from omniform.core.rules import Causal, Rule
from omniform.native import program_abi
from omniform.native.matrix import rows_of
from omniform.transforms.step_inputs import Mapping, Seen, fill_slots

AHEAD = 64
"""Steps for which tables of positions are made at once."""

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]

NOBODY: Array = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class _Sight:
    """What single tokens see of what came before them: copies, which are moved on."""

    rule: Rule
    segments: Array
    ranges: Array
    low: Array
    high: Array
    query: Array
    origin: Array
    last: Array  # of each row's ranges

    @classmethod
    def of(cls, rule: Rule, seen: Seen) -> _Sight:
        """A copy of what was seen."""
        segments, last = seen.segments.copy(), seen.segments[:, 2] + seen.segments[:, 3] - 1
        low, high, query, origin = (x.copy() for x in (seen.low, seen.high, seen.query, seen.origin))
        return cls(rule, segments, seen.ranges.copy(), low, high, query, origin, last)

    def told(self) -> tuple[int, ...]:
        """As the library takes it."""
        parts = (self.segments, self.ranges, self.low, self.high, self.query, self.origin)
        return (*(x.ctypes.data for x in parts), len(self.segments))

    def next(self, past: list[int]) -> Array | None:
        """Which rows' first key goes out of sight, where tokens at these places see the keys up to their own.

        None where they see others, or where a row's first range of keys is at its end.
        """
        if type(self.rule) is Causal:
            return NOBODY
        found = self.rule.bounds(np.array(past, np.int64))
        if found is None or not (found[1] > past).all():
            return None
        gone = np.maximum(found[0], 0) - self.low
        if ((gone < 0) | (gone > 1)).any():
            return None
        leave = np.flatnonzero(gone)
        first = self.ranges[self.segments[leave, 2]]
        return leave if (first[:, 0] + 1 < first[:, 1]).all() else None

    def move(self, leave: Array) -> None:
        """See one key more, and of some rows the first one no longer."""
        self.high[:] += 1
        self.query[:] += 1
        self.ranges[self.last, 1] += 1
        if len(leave):
            self.low[leave] += 1
            self.segments[leave, 4] += 1
            self.ranges[self.segments[leave, 2], 0] += 1


@dataclass(frozen=True, slots=True)
class _Tables:
    """Cosines and sines of the next steps. Shape: [AHEAD * rows, dim] each."""

    turning: Turning
    cos: Tensor
    sin: Tensor

    @classmethod
    def of(cls, turning: Turning, ctx: PackedContext) -> _Tables:
        steps = torch.arange(AHEAD)[:, None]
        positions = ctx.positions[..., None, :] + steps
        ahead = ctx.with_(positions=positions.flatten(-2), lengths=None if ctx.lengths is None else ctx.lengths.max())
        cos, sin = (x.reshape(-1, x.shape[-1]).contiguous() for x in turning.turns(ahead))
        return cls(turning, cos, sin)


class Steady:
    """A step as it was told, which can become the next.

    Args:
        step: what the library was given; it is written to.
        alive: what that points to.
        ctx: the step.
        sights: the rules of its sights, in their order, and what was seen.
        mappings: where its keys went, pool by pool, and the arrays of slots that the library was given.
        turnings: of its tables of positions, in their order.
    """

    def __init__(
        self,
        step: program_abi.Step,
        alive: object,
        ctx: PackedContext,
        sights: Sequence[tuple[Rule, Seen]],
        mappings: Sequence[tuple[Mapping, Array]],
        turnings: Sequence[Turning],
    ) -> None:
        self._step, self._alive, self._mappings = step, alive, mappings
        self._past = [s.past for s in ctx.segments]
        self._held = {reach: list(tables) for reach, tables in ctx.tables.items()}
        self._ends = {reach: [at + 1 for at in _slots(tables, self._past)] for reach, tables in self._held.items()}
        self._sights = [_Sight.of(rule, seen) for rule, seen in sights]
        self._sights_told = np.array([sight.told() for sight in self._sights], program_abi.SIGHT)
        step.sights = self._sights_told.ctypes.data
        self._turnings, self._rows = turnings, len(ctx.segments)
        self._look_ahead(ctx)

    def _look_ahead(self, ctx: PackedContext) -> None:
        """Make the tables of this step and of those after it."""
        self._positions = ctx.positions.numpy().copy()
        self._tables = [_Tables.of(turning, ctx) for turning in self._turnings]
        told = [(t.cos.data_ptr(), t.sin.data_ptr(), t.cos.shape[1]) for t in self._tables]
        self._tables_told = np.array(told, program_abi.TABLE)
        self._apart = [self._rows * dim * 4 for _, _, dim in told]
        self._left = AHEAD - 1
        self._step.tables = self._tables_told.ctypes.data if told else None

    def moved(self, ctx: PackedContext) -> bool:
        """Become a step, if it is the next of the same rows; nothing is changed if it is not."""
        if ctx.wanted is not None or len(ctx.segments) != self._rows or ctx.memory_tables:
            return False
        if not all(map(_follows, ctx.segments, self._past)):
            return False
        past = [s.past for s in ctx.segments]
        if ctx.tables.keys() != self._held.keys():
            return False
        for reach, held in self._held.items():
            now = ctx.tables[reach]
            if any(a is not b for a, b in zip(now, held, strict=True)) or _slots(now, past) != self._ends[reach]:
                return False
        leaves = [sight.next(past) for sight in self._sights]
        positions = ctx.positions.numpy()
        if positions.shape != self._positions.shape or not (positions == self._positions + 1).all():
            return False
        seen = [leave for leave in leaves if leave is not None]
        if len(seen) == len(leaves):
            self._move(ctx, past, seen)
        return len(seen) == len(leaves)

    def _move(self, ctx: PackedContext, past: list[int], leaves: Sequence[Array]) -> None:
        self._past = past
        for ends in self._ends.values():
            for row in range(self._rows):
                ends[row] += 1
        for sight, leave in zip(self._sights, leaves, strict=True):
            sight.move(leave)
        for mapping, slots in self._mappings:
            fill_slots(slots, mapping)
        if self._left == 0:
            self._look_ahead(ctx)
            return
        self._positions += 1
        self._left -= 1
        for number, apart in enumerate(self._apart):
            self._tables_told["cos"][number] += apart
            self._tables_told["sin"][number] += apart

    def between(self, x_ND: Tensor, out_ND: Tensor, arena: int) -> program_abi.Step:
        """What the library is given for a step from and to these tensors."""
        self._step.x, self._step.out, self._step.arena = rows_of(x_ND), rows_of(out_ND), arena
        return self._step


def can_go_on(ctx: PackedContext, sights: Sequence[tuple[Rule, Seen]]) -> bool:
    """Whether a step is one of single tokens that see the keys up to their own."""
    if ctx.wanted is not None or ctx.memory_tables or any(s.count != 1 or s.bidirectional for s in ctx.segments):
        return False
    past = np.array([s.past for s in ctx.segments])
    return ctx.positions.device.type == "cpu" and all(
        bool((seen.high == past + 1).all() and (seen.segments[:, 4] == seen.low).all() and not seen.origin.any())
        for _, seen in sights
    )


def _follows(segment: Segment, past: int) -> bool:
    return segment.count == 1 and segment.past == past + 1 and not segment.bidirectional


def _slots(tables: Sequence[Table], places: Sequence[int]) -> list[int]:
    return [table.slot_ranges(at, at + 1)[0][0] for table, at in zip(tables, places, strict=True)]
