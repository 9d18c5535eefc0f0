"""Attention rules: which query may look at which key, as a static property of an attention.

A rule compares the *index* of a query and of a key in their row (not their position ids). Rules combine with ``&`` and
``|``; the step context turns a rule into a mask, or into no mask at all, once per step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor


class Rule(ABC):
    """Decides, for every pair of indices, whether the query may attend to the key."""

    @abstractmethod
    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether each query may look at each key.

        Args:
            query: Shape: [..., T, 1], indices of the queries.
            key: Shape: [..., 1, S], indices of the keys.

        Returns:
            Shape: [..., T, S], boolean.
        """

    def __and__(self, other: Rule) -> Rule:
        return Both(self, other)

    def __or__(self, other: Rule) -> Rule:
        return Either(self, other)


@dataclass(frozen=True, slots=True)
class Full(Rule):
    """Everything sees everything: encoders, cross-attention."""

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return (query == query) & (key == key)


@dataclass(frozen=True, slots=True)
class Causal(Rule):
    """A token sees itself and what came before."""

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return key <= query


@dataclass(frozen=True, slots=True)
class Window(Rule):
    """A token sees the ``size`` indices up to and including its own on either side; ``&`` it with :class:`Causal`."""

    size: int

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return (query - key).abs() < self.size


@dataclass(frozen=True, slots=True)
class Chunk(Rule):
    """Tokens see one another within chunks of ``size`` indices; ``&`` it with :class:`Causal`."""

    size: int

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return query // self.size == key // self.size


@dataclass(frozen=True, slots=True)
class Both(Rule):
    """What two rules both allow."""

    left: Rule
    right: Rule

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return self.left.allows(query, key) & self.right.allows(query, key)


@dataclass(frozen=True, slots=True)
class Either(Rule):
    """What one of two rules allows."""

    left: Rule
    right: Rule

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return self.left.allows(query, key) | self.right.allows(query, key)
