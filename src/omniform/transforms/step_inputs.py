"""What a program is told of one step: which keys every query sees and where they lie, and where new ones go.

It is the same for every layer under the same rule, so it is made once per step and rule. A step that is no such thing,
because some query's keys do not follow one another or somebody gave a mask of his own, raises :class:`NoRanges`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from omniform.blocks.operations import ByStep, Rows, Turning
from omniform.blocks.packed_patches import PatchContext
from omniform.core.areas import Areas
from omniform.core.context import FirstContext, StepContext
from omniform.core.host import is_readable
from omniform.core.packed import PackedContext, Segment, SlotRange, Table
from omniform.core.rules import Indices, Rule
from omniform.core.state import RowIndex

Places = np.ndarray[tuple[int, ...], np.dtype[np.int32]]
"""Indices as kernels take them."""


class NoRanges(Exception):  # noqa: N818
    """A step cannot be told as ranges of keys."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the queries of a step see, under one rule.

    Attributes:
        segments: of each row of the step: its first query, how many there are, its first range, how many there are, and
            the index of the first key in them. Shape: [R, 5].
        ranges: slots of keys, the first and one past the last; of a padded step counted from each row's first. Shape:
            [ranges, 2].
        query: the index of each query in its row. Shape: [Q].
        low: the index of the first key that it sees. Shape: [Q].
        high: one past the index of the last. Shape: [Q].
        origin: the index that places of keys are counted from. Shape: [Q].
    """

    segments: Indices
    ranges: Indices
    query: Places
    low: Places
    high: Places
    origin: Places

    @classmethod
    def of(cls, segments: Sequence[tuple[int, ...]], ranges: Sequence[SlotRange], *of_queries: Indices) -> Seen:
        """The same of lists and wider numbers."""
        narrow = (np.ascontiguousarray(x, np.int32).reshape(-1) for x in of_queries)
        return cls(np.array(segments, np.int64), np.array(ranges, np.int64).reshape(-1, 2), *narrow)


def bias_of(ctx: StepContext, bias: ByStep, rows: int, tokens: int) -> tuple[Tensor, Places]:
    """What a step adds to its scores: all of a head's numbers in a row, and from where each token's keys are counted.

    Shape: [H, numbers], and [N].
    """

    def made() -> tuple[Tensor, Places]:
        if isinstance(ctx, PackedContext | FirstContext) or ctx.state is not None:
            raise NoRanges("a bias is told of every query and key, and not all are in the step")
        told = bias.of_step(ctx).detach().float()
        own, heads, queries, keys = told.shape
        if own not in (1, rows) or (queries, keys) != (tokens, tokens) or own * queries * keys >= 2**31:
            raise NoRanges(f"a bias of shape {list(told.shape)}")
        row = np.arange(rows * tokens, dtype=np.int64) % (own * tokens)
        return told.transpose(0, 1).reshape(heads, -1).contiguous(), (-keys * row).astype(np.int32)

    return ctx.once(("bias", id(bias)), made)


def wanted_rows(ctx: StepContext, rows: int, tokens: int) -> Indices | None:
    """Which rows of the flattened step the last layer's output is wanted for; None for all."""
    match ctx:
        case PackedContext():
            return None if ctx.wanted is None else np.array(ctx.wanted, np.int64)
        case FirstContext():
            return np.arange(rows, dtype=np.int64) * tokens
        case _:
            return None


def seen(ctx: StepContext, rule: Rule, which: Rows, rows: int, tokens: int) -> Seen:
    """What queries see of their own rows, once per step.

    Args:
        which: whose queries: of all tokens, or of those whose output is wanted.
        rows: of the batch.
        tokens: that each brings."""
    if isinstance(ctx, PackedContext) and ctx.wanted is None:
        which = "all"
    return ctx.once(("seen", rule, which), lambda: _seen(ctx, rule, which, rows, tokens))


def _seen(ctx: StepContext, rule: Rule, which: Rows, rows: int, tokens: int) -> Seen:
    if isinstance(ctx, PackedContext):
        return _packed(ctx, rule, which)
    if isinstance(ctx, PatchContext) and ctx.plan is not None and ctx.plan.areas:
        return _within(ctx.plan.areas[rule], tokens)
    return _padded(ctx, rule, which, rows, tokens)


def ranges_apart(ctx: StepContext, seen: Seen, apart: int) -> Indices:
    """The ranges of a sight where rows lie so many slots apart; a packed step's tables know where they lie."""
    if isinstance(ctx, PackedContext) or not apart or len(seen.ranges) == 1:
        return seen.ranges
    if isinstance(ctx, PatchContext) and ctx.plan is not None and ctx.plan.areas:
        return seen.ranges
    return seen.ranges + apart * np.arange(len(seen.ranges), dtype=np.int64)[:, None]


def seen_across(ctx: StepContext, which: Rows, rows: int, tokens: int, length: int) -> Seen:
    """What queries see of an encoder's output, once per step: all that is no padding.

    Args:
        which: as for :func:`seen`; likewise ``rows`` and ``tokens``.
        length: how many tokens of an encoder there are in each row, padding included.
    """
    return ctx.once(("seen across", which), lambda: _across(ctx, which, rows, tokens, length))


def stored_at(ctx: StepContext, rows: int, tokens: int, apart: int) -> Indices:
    """The slots that the keys of a padded step go to. Shape: [N].

    Args:
        apart: how many slots lie between one row's first key and the next row's.
    """

    def made() -> Indices:
        first = ctx.past + apart * np.arange(rows, dtype=np.int64)
        return (first[:, None] + np.arange(tokens, dtype=np.int64)).reshape(-1)

    return ctx.once(("stored at", apart), made)


Reading = tuple[int, int, int, int]
"""Tokens that a recurrence reads one after another: the first, how many, the row whose state they go on from and leave
(-1 for none), and whether they begin at zero all the same."""


def readings(ctx: StepContext, rows: int, tokens: int) -> list[Reading]:
    """A step as its recurrences read it, once."""
    return ctx.once("readings", lambda: _readings(ctx, rows, tokens))


def _readings(ctx: StepContext, rows: int, tokens: int) -> list[Reading]:
    if isinstance(ctx, PackedContext):
        return [(s.start, s.count, row, 0) for row, s in enumerate(ctx.segments)]
    if ctx.allowed is not None:
        raise NoRanges("the caller says which keys are seen")
    begin, end = _real(None if ctx.padding is None else ctx.padding[:, -tokens:], rows, tokens)
    own = [
        (row * tokens + int(first), int(stop - first)) for row, first, stop in zip(range(rows), begin, end, strict=True)
    ]
    if ctx.texts is None:
        return [(at, count, row, 0) for row, (at, count) in enumerate(own)]
    found: list[Reading] = []
    starts, _ = _texts(ctx.texts, rows, tokens)
    for row, (at, count) in enumerate(own):
        edges = np.flatnonzero(np.diff(starts.reshape(-1)[at : at + count])) + 1
        ends = [0, *edges.tolist(), count]
        found += [(at + a, b - a, row if b == count else -1, 1) for a, b in pairwise(ends)]
    return found


def turns(ctx: StepContext, turning: Turning, rows: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every token, once per step. Shape: [N, dim] each, float32."""

    def made() -> tuple[Tensor, Tensor]:
        cos, sin = (x.expand(rows, tokens, -1).reshape(rows * tokens, -1).contiguous() for x in turning.turns(ctx))
        return cos, sin

    return ctx.once(("turns", turning), made)


@runtime_checkable
class Paged(Protocol):
    """A layer's keys and values in slots that rows share out among themselves.

    Attributes:
        mapping: where a step's go.
        widths: how many numbers a head has.
        whole: those of every slot, or what stands for them. Shape: [1, G, slots, D or bytes] each; they never move.
        scales: theirs, where these have places of their own. Shape: [1, G, slots, 1] each.
    """

    mapping: Mapping
    widths: tuple[int, ...]
    whole: tuple[Tensor, ...]
    scales: tuple[Tensor | None, ...]


@runtime_checkable
class PagedRows(Protocol):
    """A layer's states of fixed size, in blocks that rows are given.

    Attributes:
        whole: those of every block. Shape: [blocks, ...].
        mapping: which blocks are those of the step's rows.
    """

    whole: Tensor
    mapping: Mapping

    def read(self, rows: RowIndex) -> Tensor | None: ...

    def write(self, rows: RowIndex, state: Tensor) -> None: ...


class Mapping(Protocol):
    """Where a step's keys go: neighbouring slots as the first and how many, or each. Shape: [N]."""

    slots: tuple[int, int] | Tensor


def fill_slots(slots: Indices, mapping: Mapping) -> None:
    """Write the slots that a step's keys go to into an array of as many."""
    at = mapping.slots
    slots[:] = np.arange(at[0], at[0] + at[1]) if isinstance(at, tuple) else _read(at)


def slots_of(mapping: Mapping) -> Indices:
    """The slots that a step's keys go to. Shape: [N]."""
    at = mapping.slots
    if isinstance(at, tuple):
        return np.arange(at[0], at[0] + at[1], dtype=np.int64)
    return _read(at)


def _packed(ctx: PackedContext, rule: Rule, which: Rows) -> Seen:
    here = ctx.last_layer() if which == "wanted" else ctx
    assert isinstance(here, PackedContext)
    segments, tables = here.segments, here.tables[rule.reach]
    query = _indices(segments)
    if any(s.bidirectional for s in segments):
        first, stop = _joined(segments, query)
        found = rule.widened_bounds(query, first, stop)
    else:
        found = rule.bounds(query)
    if found is None:
        raise NoRanges(f"{rule} sees no range of keys")
    keys = np.repeat(np.array([s.past + s.count for s in segments], np.int64), [s.count for s in segments])
    low, high = np.maximum(found[0], 0), np.minimum(found[1], keys)
    lengths = [s.past + s.count for s in segments]
    return _told(segments, tables, lengths, query, low, high, np.zeros_like(query))


def _told(
    segments: Sequence[Segment],
    tables: Sequence[Table],
    lengths: Sequence[int],
    query: Indices,
    low: Indices,
    high: Indices,
    origin: Indices,
) -> Seen:
    firsts = np.minimum.reduceat(low, [s.start for s in segments]).tolist()
    told: list[tuple[int, ...]] = []
    ranges: list[SlotRange] = []
    for segment, table, length, first in zip(segments, tables, lengths, firsts, strict=True):
        begin = len(ranges)
        ranges += table.slot_ranges(first, length)
        told.append((segment.start, segment.count, begin, len(ranges) - begin, first))
    return Seen.of(told, ranges, query, low, high, origin)


def _within(areas: Areas, tokens: int) -> Seen:
    """Every token sees its own area of one long row."""
    place = np.arange(tokens)
    own = [(place[g.tokens] if isinstance(g.tokens, slice) else _read(g.tokens))[:: g.length] for g in areas.groups]
    firsts = sorted((int(at), g.length) for g, starts in zip(areas.groups, own, strict=True) for at in starts)
    told = [(at, length, number, 1, 0) for number, (at, length) in enumerate(firsts)]
    ranges = [(at, at + length) for at, length in firsts]
    query = np.concatenate([np.arange(length) for _, length in firsts])
    high = np.repeat([length for _, length in firsts], [length for _, length in firsts])
    return Seen.of(told, ranges, query, np.zeros_like(query), high, np.zeros_like(query))


def _indices(segments: Sequence[Segment]) -> Indices:
    """Where each query stands in its row."""
    if all(s.count == 1 for s in segments):
        return np.array([s.past for s in segments], np.int64)
    return np.concatenate([np.arange(s.past, s.past + s.count, dtype=np.int64) for s in segments])


def _joined(segments: Sequence[Segment], query: Indices) -> tuple[Indices, Indices]:
    """The stretch that each query is of: the first token and one past the last; its own place where it is of none."""
    first, stop = query.copy(), query.copy()
    for s in segments:
        own = slice(s.start, s.start + s.count)
        for begin, end in s.bidirectional:
            within = (query[own] >= begin) & (query[own] < end)
            first[own][within], stop[own][within] = begin, end
    return first, stop


def _padded(ctx: StepContext, rule: Rule, which: Rows, rows: int, tokens: int) -> Seen:
    if ctx.allowed is not None:
        raise NoRanges("the caller says which keys are seen")
    index = np.tile(np.arange(ctx.past, ctx.past + tokens, dtype=np.int64), (rows, 1))
    keys = ctx.past + tokens
    begin, end = _real(ctx.padding, rows, keys)
    origin = np.repeat(begin[:, None], tokens, 1)
    low_end, high_end = origin, np.repeat(end[:, None], tokens, 1)
    if ctx.texts is not None:
        origin, stop = _texts(ctx.texts, rows, tokens)
        low_end, high_end = np.maximum(low_end, origin), np.minimum(high_end, stop)
        place = index - origin
    else:
        place = index
    found = _bounds(ctx, rule, place)
    shift = index - place
    low, high = np.maximum(found[0] + shift, low_end), np.minimum(found[1], keys) + shift
    high = np.minimum(high, high_end)
    picked = slice(0, 1) if which == "wanted" and isinstance(ctx, FirstContext) else slice(None)
    query, low, high, origin = (x[:, picked] for x in (index, low, high, origin))
    count = query.shape[1]
    told = [(row * count, count, row, 1, 0) for row in range(rows)]
    ranges = [(0, keys)] * rows
    return Seen.of(told, ranges, query, np.minimum(low, high), high, origin)


def _bounds(ctx: StepContext, rule: Rule, place: Indices) -> tuple[Indices, Indices]:
    """What a rule says of tokens at these places in their texts. Shape: [B, T]."""
    if ctx.bidirectional is None:
        found = rule.bounds(place.reshape(-1))
    elif ctx.texts is not None:
        raise NoRanges("stretches read in both directions within several texts of a row")
    else:
        first, stop = place.copy(), place.copy()
        numbers = _read(ctx.bidirectional)
        for row, own in enumerate(np.broadcast_to(numbers, place.shape)):
            edges = np.flatnonzero(np.diff(own, prepend=0, append=0))
            for begin, end in pairwise(edges.tolist()):
                if own[begin]:
                    first[row, begin:end], stop[row, begin:end] = ctx.past + begin, ctx.past + end
        found = rule.widened_bounds(place.reshape(-1), first.reshape(-1), stop.reshape(-1))
    if found is None:
        raise NoRanges(f"{rule} sees no range of keys")
    return found[0].reshape(place.shape), found[1].reshape(place.shape)


def _real(padding: Tensor | None, rows: int, keys: int) -> tuple[Indices, Indices]:
    """Where each row's real tokens begin and end. Shape: [B] each."""
    if padding is None:
        return np.zeros(rows, np.int64), np.full(rows, keys, np.int64)
    real = np.broadcast_to(_read(padding), (rows, keys)).astype(bool)
    begin, count = real.argmax(1), real.sum(1)
    if (np.diff(real.astype(np.int8), axis=1, prepend=0) > 0).sum(1).max(initial=0) > 1:
        raise NoRanges("there is padding between the tokens of a row")
    return begin.astype(np.int64), (begin + count).astype(np.int64)


def _texts(numbers: Tensor, rows: int, tokens: int) -> tuple[Indices, Indices]:
    """Where each token's text begins, and one past where it ends. Shape: [B, T] each."""
    told = np.broadcast_to(_read(numbers), (rows, tokens))
    index = np.arange(tokens)
    changes = np.diff(told, axis=1) != 0
    begins = np.concatenate([np.ones((rows, 1), bool), changes], axis=1)
    ends = np.concatenate([changes, np.ones((rows, 1), bool)], axis=1)
    first = np.maximum.accumulate(np.where(begins, index, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, index, tokens)[:, ::-1], axis=1)[:, ::-1]
    return first.astype(np.int64), (last + 1).astype(np.int64)


def _across(ctx: StepContext, which: Rows, rows: int, tokens: int, length: int) -> Seen:
    if isinstance(ctx, PackedContext):
        here = ctx.last_layer() if which == "wanted" else ctx
        assert isinstance(here, PackedContext)
        tables, lengths = [t for t, _ in here.memory_tables], [n for _, n in here.memory_tables]
        high = np.repeat(np.array(lengths, np.int64), [s.count for s in here.segments])
        nothing = np.zeros_like(high)
        return _told(here.segments, tables, lengths, nothing, nothing, high, nothing)
    begin, end = _real(None if ctx.memory is None else ctx.memory.padding, rows, length)
    count = 1 if which == "wanted" and isinstance(ctx, FirstContext) else tokens
    told = [(row * count, count, row, 1, 0) for row in range(rows)]
    low, high = np.repeat(begin, count), np.repeat(end, count)
    ranges = [(0, length)] * rows
    return Seen.of(told, ranges, np.zeros_like(low), low, high, np.zeros_like(low))


def _read(x: Tensor) -> Indices:
    if not is_readable(x):
        raise NoRanges("a mask lies where it cannot be looked at")
    return x.detach().to(torch.int64).numpy()
