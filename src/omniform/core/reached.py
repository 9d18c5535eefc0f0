"""A packed step in tensors alone: what kernels of an accelerator read instead of lists of rows.

Every query sees a range of its own row's keys, and where these lie is told by slots. :meth:`Reached.of` makes that of a
step whose rows the host knows. :class:`DecodeContext` is a step of which the host knows nothing but how many rows there
are and how long they may be: every row brings one token, and where it stands is read on the device. Such a step can be
recorded once and played for other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.context import Bias, StepContext
from omniform.core.host import sent
from omniform.core.packed import Alike, PackedContext, PackedMask, Part, Segment
from omniform.core.rules import Full, Rule


@dataclass(frozen=True, slots=True)
class Reached:
    """What every query of a step sees.

    Attributes:
        slots: where keys lie, all rows' one after another; int32.
        origin: where in ``slots`` a query's row has, or would have, its first key. Shape: [N], int32.
        low, high: a query sees the keys from ``low`` to before ``high``, counted in its row. Shape: [N], int32.
        longest: no query sees more keys than that.
        from_first: whether every query sees its row from the first key on.
        counts: how many queries each row brings, in order; None where each brings one.
        made: tiles of queries, by how many are in each.
    """

    slots: Tensor
    origin: Tensor
    low: Tensor
    high: Tensor
    longest: int
    from_first: bool
    counts: tuple[int, ...] | None
    made: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, mask: PackedMask) -> Reached | None:
        """Resolved once per step and rule; None where some query sees keys that do not follow one another."""
        if "reached" not in mask.made:
            mask.made["reached"] = _reached(mask)
        return cast("Reached | None", mask.made["reached"])

    def tiles(self, size: int) -> tuple[Tensor, Tensor]:
        """The queries of each row in groups of at most ``size``: the first of each, and how many it has; int32."""
        if self.counts is None:
            size = 1
        if size not in self.made:
            self.made[size] = self._tiles(size)
        return self.made[size]

    def _tiles(self, size: int) -> tuple[Tensor, Tensor]:
        device = self.low.device
        if self.counts is None:
            first = torch.arange(len(self.low), dtype=torch.int32, device=device)
            return first, torch.ones_like(first)
        firsts: list[int] = []
        counts: list[int] = []
        start = 0
        for count in self.counts:
            firsts += range(start, start + count, size)
            counts += [min(size, count - at) for at in range(0, count, size)]
            start += count
        first, some = sent(np.array([firsts, counts], np.int32), device)
        return first, some


def _reached(mask: PackedMask) -> Reached | None:
    """See :meth:`Reached.of`: one copy to the device."""
    slots: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    columns: list[np.ndarray[tuple[int, int], np.dtype[np.int64]]] = []
    counts: list[int] = []
    held = longest = 0
    for segment, low, keys, ranges in mask.reached():
        seen = _range(mask.rule, segment, keys)
        if seen is None:
            return None
        first, stop = seen
        slots += [np.arange(*one) for one in ranges]
        columns.append(np.stack([np.full_like(first, held - low), first, stop]))
        counts.append(segment.count)
        held += keys - low
        longest = max(longest, int((stop - first).max()))
    told = np.concatenate([*columns], axis=1).astype(np.int32)
    flat = np.concatenate([told.ravel(), *slots]).astype(np.int32)
    on_device = sent(flat, mask.device)
    origin, first_N, stop_N = on_device[: told.size].view(3, -1)
    whole = None if all(count == 1 for count in counts) else tuple(counts)
    return Reached(on_device[told.size :], origin, first_N, stop_N, longest, not told[1].any(), whole)


Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def _range(rule: Rule, segment: Segment, keys: int) -> tuple[Indices, Indices] | None:
    """The first key that each of a row's queries sees, and one past the last."""
    query = np.arange(segment.past, segment.past + segment.count)
    if not segment.bidirectional:
        found = rule.bounds(query)
    else:
        first, stop = query.copy(), query.copy()
        for start, end in segment.bidirectional:
            inside = (query >= start) & (query < end)
            first[inside], stop[inside] = start, end
        found = rule.widened_bounds(query, first, stop)
    return None if found is None else (np.maximum(found[0], 0), np.clip(found[1], 0, keys))


@dataclass(frozen=True, slots=True, eq=False)
class DecodeRows:
    """Rows of which each brings one token.

    Attributes:
        index: how many tokens came before it in its row. Shape: [R].
        slots: where each row's keys lie, by the reach of the rule that looks at them. Shape: [R, S], int32.
        memory: where each row's memory lies, Shape: [R, M], int32, and how long it is, Shape: [R], int32; None without.
    """

    index: Tensor
    slots: Mapping[int | None, Tensor]
    memory: tuple[Tensor, Tensor] | None = None


class DecodeMask(PackedMask):
    """What each row's one token sees.

    Args:
        rule: what may be seen.
        slots: where the rows' keys lie. Shape: [R, S], int32.
        low, high: of every row. Shape: [R], int32.
    """

    def __init__(self, rule: Rule, slots: Tensor, low: Tensor, high: Tensor) -> None:
        rows, width = slots.shape
        super().__init__(rule, (), (), (), slots.device)
        self.slots, self.low, self.high = slots, low, high
        origin = torch.arange(0, rows * width, width, dtype=torch.int32, device=slots.device)
        longest = width if rule.reach is None else min(width, rule.reach)
        self.made["reached"] = Reached(slots.flatten(), origin, low, high, longest, rule.reach is None, None)

    @property
    def there(self) -> Tensor:
        """Which keys each row's token sees. Shape: [R, S], boolean."""
        if "there" not in self.made:
            key = torch.arange(self.slots.shape[1], device=self.slots.device)
            self.made["there"] = (key >= self.low[:, None]) & (key < self.high[:, None])
        return cast(Tensor, self.made["there"])

    @property
    def joins(self) -> bool:
        return False

    def parted(self, apart: Callable[[int, int], bool]) -> tuple[Part | None, Part | None]:
        whole = slice(None), self
        return (whole, None) if apart(1, self.slots.shape[1]) else (None, whole)


@dataclass(frozen=True, slots=True)
class DecodeContext(PackedContext):
    """A step of rows that bring one token each, told by tensors; see :class:`PackedContext`, whose lists are empty."""

    rows: DecodeRows | None = None

    def last_layer(self) -> StepContext:
        return self  # every token is wanted

    def alike(self) -> tuple[Alike, ...]:
        return (Alike(slice(None), slice(None), 1),)

    def mask(self, rule: Rule, queries: int, device: torch.device) -> DecodeMask:  # type: ignore[override]
        return self.once(rule, lambda: self._mask(rule))

    def _mask(self, rule: Rule) -> DecodeMask:
        assert self.rows is not None, "a step has rows"
        slots = self.rows.slots[rule.reach]
        low, high = limits(rule, slots.shape[1], slots.device)
        return DecodeMask(rule, slots, low[self.rows.index], high[self.rows.index])

    def memory_mask(self, queries: int) -> DecodeMask:  # type: ignore[override]
        assert self.rows is not None and self.rows.memory is not None, "this step has no memory"
        slots, lengths = self.rows.memory
        return self.once("memory", lambda: DecodeMask(Full(), slots, torch.zeros_like(lengths), lengths))

    def spread(self, bias: Callable[[Tensor, Tensor], Tensor], device: torch.device, queries: int) -> Bias:
        """A score bias of every row's token. Shape: [1, H, R, S]."""
        assert self.rows is not None, "a step has rows"
        width = max(slots.shape[1] for slots in self.rows.slots.values())
        return bias(self.rows.index, torch.arange(width, device=device)).contiguous()


@lru_cache(maxsize=64)
def limits(rule: Rule, keys: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The keys that a query at each place sees, from the first to before the second. Shape: [keys] each, int32.

    Raises:
        NoLimitsError: some query sees keys that do not follow one another.
    """
    found = rule.bounds(np.arange(keys))
    if found is None:
        raise NoLimitsError(rule)
    low, high = sent(np.stack([np.maximum(found[0], 0), np.clip(found[1], 0, keys)]).astype(np.int32), device)
    return low, high


class NoLimitsError(Exception):
    """What a rule lets a query see are no keys that follow one another."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(f"{rule} lets a token see keys that do not follow one another")


def rows_of(tables: Tensor, size: int) -> Tensor:
    """The slots of rows, from their blocks. Shape: [R, W] to [R, W * size], int32."""
    within = torch.arange(size, dtype=torch.int32, device=tables.device)
    return (tables[:, :, None].int() * size + within).flatten(1)
