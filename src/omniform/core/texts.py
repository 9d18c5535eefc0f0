"""Several texts in one row: which tokens belong together, and where each text begins.

A row that was packed of texts holds them end to end. Who packed it says so in one of three ways: positions that begin
anew, a number for each token's text, or the places where texts begin, counted over the flattened batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RowTexts:
    """What is known of the texts in the rows of a call, once somebody looked.

    Attributes:
        numbers: which text of its row each token belongs to; None where every row is one. Shape: [B or 1, T].
        lengths: how long the texts of each row are; None where nobody may look.
    """

    numbers: Tensor | None = None
    lengths: tuple[tuple[int, ...], ...] | None = None

    @classmethod
    def read(cls, numbers: Tensor) -> RowTexts:
        """The same numbers looked at, on the host."""
        lengths = tuple(tuple(len([*run]) for _, run in groupby(row)) for row in numbers.tolist())
        return cls() if all(len(row) == 1 for row in lengths) else cls(numbers, lengths)


def by_positions(positions_BT: Tensor, *, any_step: bool) -> Tensor:
    """Texts told by positions that do not count on by one. Shape: [B, T] in and out.

    Args:
        any_step: whether every such place is the beginning of a text. Otherwise it is one only in a row all of whose
            texts begin with the same position, and any other row is one text.
    """
    begins = F.pad(positions_BT.diff(dim=-1) != 1, (1, 0))
    numbers = begins.cumsum(-1)
    if any_step:
        return numbers
    alike = (~begins | (positions_BT == positions_BT[:, :1])).all(-1, keepdim=True)
    return numbers * alike


def by_numbers(told_BT: Tensor) -> Tensor:
    """Texts told by numbers, as numbers that grow along the row. Shape: [B, T] in and out."""
    return F.pad(told_BT.diff(dim=-1) != 0, (1, 0)).cumsum(-1)


def by_bounds(bounds: Tensor, rows: int, tokens: int) -> Tensor:
    """Texts told by where they begin in the flattened batch, its end last. Shape: [texts + 1] to [B, T]."""
    places = torch.arange(rows * tokens, device=bounds.device, dtype=bounds.dtype)
    return torch.searchsorted(bounds.contiguous(), places, right=True).view(rows, tokens)


def place_within(numbers_BT: Tensor) -> Tensor:
    """How many tokens of its own text come before each token. Shape: [B, T] in and out."""
    index = torch.arange(numbers_BT.shape[-1], device=numbers_BT.device).expand_as(numbers_BT)
    begins = F.pad(numbers_BT.diff(dim=-1) != 0, (1, 0))
    return index - (index * begins).cummax(-1).values


def restarted(positions_BT: Tensor, numbers_BT: Tensor) -> Tensor:
    """Positions that count through a row, made to begin anew with each text. Shape: [B or 1, T] both; [B or 1, T]."""
    positions, numbers = positions_BT + numbers_BT * 0, numbers_BT + positions_BT * 0  # one shape
    index = torch.arange(numbers.shape[-1], device=numbers.device)
    first = positions.gather(-1, index - place_within(numbers))
    return positions - first + positions[..., :1]


def longest(positions_BT: Tensor, numbers_BT: Tensor) -> Tensor:
    """How long each token's text is, by its positions. Shape: [B or 1, T] both; [B or 1, T]."""
    positions, numbers = positions_BT + numbers_BT * 0, numbers_BT + positions_BT * 0  # one shape
    numbers = numbers - numbers[..., :1]
    most = torch.zeros_like(positions).scatter_reduce(-1, numbers, positions, "amax")
    return most.gather(-1, numbers) + 1


def summed(values_BT: Tensor, numbers_BT: Tensor) -> Tensor:
    """What each token's text adds up to. Shape: [B, T] and [B or 1, T] to [B, T]."""
    numbers = (numbers_BT - numbers_BT[..., :1]).expand_as(values_BT)
    return torch.zeros_like(values_BT).scatter_add(-1, numbers, values_BT).gather(-1, numbers)
