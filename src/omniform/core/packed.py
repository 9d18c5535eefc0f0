"""A packed step: rows of any lengths end to end in one sequence of tokens, without padding.

Every row is a :class:`Segment` of the step. Its earlier tokens lie in paged state, at the slots that its
:class:`Table` tells. What attention has to do is resolved here once per step and rule, for all layers alike.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from omniform.core.context import Bias, StepContext
from omniform.core.host import sent
from omniform.core.rules import Causal, Full, Rule

SlotRange = tuple[int, int]
"""Slots that follow one another: the first, and one past the last."""


class Table(Protocol):
    """Where one row's indices lie in paged state."""

    def slot_ranges(self, first: int, stop: int) -> list[SlotRange]:
        """The slots of the indices from ``first`` to ``stop``, as few ranges as can be."""
        ...


@dataclass(frozen=True, slots=True)
class Segment:
    """One row's share of a packed step.

    Attributes:
        start: where its tokens begin in the step.
        count: how many there are.
        past: how many of the row's tokens came in earlier steps.
        bidirectional: spans of the row, each as its first index and one past its last, whose tokens see one another in
            both directions; each is read whole in one step.
    """

    start: int
    count: int
    past: int
    bidirectional: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class KernelCall:
    """Queries that look at the same range of keys.

    Attributes:
        queries: which tokens of the step.
        slots: of the keys.
        causal: the queries are the range's own tokens, and each sees what came before it.
    """

    queries: slice | Tensor
    slots: SlotRange
    causal: bool = False


@dataclass(frozen=True, slots=True)
class KernelCalls:
    """What attention under one rule takes in one step.

    Attributes:
        own: for every query, in the order of the step, the range that holds its own token (or, across, the memory's
            first); or its whole row, where that takes a mask.
        sizes: how many queries each of those has.
        extra: earlier ranges, to be blended in; rows that share a range share the call.
    """

    own: tuple[KernelCall | RowKeys, ...]
    sizes: tuple[int, ...]
    extra: tuple[KernelCall, ...]


@dataclass(frozen=True, slots=True)
class RowKeys:
    """One row, all of its keys, and a mask.

    Attributes:
        queries: the row's tokens in the step.
        ranges: slots of its keys, in order.
        first: the index of the first key.
        allowed: Shape: [T, S], True where attention is allowed; None where all is.
    """

    queries: slice
    ranges: tuple[SlotRange, ...]
    first: int
    allowed: Tensor | None


@dataclass(frozen=True, slots=True)
class Decodes:
    """Rows that bring one token each and see all of their keys from the first on, as one batch.

    Attributes:
        tokens: which tokens of the step.
        slots: of each row's keys, filled up to the longest. Shape: [R, S].
        there: which of those are keys. Shape: [R, S].
        others: the other tokens of the step, and what they see, counted among themselves; None if there are none.
    """

    tokens: slice | Tensor
    slots: Tensor
    there: Tensor
    others: tuple[slice | Tensor, PackedMask] | None


def whole_rows(lengths: Sequence[int]) -> tuple[tuple[Segment, ...], tuple[Table, ...]]:
    """Rows that one step reads from their beginnings to their ends, and whose keys lie where its own tokens do."""
    starts = accumulate(lengths, initial=0)
    segments = tuple(Segment(start, count, 0) for start, count in zip(starts, lengths, strict=False))
    return segments, tuple(_Run(segment.start) for segment in segments)


class PackedMask:
    """A rule resolved for a packed step.

    Args:
        rule: what may be seen.
        segments: the rows of the step.
        tables: where each row's keys lie.
        keys: how many keys each row has: its own tokens, or those of its memory.
        device: where masks go.

    Attributes:
        made: what kernels make of it, once for all layers.
    """

    def __init__(
        self,
        rule: Rule,
        segments: Sequence[Segment],
        tables: Sequence[Table],
        keys: Sequence[int],
        device: torch.device,
    ) -> None:
        self.rule = rule
        self._rows = list(zip(segments, tables, keys, strict=True))
        self.device = device
        self.made: dict[Hashable, object] = {}

    @cached_property
    def calls(self) -> KernelCalls:
        """The fewest kernel calls: every range once, however many rows share it."""
        own: list[KernelCall | RowKeys] = []
        sizes: list[int] = []
        shared: dict[SlotRange, list[tuple[int, int]]] = {}
        for segment, table, keys in self._rows:
            found = self._calls(segment, table, keys)
            if found is None:
                own.append(self._row(segment, table, keys))
                sizes.append(segment.count)
                continue
            for call, earlier in found:
                assert isinstance(call.queries, slice)
                own.append(call)
                sizes.append(call.queries.stop - call.queries.start)
                for slots in earlier:
                    shared.setdefault(slots, []).append((call.queries.start, call.queries.stop))
        extra = (KernelCall(_tokens_of(queries, self.device), slots) for slots, queries in shared.items())
        return KernelCalls(tuple(own), tuple(sizes), tuple(extra))

    @cached_property
    def rows(self) -> tuple[RowKeys, ...]:
        """Every row by itself, for backends and biases that see whole rows of scores."""
        return tuple(self._row(*row) for row in self._rows)

    @property
    def joins(self) -> bool:
        """Whether tokens of some stretch see one another in both directions."""
        return any(segment.bidirectional for segment, _, _ in self._rows)

    def reached(self) -> list[tuple[Segment, int, int, list[SlotRange]]]:
        """Every row with the first index and one past the last of the keys within its reach, and their slots."""
        lows = [self._low(segment) for segment, _, _ in self._rows]
        return [(s, low, n, t.slot_ranges(low, n)) for low, (s, t, n) in zip(lows, self._rows, strict=True)]

    @cached_property
    def decodes(self) -> Decodes | None:
        """The rows of one new token each, where a kernel's launch costs more than gathering; None if there are none."""
        kinds = [segment.count == 1 and self._sees_all(segment) for segment, _, _ in self._rows]
        mine = [row for row, decodes in zip(self._rows, kinds, strict=True) if decodes]
        if not mine:
            return None
        slots = [torch.cat([torch.arange(*own) for own in t.slot_ranges(self._low(s), n)]) for s, t, n in mine]
        padded = torch.nn.utils.rnn.pad_sequence(slots, batch_first=True)
        there = torch.arange(padded.shape[1])[None] < torch.tensor([len(own) for own in slots])[:, None]
        others = [row for row, decodes in zip(self._rows, kinds, strict=True) if not decodes]
        return Decodes(
            self._tokens([s for s, _, _ in mine]), padded.to(self.device), there.to(self.device), self._apart(others)
        )

    def parted(self, apart: Callable[[int, int], bool]) -> tuple[Part | None, Part | None]:
        """The rows that ``apart`` is true of, and the others; None where there are no such rows.

        Args:
            apart: told how many tokens a row brings and how many keys they may look at.
        """
        kinds = [apart(s.count, keys - self._low(s)) for s, _, keys in self._rows]
        if len(set(kinds)) == 1:
            whole = slice(None), self
            return (whole, None) if kinds[0] else (None, whole)
        mine, others = ([row for row, kind in zip(self._rows, kinds, strict=True) if kind is k] for k in (True, False))
        return self._apart(mine), self._apart(others)

    def gathered(self) -> tuple[list[SlotRange], PackedMask]:
        """Where the keys of all rows lie that are within reach; and the same rows, for those keys copied end to end."""
        ranges: list[SlotRange] = []
        tables: list[Table] = []
        start = 0
        for segment, table, keys in self._rows:
            low = self._low(segment)
            ranges += table.slot_ranges(low, keys)
            tables.append(_Run(start - low))
            start += keys - low
        segments, _, keys_of = zip(*self._rows, strict=True)
        return ranges, PackedMask(self.rule, segments, tables, keys_of, self.device)

    def _sees_all(self, segment: Segment) -> bool:
        """Whether a row's one new token sees every key from the first that is within its rule's reach."""
        return isinstance(self.rule, Full) or bool(self._allowed(self._low(segment), segment).all())

    def _apart(self, rows: list[tuple[Segment, Table, int]]) -> tuple[slice | Tensor, PackedMask] | None:
        """Some rows as if they were the step: which tokens they are, and what those see."""
        if not rows:
            return None
        segments, tables, keys = zip(*rows, strict=True)
        starts = accumulate((segment.count for segment in segments), initial=0)
        moved = [replace(segment, start=start) for segment, start in zip(segments, starts, strict=False)]
        return self._tokens(segments), PackedMask(self.rule, moved, tables, keys, self.device)

    def _tokens(self, segments: Sequence[Segment]) -> slice | Tensor:
        return _tokens_of([(s.start, s.start + s.count) for s in segments], self.device)

    def _calls(self, segment: Segment, table: Table, keys: int) -> list[tuple[KernelCall, list[SlotRange]]] | None:
        """A row as calls, each with the earlier ranges that all of its queries see; None if a mask is needed."""
        start, count, past = segment.start, segment.count, segment.past
        if isinstance(self.rule, Full):
            first, *others = table.slot_ranges(0, keys)
            return [(KernelCall(slice(start, start + count), first), others)]
        low = self._low(segment)
        plain = isinstance(self.rule, Causal) and not segment.bidirectional
        if not plain and not self._is_causal_from(low, segment):
            return None
        if count == 1:
            *earlier, last = table.slot_ranges(low, past + 1)
            return [(KernelCall(slice(start, start + 1), last), earlier)]
        earlier = table.slot_ranges(low, past) if past > low else []
        found: list[tuple[KernelCall, list[SlotRange]]] = []
        for slots in table.slot_ranges(past, past + count):
            # Where the row's new tokens lie in several ranges, those in the later ones see all of the earlier ones.
            stop = start + slots[1] - slots[0]
            found.append((KernelCall(slice(start, stop), slots, causal=stop - start > 1), list(earlier)))
            earlier.append(slots)
            start = stop
        return found

    def _row(self, segment: Segment, table: Table, keys: int) -> RowKeys:
        low = self._low(segment)
        queries = slice(segment.start, segment.start + segment.count)
        allowed = None if isinstance(self.rule, Full) else self._allowed(low, segment)
        allowed = None if allowed is None or bool(allowed.all()) else allowed.to(self.device)
        return RowKeys(queries, tuple(table.slot_ranges(low, keys)), low, allowed)

    def _low(self, segment: Segment) -> int:
        reach = self.rule.reach
        low = 0 if reach is None else max(0, segment.past - reach + 1)
        return min((low, *(start for start, _ in segment.bidirectional)))

    def _allowed(self, low: int, segment: Segment) -> Tensor:
        """Which keys from ``low`` on a row's tokens see. Shape: [T, S]; on the CPU, so that nobody waits to read it."""
        query = torch.arange(segment.past, segment.past + segment.count, device="cpu")
        key = torch.arange(low, segment.past + segment.count, device="cpu")
        if not segment.bidirectional:
            return self.rule.allows(query[:, None], key[None, :])
        joined = torch.zeros(len(query), len(key), dtype=torch.bool, device="cpu")
        for start, stop in segment.bidirectional:
            within_q, within_k = (query >= start) & (query < stop), (key >= start) & (key < stop)
            joined = joined | (within_q[:, None] & within_k[None, :])
        return self.rule.widened(query[:, None], key[None, :], joined)

    def _is_causal_from(self, low: int, segment: Segment) -> bool:
        allowed = self._allowed(low, segment)
        return bool((allowed == torch.ones_like(allowed).tril(segment.past - low)).all())


@dataclass(frozen=True, slots=True)
class _Run:
    """A row's indices one after another, beginning anywhere."""

    shift: int

    def slot_ranges(self, first: int, stop: int) -> list[SlotRange]:
        return [(first + self.shift, stop + self.shift)]


Part = tuple[slice | Tensor, PackedMask]
"""Some rows of a step, as if they were a step: which of its tokens are theirs, and what those see."""


def _tokens_of(queries: list[tuple[int, int]], device: torch.device) -> slice | Tensor:
    if all(left[1] == right[0] for left, right in pairwise(queries)):
        return slice(queries[0][0], queries[-1][1])
    return sent(np.concatenate([np.arange(*span, dtype=np.int64) for span in queries]), device)


@dataclass(frozen=True, slots=True)
class Alike:
    """Rows of a packed step that bring equally many tokens.

    Attributes:
        rows: which rows of the step.
        tokens: which of its tokens, row by row.
        count: how many tokens each row brings.
    """

    rows: slice | Tensor
    tokens: slice | Tensor
    count: int


def _alike(segments: Sequence[Segment], positions: Tensor) -> tuple[Alike, ...]:
    """Rows by how many tokens they bring."""
    by_count: dict[int, list[int]] = {}
    for number, segment in enumerate(segments):
        by_count.setdefault(segment.count, []).append(number)
    if len(by_count) == 1:
        return (Alike(slice(None), slice(None), segments[0].count),)
    device = positions.device
    return tuple(
        Alike(
            sent(np.array(rows, np.int64), device),
            _tokens_of([(segments[r].start, segments[r].start + count) for r in rows], device),
            count,
        )
        for count, rows in by_count.items()
    )


@dataclass(frozen=True, slots=True)
class PackedContext(StepContext):
    """One step over packed rows: a batch of one sequence, Shape: [1, N, ...], of which each row is a segment.

    Attributes:
        segments: the rows.
        tables: where each row's keys lie, by the reach of the rule that looks at them.
        memory_tables: where each row's memory lies, and how long it is; empty without an encoder.
        lengths: how long each token's row was when it was first read. Shape: [1, N].
        wanted: the tokens whose output is asked for, of each row its last ones; None for every token's. Of the others a
            stack's last layer computes keys and values only.
        keeps: those tokens, within the last layer.
        read: all rows that the step reads, within the last layer, where the segments are those that are wanted.
        glance: who makes the steps knows of nothing that may have changed in the model since the last step that had the
            same; None where he does not know.
    """

    segments: tuple[Segment, ...] = ()
    tables: Mapping[int | None, Sequence[Table]] = field(default_factory=dict)
    memory_tables: Sequence[tuple[Table, int]] = ()
    lengths: Tensor | None = None
    wanted: tuple[int, ...] | None = None
    keeps: Tensor | None = None
    read: tuple[Segment, ...] | None = None
    glance: object | None = None

    def last_layer(self) -> StepContext:
        if self.wanted is None:
            return self
        # A row's wanted tokens are the last of its segment, so they see all that the segment holds.
        bounds = [bisect_left(self.wanted, s.start) for s in self.segments] + [len(self.wanted)]
        counts = [stop - first for first, stop in pairwise(bounds)]
        rows = [i for i, count in enumerate(counts) if count]
        segments: list[Segment] = []
        place = 0
        for i in rows:
            s, count = self.segments[i], counts[i]
            segments.append(Segment(place, count, s.past + s.count - count, s.bidirectional))
            place += count
        return self.with_(
            segments=tuple(segments),
            tables={reach: [tables[i] for i in rows] for reach, tables in self.tables.items()},
            memory_tables=[self.memory_tables[i] for i in rows] if self.memory_tables else (),
            wanted=None,
            keeps=sent(np.array(self.wanted, np.int64), self.positions.device),
            read=self.segments,
        )

    def alike(self) -> tuple[Alike, ...]:
        """All rows that the step reads, those with equally many tokens together."""
        return self.once("alike", lambda: _alike(self.segments if self.read is None else self.read, self.positions))

    def only_wanted(self, x: Tensor) -> Tensor:
        return x if self.keeps is None or x.shape[1] == self.keeps.shape[0] else x[:, self.keeps]

    def like(self, x: Tensor, branch: Tensor) -> Tensor:
        return x if x.shape[1] == branch.shape[1] else self.only_wanted(x)

    def mask(self, rule: Rule, queries: int, device: torch.device) -> PackedMask:  # type: ignore[override]
        """What self-attention under ``rule`` may see in this step."""
        keys = [s.past + s.count for s in self.segments]
        return self.once(rule, lambda: PackedMask(rule, self.segments, self.tables[rule.reach], keys, device))

    def memory_mask(self, queries: int) -> PackedMask:  # type: ignore[override]
        """What cross-attention may see: every row its own memory."""
        tables, keys = [t for t, _ in self.memory_tables], [n for _, n in self.memory_tables]
        device = self.positions.device
        return self.once("memory", lambda: PackedMask(Full(), self.segments, tables, keys, device))

    @property
    def lengths_seen(self) -> Tensor:
        assert self.lengths is not None, "a packed step must say how long its rows are"
        return self.lengths

    def spread(self, bias: Callable[[Tensor, Tensor], Tensor], device: torch.device, queries: int) -> Bias:
        """A score bias, row by row."""
        return tuple(
            bias(
                torch.arange(s.past, s.past + s.count, device=device),
                torch.arange(s.past + s.count, device=device),
            )
            for s in self.segments
        )
