"""The tests of the language: ``is defined``, ``is string``; each is given the machine that pays."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.utils import Joiner
from markupsafe import Markup

from omniform.inputs.text.sandbox.values import Function, Group, Lazy, Method

if TYPE_CHECKING:
    from omniform.inputs.text.sandbox.machine import Machine
    from omniform.inputs.text.sandbox.values import Handler


def _plain(test: Callable[[object], bool]) -> Handler:
    def plain(machine: Machine, value: object) -> bool:
        return test(value)

    return plain


def _comparing(compare: Handler) -> Handler:
    def comparing(machine: Machine, value: object, other: object) -> object:
        return compare(machine.measured(value), machine.measured(other))

    return comparing


def _remainder(by: int | None, left: int) -> Handler:
    def remainder(machine: Machine, value: object, other: object = by) -> bool:
        return machine.binary("%", value, other) == left

    return remainder


def _in(machine: Machine, value: object, container: object) -> bool:
    return machine.needle(value) in cast("list[object]", machine.haystack(container))


def _cased(method: Callable[[str], bool]) -> Handler:
    def cased(machine: Machine, value: object) -> bool:
        text = machine.text(value)
        machine.spend(len(text))
        return method(text)

    return cased


def _iterable(value: object) -> bool:
    from omniform.inputs.text.sandbox.machine import _VIEWS

    return isinstance(value, (str, list, tuple, dict, range, Lazy, LoopContext, Undefined, *_VIEWS))


def _sequence(value: object) -> bool:
    return isinstance(value, (str, list, tuple, dict, range, Group, Undefined))


def _is_filter(machine: Machine, name: object) -> bool:
    return isinstance(name, str) and name in machine.filters


def _is_test(machine: Machine, name: object) -> bool:
    return isinstance(name, str) and name in machine.tests


_OPERATORS: dict[str, Handler] = {
    **dict.fromkeys(("==", "eq", "equalto"), operator.eq),
    **dict.fromkeys(("!=", "ne"), operator.ne),
    **dict.fromkeys((">", "gt", "greaterthan"), operator.gt),
    **dict.fromkeys((">=", "ge"), operator.ge),
    **dict.fromkeys(("<", "lt", "lessthan"), operator.lt),
    **dict.fromkeys(("<=", "le"), operator.le),
}

TESTS: dict[str, Handler] = {
    **{name: _comparing(compare) for name, compare in _OPERATORS.items()},
    "odd": _remainder(2, 1),
    "even": _remainder(2, 0),
    "divisibleby": _remainder(None, 0),
    "defined": _plain(lambda value: not isinstance(value, Undefined)),
    "undefined": _plain(lambda value: isinstance(value, Undefined)),
    "filter": _is_filter,
    "test": _is_test,
    "none": _plain(lambda value: value is None),
    "boolean": _plain(lambda value: isinstance(value, bool)),
    "false": _plain(lambda value: value is False),
    "true": _plain(lambda value: value is True),
    "integer": _plain(lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "float": _plain(lambda value: isinstance(value, float)),
    "number": _plain(lambda value: isinstance(value, (int, float))),
    "string": _plain(lambda value: isinstance(value, str)),
    "mapping": _plain(lambda value: isinstance(value, dict)),
    "sequence": _plain(_sequence),
    "iterable": _plain(_iterable),
    # Undefined values can be called, and say then what is undefined.
    "callable": _plain(lambda value: isinstance(value, (Macro, Method, Function, Joiner, LoopContext, Undefined))),
    "sameas": lambda machine, value, other: value is other,
    "in": _in,
    "lower": _cased(str.islower),
    "upper": _cased(str.isupper),
    "escaped": _plain(lambda value: isinstance(value, Markup)),
}
"""All tests of the language, by name."""
