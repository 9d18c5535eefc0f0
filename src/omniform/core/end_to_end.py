"""A packed step in the words of kernels that take rows of any lengths: keys end to end, lengths, whose is what."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import cast

import torch
from torch import Tensor

from omniform.core.packed import PackedMask


@dataclass(frozen=True, slots=True)
class Side:
    """The queries of all rows, or the keys within their reach.

    Attributes:
        starts: where each row's begin, and the end of the last. Shape: [R + 1], int32.
        longest: of the row that has most.
        row: which row each is of. Shape: [N] or [M].
        place: its index in that row. Shape: likewise.
        span: which stretch of tokens that see one another in both directions it is of, counted over all rows from 1;
            0 for none. None where there are no such stretches. Shape: likewise.
    """

    starts: Tensor
    longest: int
    row: Tensor
    place: Tensor
    span: Tensor | None


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """A step with its keys end to end.

    Attributes:
        queries: the step's own tokens.
        keys: what their rows can look at.
        slots: where the keys lie. Shape: [M]; None where that is the first M slots in order.
    """

    queries: Side
    keys: Side
    slots: Tensor | None

    @classmethod
    def of(cls, mask: PackedMask) -> EndToEnd:
        """Resolved once per step and rule, without a read from the device."""
        if "end to end" not in mask.made:
            mask.made["end to end"] = _resolved(mask)
        return cast(EndToEnd, mask.made["end to end"])

    def taken(self, x_1GSD: Tensor) -> Tensor:
        """Of every slot's keys or values, the rows'. Shape: [1, G, M, D]."""
        if self.slots is None:
            return x_1GSD[:, :, : len(self.keys.row)]
        return x_1GSD.index_select(2, self.slots)


def _resolved(mask: PackedMask) -> EndToEnd:
    rows = mask.reached()
    ranges = [slots for *_, held in rows for slots in held]
    in_order = ranges[0][0] == 0 and all(left[1] == right[0] for left, right in pairwise(ranges))
    spans = [segment.bidirectional for segment, *_ in rows]
    joins = any(spans)
    queries = [(segment.past, segment.past + segment.count) for segment, *_ in rows]
    keys = [(low, stop) for _, low, stop, _ in rows]
    slots = None if in_order else torch.cat([torch.arange(*held, device="cpu") for held in ranges]).to(mask.device)
    return EndToEnd(
        _side(queries, spans if joins else None, mask.device), _side(keys, spans if joins else None, mask.device), slots
    )


def _side(runs: list[tuple[int, int]], spans: list[tuple[tuple[int, int], ...]] | None, device: torch.device) -> Side:
    counts = [stop - first for first, stop in runs]
    row = torch.repeat_interleave(torch.tensor(counts, device="cpu"))
    place = torch.cat([torch.arange(*run, device="cpu") for run in runs])
    span: Tensor | None = None
    if spans is not None:
        span = torch.zeros_like(place)
        flat = [(number, *one) for number, several in enumerate(spans) for one in several]
        for count, (number, first, stop) in enumerate(flat, start=1):
            span[(row == number) & (place >= first) & (place < stop)] = count
    starts = torch.tensor(list(accumulate(counts, initial=0)), dtype=torch.int32, device="cpu")
    return Side(
        starts.to(device), max(counts), row.to(device), place.to(device), None if span is None else span.to(device)
    )
