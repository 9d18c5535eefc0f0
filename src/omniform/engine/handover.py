"""Between a caller's cache and paged state: what was computed before comes in, what rows leave behind goes out.

A row that begins with tokens of a cache takes over their state into blocks of its own. Nobody else finds these blocks
by their content: a cache may have been computed with anything, and is used as it is. When a row ends whose state is
wanted, it is copied out before its blocks are let go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omniform.core.state import DenseState, StateSpec
from omniform.engine.block_pool import BlockTable
from omniform.engine.encoders import Encoders
from omniform.engine.paged_state import ROWS, PagedState, Pool, pool_of
from omniform.engine.request import Request, Row


class Source:
    """The numbers of a cache, read once for all rows of a call.

    Args:
        cache: where they are.
    """

    def __init__(self, cache: DenseState) -> None:
        self._cache = cache
        self._read: dict[int, tuple[Tensor, ...]] = {}

    def tensors(self, slot: int) -> tuple[Tensor, ...]:
        """What a mixer keeps, of all rows: Shape: [B, G, S, D] each, or [B, ...]."""
        if slot not in self._read:
            self._read[slot] = self._cache.tensors(slot)
        return self._read[slot]


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """State that a row begins with.

    Attributes:
        source: the cache.
        row: which row of it.
        places: where in the cache the row's first tokens stand. Shape: [n].
    """

    source: Source
    row: int
    places: Tensor

    def __len__(self) -> int:
        return len(self.places)


@dataclass(slots=True, eq=False)
class Left:
    """What one row leaves behind.

    Attributes:
        tokens: of how many tokens.
        gone: by slot, how many of the first tokens its window had let go of.
        parts: by slot, what was kept. Shape: [G, tokens - gone, D] each; of the row as a whole, [...].
        memory: by slot, keys and values of the encoder's output. Shape: [G, S, D] each.
        shift: how far the positions of what follows lie beyond their places in the row.
    """

    tokens: int
    gone: dict[int, int] = field(default_factory=dict)
    parts: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)
    memory: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)
    shift: float = 0


class Legacy:
    """Collects what the rows of one request leave behind, for a cache that is to be filled."""

    def __init__(self) -> None:
        self.rows: dict[int, Left] = {}
        self.in_order: list[Left] = []


class Handover:
    """Copies rows into paged state, and out of it.

    Args:
        specs: what each mixer keeps, by slot.
        state: where.
        encoders: what they made.
    """

    def __init__(self, specs: Mapping[int, StateSpec], state: PagedState, encoders: Encoders) -> None:
        self._specs = specs
        self._state = state
        self._encoders = encoders

    @torch.no_grad()
    def bring(self, given: Given, tables: Mapping[Pool, BlockTable]) -> None:
        """Write what a row begins with into the blocks of its tables, as far as they are held."""
        for slot, spec in self._specs.items():
            if spec.kept == "memory":
                continue
            found = given.source.tensors(slot)
            if spec.kept == "row":
                self._state.fixed(slot).whole[tables[ROWS].held()[0]] = found[0][given.row]
                continue
            table, at = tables[pool_of(spec)], 0
            first = table.first
            own = given.places[first:]
            ranges = table.slot_ranges(first, len(given)) if len(own) else []
            rows = [x[given.row].index_select(1, own.to(x.device)) for x in found]
            for low, high in ranges:
                self._state.tokens(slot).put(low, high, *(x[:, at : at + high - low] for x in rows))
                at += high - low

    def take(self, request: Request, row: Row) -> None:
        """Note what a row leaves behind, if that is wanted."""
        if request.legacy is None or not row.tables or row.number in request.legacy.rows:
            return
        request.legacy.rows[row.number] = self._left(request, row)

    def take_all(self, request: Request) -> None:
        """Note what all rows leave behind that still have their blocks; the same rows again where beams share one."""
        legacy = request.legacy
        if legacy is None:
            return
        if request.strategy is None:
            for row in request.rows:
                self.take(request, row)
            legacy.in_order = [legacy.rows[number] for number in sorted(legacy.rows)]
            return
        found: dict[int, Left] = {}
        for row in request.rows:
            if row.tables and id(row) not in found:
                found[id(row)] = self._left(request, row)
        legacy.in_order = [found[id(row)] for row in request.rows if id(row) in found]

    def _left(self, request: Request, row: Row) -> Left:
        # Who gets these tensors writes into them, which those of an inference mode forbid.
        with torch.inference_mode(False), torch.no_grad():
            ends = row.finished is not None
            left = Left(min(row.computed, len(row.tokens) - ends), shift=request.layout_of(row).shift)
            for slot, spec in self._specs.items():
                if spec.kept == "row":
                    left.parts[slot] = (self._state.fixed(slot).whole[row.tables[ROWS].held()[0]].clone(),)
                elif spec.kept == "token":
                    table = row.tables[pool_of(spec)]
                    first = left.gone[slot] = min(table.first, left.tokens)
                    ranges = table.slot_ranges(first, left.tokens) if left.tokens > first else []
                    left.parts[slot] = self._state.tokens(slot).taken(ranges, self._state.dtype)
                elif request.memory is not None:
                    entry = self._encoders.memories[request.memory]
                    ranges = entry.table.slot_ranges(0, entry.length)
                    left.memory[slot] = self._state.tokens(slot).taken(ranges, self._state.dtype)
            return left
