"""Several projections of one input: a seam where they can be computed as one matmul.

Attention and gated MLPs ask for their projections together, so that a transform may replace the first of them by a
layer that knows how to compute all. Where none has, each layer is called by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from omniform.blocks.lowering import Value
from omniform.core.host import is_recorded


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
    if x.device.type == "cuda" and len(layers) > 1 and is_recorded():
        return _in_branches(x, layers)
    return tuple(layer(x) for layer in layers)


def _in_branches(x: Tensor, layers: tuple[nn.Module, ...]) -> tuple[Tensor, ...]:
    """Beside one another: a single token's projections are each too small to keep a GPU busy."""
    main = torch.cuda.current_stream(x.device)
    outs: list[Tensor] = []
    sides = [_stream(x.device, number) for number in range(len(layers) - 1)]
    for side, layer in zip(sides, layers[1:], strict=True):
        side.wait_stream(main)
        with torch.cuda.stream(side):
            outs.append(layer(x))
    first: Tensor = layers[0](x)
    for side in sides:
        main.wait_stream(side)
    return first, *outs


@cache
def _stream(device: torch.device, number: int) -> torch.cuda.Stream:
    """A stream of a branch's own."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
