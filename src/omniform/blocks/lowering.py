"""What blocks say of how they become operations that one call of the native library computes.

Each block says it in a method beside its ``forward``: ``lower(builder, x)`` gives a :class:`Value` for a Value, and the
builder (:mod:`omniform.blocks.builder`) notes what was asked of it. A block whose ``forward`` is itself written in
terms of parts and of few operations on tensors (layers are) says it by that: :class:`ReadAsWritten`. So a layer that a
family composes needs no line of its own.

What says nothing, or says it of a class whose methods somebody replaced since, raises :class:`CannotLower`.

Whoever builds a model that is never lowered imports this, but neither the builder nor the operations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from omniform.blocks.values import CannotLower as CannotLower
from omniform.blocks.values import Value as Value
from omniform.core.context import StepContext

if TYPE_CHECKING:
    from omniform.blocks.builder import Builder
    from omniform.blocks.operations import Biased
    from omniform.blocks.scores import Scores
    from omniform.core.rules import Rule


@runtime_checkable
class Lowers(Protocol):
    """A module that says how it is lowered."""

    def lower(self, b: Builder, x: Value) -> Value:
        """What it makes of ``x``. Raises CannotLower."""
        ...


@runtime_checkable
class LowersPair(Protocol):
    """What does something to queries and keys, and says how that is lowered."""

    def lower_pair(self, b: Builder, q: Value, k: Value) -> tuple[Value, Value]:
        """What it makes of both, by head. Raises CannotLower."""
        ...


@runtime_checkable
class PlainMatrix(Protocol):
    """A linear layer of a class of its own that computes what torch's does, if otherwise."""

    IS_MATRIX: ClassVar[bool]


@runtime_checkable
class HoldsMatrix(Protocol):
    """A layer that multiplies as torch's linear layer does, by a matrix that it holds in a form of its own."""

    HOLDS_MATRIX: ClassVar[bool]
    in_features: int
    out_features: int


class ReadAsWritten:
    """A module that is lowered by reading its own ``forward``, which calls parts and does little else."""

    READ: ClassVar[frozenset[str]] = frozenset({"forward"})

    def lower(self, b: Builder, x: Value) -> Value:
        assert isinstance(self, nn.Module)
        (out,) = b.read(self.forward, x)
        return out


class Stack(nn.ModuleList, ABC):
    """A stack of layers that may compute a whole step at once."""

    @abstractmethod
    def through(
        self, x_BTD: Tensor, ctx: StepContext, norm: nn.Module | None, part: slice = slice(None)
    ) -> Tensor | None:
        """What the layers, or those of a part, and the final norm make of a step; None if each is to be called.

        Shape: [B, T, D] in and out, of what is wanted.
        """


@dataclass(frozen=True, slots=True)
class Attending:
    """How an attention compares and what it sees.

    Attributes:
        slot: where its keys and values are kept.
        rule: which tokens see which.
        scores: how queries and keys are compared.
        bias: what is added to the scores; None for nothing.
        sinks: for each head the score of a key without a value. Shape: [H]; None for none.
    """

    slot: int
    rule: Rule
    scores: Scores
    bias: Biased | None = None
    sinks: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How the scores of experts become a choice and shares.

    Attributes:
        top: how many experts a token goes through.
        likely: what is made of the scores first: ``"softmax"`` over all experts, ``"sigmoid"``, or ``"chosen"``, a
            softmax over the chosen ones alone.
        bias: added for the choice, and not in the shares. Shape: [E]; None for nothing.
        groups: how many groups the experts are in, one after another.
        top_groups: from how many of them a token's experts are.
        best: how many of a group's best count, summed, for how good it is.
        normed: whether shares are divided by their sum.
        least: added to that sum.
        scale: factor on the shares at last.
    """

    top: int
    likely: Literal["softmax", "sigmoid", "chosen"]
    bias: Tensor | None = None
    groups: int = 1
    top_groups: int = 1
    best: int = 1
    normed: bool = False
    least: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Gating:
    """What is made of a gate and of what it lets through.

    Attributes:
        act: name of the gate's activation; ``"clamped"`` is the bounded swish of gpt-oss, times the value plus one.
        beside: whether each gate stands beside its value, rather than all gates before all values.
        limit: of ``"clamped"``: the bound of gates, from above, and of values, from either side.
        alpha: of ``"clamped"``: the slope of the swish.
    """

    act: str
    beside: bool = False
    limit: float = 0.0
    alpha: float = 0.0
