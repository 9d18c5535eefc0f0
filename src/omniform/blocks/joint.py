"""Several projections of one input: a seam where they can be computed as one matmul.

Attention and gated MLPs ask for their projections together, so that a transform may replace the first of them by a
layer that knows how to compute all. Where none has, each layer is called by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from omniform.blocks.lowering import Value


@runtime_checkable
class Joins(Protocol):
    """A module that asks for projections of the same input together.

    Attributes:
        JOINT: the names of those that it asks for in one go, in its order.
    """

    JOINT: ClassVar[tuple[tuple[str, ...], ...]]


class JointLinear(nn.Linear, ABC):
    """A linear layer that can compute the layers beside it along with itself."""

    IS_MATRIX: ClassVar[bool] = True

    @abstractmethod
    def together(self, x: Tensor, layers: tuple[nn.Module, ...]) -> tuple[Tensor, ...] | None:
        """The outputs of several layers, of which this is the first; None if they are to be called one by one.

        Args:
            x: Shape: [..., in].
            layers: the layers, this one included.

        Returns:
            Shape: [..., out] of each layer.
        """


def outputs_of(x: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """What several layers make of the same input. Shape: [..., in] to [..., out] of each."""
    if isinstance(x, Value):
        return x.builder.together(x, layers)
    first = layers[0]
    if isinstance(first, JointLinear):
        found = first.together(x, layers)
        if found is not None:
            return found
    return tuple(layer(x) for layer in layers)
