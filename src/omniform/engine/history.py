"""What the rules remember of a row's tokens, so that a step looks at the new ones only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class Runs:
    """Runs of tokens, by what stands before their last one.

    Args:
        size: tokens in a run.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], list[int]] = {}

    def add(self, tokens: Sequence[int]) -> None:
        """Note the runs that some more tokens complete."""
        size = self._size
        held = [*self._tokens, *tokens]
        for end in range(size, len(held) + 1):
            self._after.setdefault(tuple(held[end - size : end - 1]), []).append(held[end - 1])
        self._tokens = held[max(0, len(held) - size + 1) :]

    def after(self, tokens: Sequence[int]) -> list[int]:
        """The tokens that would complete a run after the end of a row."""
        if len(tokens) + 1 < self._size:
            return []
        return self._after.get(tuple(tokens[len(tokens) - self._size + 1 :]), [])

    def copy(self) -> Self:
        """One that goes on by itself."""
        twin = type(self)(self._size)
        twin._tokens = list(self._tokens)
        twin._after = {before: list(last) for before, last in self._after.items()}
        return twin


class Counts:
    """How often tokens came."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._tokens: Ids = np.empty(64, dtype=np.int64)
        self._counts: Ids = np.empty(64, dtype=np.int64)

    def add(self, tokens: Sequence[int]) -> None:
        """Count some more."""
        first = len(self._places)
        fresh = [token for token in dict.fromkeys(tokens) if token not in self._places]
        self._places.update((token, first + at) for at, token in enumerate(fresh))
        self._tokens = _with(self._tokens, first, fresh)
        self._counts = _with(self._counts, first, [0] * len(fresh))
        for token in tokens:
            self._counts[self._places[token]] += 1

    @property
    def told(self) -> tuple[Ids, Ids]:
        """Each token once, and how often it came."""
        count = len(self._places)
        return self._tokens[:count], self._counts[:count]

    def copy(self) -> Self:
        """One that goes on by itself."""
        twin = type(self)()
        twin._places = dict(self._places)
        twin._tokens, twin._counts = self._tokens.copy(), self._counts.copy()
        return twin


class History:
    """A row's tokens as arrays, and its runs of tokens.

    Attributes:
        read: what the row answers, each token once; None until somebody asks.
        read_runs: its runs, by their size.
    """

    def __init__(self) -> None:
        self.read: Ids | None = None
        self.read_runs: dict[int, Runs] = {}
        self._begin()

    def _begin(self) -> None:
        self._count = 0
        self._tokens: Ids = np.empty(64, dtype=np.int64)
        self._once: set[int] = set()
        self._unique: Ids = np.empty(64, dtype=np.int64)
        self._runs: dict[int, Runs] = {}
        self._counted: dict[int, Counts] = {}

    def follow(self, tokens: Sequence[int]) -> Self:
        """Take in a row's tokens, as far as they are new."""
        count = self._count
        if count > len(tokens) or (count and tokens[count - 1] != self._tokens[count - 1]):
            self._begin()  # the row was cut back
            count = 0
        new = tokens[count:]
        if new:
            self._tokens = _with(self._tokens, count, new)
            first = len(self._once)
            fresh = [t for t in dict.fromkeys(new) if t not in self._once]
            self._unique = _with(self._unique, first, fresh)
            self._once.update(fresh)
            for runs in self._runs.values():
                runs.add(new)
            for start, counts in self._counted.items():
                counts.add(new[max(0, start - count) :])
            self._count = len(tokens)
        return self

    @property
    def tokens(self) -> Ids:
        """All of them, in order."""
        return self._tokens[: self._count]

    @property
    def unique(self) -> Ids:
        """Each of them once."""
        return self._unique[: len(self._once)]

    def runs(self, size: int) -> Runs:
        """Its runs of so many tokens."""
        if size not in self._runs:
            self._runs[size] = Runs(size)
            self._runs[size].add(self.tokens.tolist())
        return self._runs[size]

    def counts(self, start: int) -> tuple[Ids, Ids]:
        """Its tokens from one place on, each once, and how often it has them."""
        if start not in self._counted:
            self._counted[start] = Counts()
            self._counted[start].add(self.tokens[start:].tolist())
        return self._counted[start].told

    def copy(self) -> Self:
        """One of a row that goes on from here by itself; what was read is shared."""
        twin = type(self)()
        twin.read, twin.read_runs = self.read, self.read_runs
        twin._count = self._count
        twin._tokens, twin._unique = self._tokens.copy(), self._unique.copy()
        twin._once = set(self._once)
        twin._runs = {size: runs.copy() for size, runs in self._runs.items()}
        twin._counted = {start: counts.copy() for start, counts in self._counted.items()}
        return twin


def _with(array: Ids, count: int, new: Sequence[int]) -> Ids:
    """An array of so many numbers with some more behind them; grown by doubling."""
    end = count + len(new)
    if end > len(array):
        array = np.concatenate([array[:count], np.empty(max(end, 2 * len(array)) - count, dtype=np.int64)])
    array[count:end] = new
    return array
