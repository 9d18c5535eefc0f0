"""Stacks some of whose layers are no program, cut into runs of layers that are, and of layers that torch computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import nn

from omniform.blocks.lowering import CannotLower
from omniform.blocks.operations import Steps
from omniform.transforms.program import lowered


@dataclass(frozen=True, slots=True)
class Run:
    """Layers of a stack that follow one another.

    Attributes:
        first: the index of the first of them.
        stop: one past the index of the last.
        width: numbers of a token that go into the first, as far as is known.
        why: what stands against a program of them; empty where there can be one.
    """

    first: int
    stop: int
    width: int
    why: str

    def told(self) -> str:
        """Which layers torch computes, and why."""
        which = f"layer {self.first}" if self.stop == self.first + 1 else f"layers {self.first} to {self.stop - 1}"
        return f"{which} by torch: {self.why}"


def cut(
    layers: Sequence[nn.Module],
    width: int,
    *,
    memory: bool,
    ends: bool = True,
    check: Callable[[Steps], object] | None = None,
) -> list[Run]:
    """The runs of a stack, as long as they can be.

    Args:
        width: numbers of a token that go in.
        memory: whether there is an encoder's output.
        ends: whether the last of them is a stack's last.
        check: raises CannotLower of what can be no program for other reasons than its modules.
    """
    found: list[tuple[int, int, str]] = []
    for number, layer in enumerate(layers):
        entering, why = width, ""
        try:
            steps = lowered([layer], width, None, memory=memory, ends=ends and number + 1 == len(layers))
            if check is not None:
                check(steps)
        except CannotLower as error:
            why = str(error)
        else:
            assert steps.out is not None
            width = steps.out.width
        found.append((number, entering, why))
    return [
        Run(own[0][0], own[-1][0] + 1, own[0][1], why)
        for why, own in ((why, list(group)) for why, group in groupby(found, key=lambda told: told[2]))
    ]


def told(runs: Sequence[Run]) -> str:
    """What torch computes of a stack, and why; empty where that is nothing."""
    by_reason: dict[str, list[Run]] = {}
    for run in runs:
        if run.why:
            by_reason.setdefault(run.why, []).append(run)
    return "; ".join(
        own[0].told() if len(own) == 1 else f"{sum(r.stop - r.first for r in own)} layers by torch: {why}"
        for why, own in by_reason.items()
    )
