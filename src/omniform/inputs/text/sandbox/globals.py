"""The functions that every template has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import NoReturn, cast

from jinja2 import TemplateError
from jinja2.utils import Cycler, Joiner

from omniform.inputs.text.sandbox.budget import TooMuchError
from omniform.inputs.text.sandbox.machine import Machine
from omniform.inputs.text.sandbox.values import Function, Variables

_TIME = re.compile(r"(?:[^%\0]|%[-_0^#]?[A-Za-z%])*")
_ENTRY = 24  # units for one entry of a mapping


def _mapping(machine: Machine, args: tuple[object, ...], named: Mapping[str, object]) -> dict[object, object]:
    if len(args) > 1:
        raise TypeError(f"dict expected at most 1 argument, got {len(args)}")
    made: dict[object, object] = {}
    if args and isinstance(args[0], dict):
        machine.spend(_ENTRY * len(args[0]))
        made.update(args[0])
    elif args:
        for pair in machine.items(args[0], _ENTRY):
            key, value = machine.listed(pair)
            made[machine.needle(key)] = value
    machine.spend(_ENTRY * len(named))
    made.update(named)
    return made


def _dict(machine: Machine, /, *args: object, **named: object) -> dict[object, object]:
    return _mapping(machine, args, named)


def _from_keys(machine: Machine, _: object, keys: object, value: object = None, /) -> dict[object, object]:
    return dict.fromkeys((machine.needle(key) for key in machine.items(keys, _ENTRY)), value)


def _namespace(machine: Machine, /, *args: object, **named: object) -> Variables:
    return Variables({str(name): value for name, value in _mapping(machine, args, named).items()})


def _cycler(machine: Machine, /, *items: object) -> Cycler:
    return Cycler(*items)


def _joiner(machine: Machine, sep: object = ", ") -> Joiner:
    return Joiner(cast(str, sep))


def _range(machine: Machine, /, *bounds: int) -> Iterable[int]:
    return machine.range(*bounds)


def _refuse(machine: Machine, message: object) -> NoReturn:
    raise TemplateError(machine.text(message))


def _now(machine: Machine, format: object) -> str:
    if not isinstance(format, str):
        raise TypeError("strftime_now takes text")
    if len(format) > 1000 or not _TIME.fullmatch(format):
        raise TooMuchError("a format of the time is longer or wider than any")
    machine.spend(32 * len(format))
    return datetime.now().strftime(format)


_TABLE: dict[str, Callable[..., object]] = {
    "range": _range,
    "namespace": _namespace,
    "cycler": _cycler,
    "joiner": _joiner,
    "raise_exception": _refuse,
    "strftime_now": _now,
}

GLOBALS: dict[str, object] = {
    **{name: Function(name, handler) for name, handler in _TABLE.items()},
    "dict": Function("dict", _dict, {"fromkeys": _from_keys}),
}
"""All functions that a template finds besides the variables of the rendering."""
