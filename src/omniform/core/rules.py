"""Attention rules: which query may look at which key, as a static property of an attention.

A rule compares the *index* of a query and of a key in their row (not their position ids). Rules combine with ``&`` and
``|``; the step context turns a rule into a mask, or into no mask at all, once per step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from torch import Tensor

Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
"""Indices of some tokens in their row. Shape: [N]."""

Range = tuple[Indices, Indices]
"""Of every query the first key that it sees and one past the last, both to be clipped to the keys that there are."""

FAR = 2**62
"""Past every key."""


class Rule(ABC):
    """Decides, for every pair of indices, whether the query may attend to the key."""

    @property
    def reach(self) -> int | None:
        """How many indices back from its own, that included, a query sees at most; None for all.

        What lies farther back need not be kept.
        """
        return None

    @property
    def ahead(self) -> bool:
        """Whether a query may look at what follows it."""
        return True

    @abstractmethod
    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether each query may look at each key.

        Args:
            query: Shape: [..., T, 1], indices of the queries.
            key: Shape: [..., 1, S], indices of the keys.

        Returns:
            Shape: [..., T, S], boolean.
        """

    def widened(self, query: Tensor, key: Tensor, joined: Tensor) -> Tensor:
        """What each query may look at where tokens of a stretch see one another in both directions.

        Args:
            query: as for :meth:`allows`.
            key: likewise.
            joined: whether both are of one such stretch. Shape: [..., T, S], boolean.
        """
        return self.allows(query, key) | joined

    def bounds(self, query: Indices) -> Range | None:
        """The keys that each query sees, where they follow one another; None where some query's do not.

        It says what :meth:`allows` says, for kernels that take a range of keys instead of a mask.
        """
        return None

    def widened_bounds(self, query: Indices, first: Indices, stop: Indices) -> Range | None:
        """What :meth:`widened` says likewise.

        Args:
            query: as for :meth:`bounds`.
            first: where the stretch begins that each query is of; the query itself where it is of none.
            stop: one past where it ends.
        """
        found = self.bounds(query)
        return None if found is None else (np.minimum(found[0], first), np.maximum(found[1], stop))

    def __and__(self, other: Rule) -> Rule:
        return Both(self, other)

    def __or__(self, other: Rule) -> Rule:
        return Either(self, other)


@dataclass(frozen=True, slots=True)
class Full(Rule):
    """Everything sees everything: encoders, cross-attention."""

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return (query == query) & (key == key)

    def bounds(self, query: Indices) -> Range | None:
        return np.zeros_like(query), np.full_like(query, FAR)


@dataclass(frozen=True, slots=True)
class Causal(Rule):
    """A token sees itself and what came before."""

    @property
    def ahead(self) -> bool:
        return False

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return key <= query

    def bounds(self, query: Indices) -> Range | None:
        return np.zeros_like(query), query + 1


@dataclass(frozen=True, slots=True)
class Window(Rule):
    """A token sees the ``size`` indices up to and including its own on either side; ``&`` it with :class:`Causal`."""

    size: int

    @property
    def reach(self) -> int | None:
        return self.size

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return (query - key).abs() < self.size

    def bounds(self, query: Indices) -> Range | None:
        return query - self.size + 1, query + self.size


@dataclass(frozen=True, slots=True)
class Chunk(Rule):
    """Tokens see one another within chunks of ``size`` indices; ``&`` it with :class:`Causal`."""

    size: int

    @property
    def reach(self) -> int | None:
        return self.size

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return query // self.size == key // self.size

    def bounds(self, query: Indices) -> Range | None:
        first = query // self.size * self.size
        return first, first + self.size


@dataclass(frozen=True, slots=True)
class Both(Rule):
    """What two rules both allow."""

    left: Rule
    right: Rule

    @property
    def reach(self) -> int | None:
        return min((r for r in (self.left.reach, self.right.reach) if r is not None), default=None)

    @property
    def ahead(self) -> bool:
        return self.left.ahead and self.right.ahead

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return self.left.allows(query, key) & self.right.allows(query, key)

    def bounds(self, query: Indices) -> Range | None:
        left, right = self.left.bounds(query), self.right.bounds(query)
        if left is None or right is None:
            return None
        return np.maximum(left[0], right[0]), np.minimum(left[1], right[1])


@dataclass(frozen=True, slots=True)
class Recent(Both):
    """A decoder's window that bounds stretches read in both directions too: no token looks farther back (Gemma 3)."""

    left: Causal
    right: Window

    @classmethod
    def of(cls, size: int) -> Recent:
        """The last ``size`` tokens, its own among them."""
        return cls(Causal(), Window(size))

    def widened(self, query: Tensor, key: Tensor, joined: Tensor) -> Tensor:
        return (self.left.allows(query, key) | joined) & (query - key < self.right.size)

    def widened_bounds(self, query: Indices, first: Indices, stop: Indices) -> Range | None:
        return query - self.right.size + 1, np.maximum(query + 1, stop)


@dataclass(frozen=True, slots=True)
class Either(Rule):
    """What one of two rules allows."""

    left: Rule
    right: Rule

    @property
    def reach(self) -> int | None:
        left, right = self.left.reach, self.right.reach
        return None if left is None or right is None else max(left, right)

    @property
    def ahead(self) -> bool:
        return self.left.ahead or self.right.ahead

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return self.left.allows(query, key) | self.right.allows(query, key)

    def bounds(self, query: Indices) -> Range | None:
        left, right = self.left.bounds(query), self.right.bounds(query)
        if left is None or right is None or (np.maximum(left[0], right[0]) > np.minimum(left[1], right[1])).any():
            return None  # a gap lies between what the one allows and the other
        return np.minimum(left[0], right[0]), np.maximum(left[1], right[1])


def both_ways(rule: Rule) -> Rule:
    """The rule of a decoder that is made to read both ways; one that does so already, itself.

    A window then counts what is on one side, a token itself not among it.
    """
    match rule:
        case Causal():
            return Full()
        case Both(Causal(), Window(size)):
            return Window(size + 1)
        case _:
            return rule
