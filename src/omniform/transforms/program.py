"""A stack of layers as operations, and those as what the native library computes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from omniform.blocks.lowering import Builder
from omniform.blocks.operations import Steps


def lowered(layers: Iterable[nn.Module], width: int, norm: nn.Module | None, *, memory: bool) -> Steps:
    """What a stack of layers and its final norm do with a step.

    Args:
        width: numbers of a token that go in.
        norm: None for none.
        memory: whether there is an encoder's output.

    Raises:
        CannotLower: a part of it is no program; it names the part and why.
    """
    b = Builder(width, memory=memory)
    x, every = b.x, list(layers)
    for number, layer in enumerate(every, 1):
        b.is_last = number == len(every)
        x = b.of(layer, x)
    x = b.picked(x)
    return b.finish(x if norm is None else b.of(norm, x))
