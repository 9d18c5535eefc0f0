"""What a rendering may cost: one number for time and memory, and the size of values."""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, ValuesView
from itertools import chain
from typing import Protocol

BASE = 8_000_000
"""Units that every rendering may spend. A unit is a character copied, or some ten nanoseconds of work."""

PER_CHARACTER = 100
"""Further units for each character of the messages, tools and variables, and for each value eight times as many."""

DEEPEST = 100
"""Lists and mappings within one another beyond this many are refused."""

LONGEST_INTEGER = 4096
"""Bits of the largest integer that a template may compute with."""

NODE = 8
"""Units for one step of a template: a name, a constant, an attribute."""


class TooMuchError(OverflowError):
    """The template asks for more than templates may cost."""


class Sized(Protocol):
    """A value of ours that holds others: a namespace."""

    values: dict[str, object]


class Budget:
    """Units left, and the cost of reading whole values.

    Args:
        units: what may be spent.
        known: sizes and depths of the lists and mappings among the inputs, by identity, so that they are not walked
            again whenever a template prints them. Whoever makes the budget keeps them alive as long as it lives.
    """

    __slots__ = ("known", "left", "units")

    def __init__(self, units: int, known: dict[int, tuple[int, int]]) -> None:
        self.units = units
        self.left = units
        self.known = known

    def spend(self, cost: int) -> None:
        """Pay before doing something.

        Raises:
            TooMuchError: nothing is left.
        """
        self.left -= cost
        if self.left < 0:
            raise TooMuchError(f"it takes more work or memory than the budget for such messages ({self.units} units)")

    def size(self, value: object, depth: int = 0) -> int:
        """Characters and parts of a value, all that it holds included, as often as it holds them.

        Raises:
            TooMuchError: it is nested too deep, or shares its parts in such a way that it never ends.
        """
        kind = type(value)
        if kind is str:
            assert isinstance(value, str)
            return len(value) + NODE
        if isinstance(value, int):
            return NODE + value.bit_length() // 4
        found = self.known.get(id(value))
        if found is not None:
            if depth + found[1] > DEEPEST:
                raise _too_deep()
            return found[0]
        parts = parts_of(value)
        if parts is None:
            return NODE + (len(value) if isinstance(value, str) else 0)
        if depth >= DEEPEST:
            raise _too_deep()
        self.spend(8 * NODE + 4 * len(parts))
        total = NODE
        for part in parts:
            total += self.size(part, depth + 1)
        return total


def parts_of(value: object) -> list[object] | tuple[object, ...] | None:
    """What a value holds, keys included; None if it holds nothing."""
    from omniform.inputs.text.sandbox.values import Variables

    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, dict):
        return list(chain(value, value.values()))
    if isinstance(value, Variables):
        return list(value.values.values())
    if isinstance(value, (KeysView, ValuesView)):
        return list(value)
    if isinstance(value, ItemsView):
        return list(chain.from_iterable(value))
    return None


def depth_of(value: object) -> int:
    """How deep lists and mappings lie within one another in a value whose size is known to be bounded."""
    parts = parts_of(value)
    return 0 if parts is None else 1 + max(map(depth_of, parts), default=0)


def _too_deep() -> TooMuchError:
    return TooMuchError(f"it makes something nested more than {DEEPEST} deep")
