"""The kinds of value in a template that are neither plain data nor jinja's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from jinja2.exceptions import SecurityError

if TYPE_CHECKING:
    from omniform.inputs.text.sandbox.machine import Machine

Handler = Callable[..., object]
"""Computes something: the machine that pays comes first, then the value it is a method of, then the arguments."""


class Variables:
    """What ``namespace()`` makes: variables that loops can change."""

    __slots__ = ("values",)

    def __init__(self, values: dict[str, object]) -> None:
        for name in values:
            _check_name(name)
        self.values = values

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        self.values[name] = value

    def __repr__(self) -> str:
        return f"<Namespace {self.values!r}>"


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may not hold {name!r}: names that begin with an underscore are private")


class Lazy:
    """What filters such as ``map`` give: items that are computed once, when they are asked for.

    Args:
        items: computes them.
        depth: how many of these stand behind one another.
    """

    __slots__ = ("depth", "items")

    def __init__(self, items: Iterator[object], depth: int) -> None:
        self.items = items
        self.depth = depth

    def __iter__(self) -> Iterator[object]:
        return self.items

    def __repr__(self) -> str:
        return "<generator object>"


class Group(NamedTuple):
    """One group of ``groupby``."""

    grouper: object
    list: list[object]

    def __repr__(self) -> str:
        return repr(tuple(self))


class Method:
    """A method that was named and not called yet: ``{% set f = text.strip %}``."""

    __slots__ = ("handler", "name", "owner")

    def __init__(self, owner: object, name: str, handler: Handler) -> None:
        self.owner = owner
        self.name = name
        self.handler = handler

    def __repr__(self) -> str:
        return f"<method {self.name!r}>"


class Function:
    """A function that every template has.

    Args:
        name: what templates call it.
        handler: computes it.
        methods: what it has itself: ``dict.fromkeys``.
    """

    __slots__ = ("handler", "methods", "name")

    def __init__(
        self, name: str, handler: Callable[..., object], methods: Mapping[str, Callable[..., object]] | None = None
    ) -> None:
        self.name = name
        self.handler = handler
        self.methods = methods or {}

    def __repr__(self) -> str:
        return f"<function {self.name!r}>"


def metered(machine: Machine, items: Iterator[object], cost: int) -> Iterator[object]:
    """Items as they come, each of which costs something."""
    for item in items:
        machine.spend(cost)
        yield item
