"""How an attention compares queries with keys, and what it adds for where they stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from omniform.core.context import Bias, StepContext


@dataclass(frozen=True, slots=True)
class SoftCap:
    """A tanh that keeps numbers between minus and plus ``cap`` (https://arxiv.org/abs/2408.00118)."""

    cap: float

    def __call__(self, x: Tensor) -> Tensor:
        """Shape: [...] in and out."""
        return torch.tanh(x / self.cap) * self.cap


@dataclass(frozen=True, slots=True)
class Factor:
    """A factor on the scores of tokens (Cohere, Granite)."""

    factor: float

    def __call__(self, x: Tensor) -> Tensor:
        """Shape: [...] in and out."""
        return x * self.factor


@dataclass(frozen=True, slots=True)
class Scores:
    """Scaled dot products, bounded where there is a cap.

    Attributes:
        scale: factor on the dot products.
        cap: bound of a :class:`SoftCap`; None for no bound.
    """

    scale: float
    cap: float | None = None

    def bounded(self, scaled: Tensor) -> Tensor:
        """The scores, given the scaled dot products."""
        return scaled if self.cap is None else SoftCap(self.cap)(scaled)


class ScoreBias(Protocol):
    """What an attention adds to its scores: for distances (T5, ALiBi), or for what queries and keys hold (DeBERTa).

    Several layers may share one; what depends on positions alone it computes once per step (:meth:`StepContext.once`).
    """

    def __call__(self, q_BTHD: Tensor, k: Tensor, ctx: StepContext) -> Bias | None:
        """The bias of one step.

        Args:
            q_BTHD: the queries of the tokens whose output is wanted.
            k: the keys, as :func:`~omniform.blocks.attend.attend` gets them.

        Returns:
            Shape: [B or 1, H, T, S]; in a packed step one tensor per row; None for nothing.
        """
        ...


@runtime_checkable
class HeadsBias(Protocol):
    """A bias of which some heads' part can be had."""

    def of_heads(self, heads: range) -> ScoreBias:
        """The bias of these heads alone."""
        ...
