"""Areas of one long row of tokens, each of which sees itself and nothing else: pictures end to end, windows of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Alike:
    """Areas of one length, which are one batch.

    Attributes:
        tokens: which of the row's tokens, area by area.
        count: how many areas there are.
        length: of each.
    """

    tokens: slice | Tensor
    count: int
    length: int


@dataclass(frozen=True, slots=True)
class Areas:
    """What a token sees: all of its own area.

    Attributes:
        groups: the areas, those of one length together.
        back: where each token of the row is among those of the groups, one group after the other; None where they
            are in the row's order.
    """

    groups: tuple[Alike, ...]
    back: Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Areas:
        """Areas that follow one another and are so long."""
        starts = list(accumulate(lengths, initial=0))
        by_length: dict[int, list[int]] = {}
        for start, length in zip(starts, lengths, strict=False):
            by_length.setdefault(length, []).append(start)
        groups, order = [], []
        for length, firsts in by_length.items():
            together = all(right - left == length for left, right in pairwise(firsts))
            places = (torch.tensor(firsts, device="cpu")[:, None] + torch.arange(length, device="cpu")).flatten()
            tokens = slice(firsts[0], firsts[-1] + length) if together else places.to(device)
            groups.append(Alike(tokens, len(firsts), length))
            order.append(places)
        sliced = [group.tokens for group in groups if isinstance(group.tokens, slice)]
        ordered = len(sliced) == len(groups) and all(left.stop == right.start for left, right in pairwise(sliced))
        return cls(tuple(groups), None if ordered else torch.argsort(torch.cat(order)).to(device))
