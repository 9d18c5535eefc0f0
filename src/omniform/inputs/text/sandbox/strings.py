"""The methods that texts have in templates, each of which pays before it works."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import TYPE_CHECKING, Literal, cast

from omniform.inputs.text.sandbox.budget import TooMuchError

if TYPE_CHECKING:
    from omniform.inputs.text.sandbox.machine import Machine
    from omniform.inputs.text.sandbox.values import Handler

# A width or a precision is written out as so many characters.
_DIRECTIVE = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(\*|\d+)?(?:\.(\*|\d+))?")
_PIECE = 16  # units for one text among many
_REPR = 10  # characters that one character may be printed as: \U0001f600


def _linear(name: str, factor: int) -> Handler:
    method: Handler = getattr(str, name)

    def linear(machine: Machine, text: str, /, *args: object, **named: object) -> object:
        machine.spend(factor * len(text) + _PIECE)
        return method(text, *args, **named)

    return linear


def _searching(name: str) -> Handler:
    method: Handler = getattr(str, name)

    def searching(machine: Machine, text: str, /, *args: object) -> object:
        needle = args[0] if args else None
        machine.spend(search_cost(text, needle))
        return method(text, *args)

    return searching


def search_cost(text: str, needle: object) -> int:
    """Units for finding one text in another; in the worst case each place is compared in full."""
    return 2 * len(text) * (1 + (len(needle) // 8 if isinstance(needle, str) else 0)) + _PIECE


def _stripping(name: str) -> Handler:
    method: Handler = getattr(str, name)

    def stripping(machine: Machine, text: str, chars: object = None, /) -> object:
        machine.spend(len(text) * (1 + (len(chars) // 64 if isinstance(chars, str) else 0)) + _PIECE)
        return method(text, chars)

    return stripping


def _filling(name: str) -> Handler:
    method: Handler = getattr(str, name)

    def filling(machine: Machine, text: str, /, *args: object) -> object:
        width = args[0] if args else 0
        machine.spend(len(text) + (max(width, 0) if isinstance(width, int) else 0) + _PIECE)
        return method(text, *args)

    return filling


def _beginning(name: str) -> Handler:
    method: Handler = getattr(str, name)

    def beginning(machine: Machine, text: str, /, *args: object) -> object:
        if args and isinstance(args[0], tuple):
            machine.spend(4 * len(args[0]))
        return method(text, *args)

    return beginning


def _splitting(name: str) -> Handler:
    method: Handler = getattr(str, name)

    def splitting(machine: Machine, text: str, sep: object = None, maxsplit: object = -1) -> object:
        pieces = len(text) // 2 + 1
        if isinstance(sep, str) and sep:
            machine.spend(search_cost(text, sep))
            pieces = text.count(sep) + 1
        if isinstance(maxsplit, int) and 0 <= maxsplit < pieces:
            pieces = maxsplit + 1
        machine.spend(len(text) + _PIECE * pieces)
        return method(text, sep, maxsplit)

    return splitting


def split_lines(machine: Machine, text: str, keepends: object = False) -> list[str]:
    """``text.splitlines()``."""
    machine.spend((1 + _PIECE) * len(text) + _PIECE)
    return text.splitlines(bool(keepends))


def replace(machine: Machine, text: str, old: object, new: object, count: object = -1, /) -> str:
    """``text.replace(old, new)``."""
    if not isinstance(old, str) or not isinstance(new, str) or not isinstance(count, int):
        raise TypeError("replace() takes two texts and a number")
    machine.spend(search_cost(text, old))
    times = text.count(old) if count < 0 else min(count, text.count(old))
    machine.spend(len(text) + max(0, times * (len(new) - len(old))))
    return text.replace(old, new, count)


def join(machine: Machine, text: str, iterable: object, /) -> str:
    """``text.join(...)``."""
    parts = [part if isinstance(part, str) else _no_text(part) for part in machine.listed(iterable)]
    machine.spend(sum(map(len, parts)) + len(text) * len(parts))
    return text.join(parts)


def _no_text(part: object) -> str:
    raise TypeError(f"expected a text, found {type(part).__name__}")


def _expand_tabs(machine: Machine, text: str, tabsize: object = 8) -> str:
    if not isinstance(tabsize, int):
        raise TypeError("expandtabs() takes a number")
    machine.spend(2 * len(text) + text.count("\t") * max(tabsize, 0) + _PIECE)
    return text.expandtabs(tabsize)


def percent(machine: Machine, text: str, values: object) -> str:
    """``text % values``."""
    machine.spend(2 * len(text) + _PIECE)
    width = directives = 0
    for found in _DIRECTIVE.finditer(text):
        directives += 1
        for number in found.groups():
            width += _width(number) if number else 0
    machine.spend(width + directives * (_PIECE + _REPR * machine.size(values)))
    return text % values


def _width(number: str) -> int:
    if number == "*" or len(number) > 7:
        raise TooMuchError("a format is wider than any text")
    return int(number)


class _Formatter(Formatter):
    """``str.format`` whose fields are looked up as everything else is, and whose widths are paid for."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def get_field(
        self, field_name: str, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[object, int | str]:
        first, *rest = re.split(r"(\.|\[)", field_name)
        self._machine.spend(8 * _PIECE + 8 * len(field_name))
        key: int | str = int(first) if first.isdecimal() else first
        value: object = self.get_value(key, args, kwargs)
        for sign, name in zip(rest[::2], rest[1::2], strict=True):
            if sign == ".":
                value = self._machine.getattr(value, name)
            else:
                index = name.removesuffix("]")
                value = self._machine.getitem(value, int(index) if index.isdecimal() else index)
        return value, key

    def convert_field(self, value: object, conversion: str | None) -> object:
        if conversion is not None:
            self._machine.spend(_REPR * self._machine.size(value))
        return super().convert_field(value, cast("Literal['r', 's', 'a'] | None", conversion))

    def format_field(self, value: object, format_spec: str) -> str:
        if len(format_spec) > 64:
            raise TooMuchError("a format is longer than any")
        width = sum(map(_width, re.findall(r"\d+", format_spec)))
        self._machine.spend(width + _REPR * self._machine.size(value))
        return format(value, format_spec)


def format_text(machine: Machine, text: str, /, *args: object, **named: object) -> str:
    """``text.format(...)``."""
    machine.spend(4 * len(text) + _PIECE)
    return _Formatter(machine).vformat(text, args, named)


def _format_map(machine: Machine, text: str, mapping: object, /) -> str:
    if not isinstance(mapping, dict):
        raise TypeError("format_map() takes a mapping")
    machine.spend(4 * len(text) + _PIECE)
    return _Formatter(machine).vformat(text, (), mapping)


_TESTS = ("isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric")

METHODS: dict[str, Handler] = {
    **{name: _linear(name, 1) for name in (*_TESTS, "isprintable", "isspace", "istitle", "isupper")},
    **{name: _linear(name, 3) for name in ("capitalize", "casefold", "lower", "swapcase", "title", "upper")},
    **{name: _linear(name, 1) for name in ("removeprefix", "removesuffix")},
    **{name: _searching(name) for name in ("find", "index", "count", "rfind", "rindex", "partition", "rpartition")},
    **{name: _stripping(name) for name in ("strip", "lstrip", "rstrip")},
    **{name: _filling(name) for name in ("center", "ljust", "rjust", "zfill")},
    **{name: _beginning(name) for name in ("startswith", "endswith")},
    **{name: _splitting(name) for name in ("split", "rsplit")},
    "splitlines": split_lines,
    "replace": replace,
    "join": join,
    "expandtabs": _expand_tabs,
    "format": format_text,
    "format_map": _format_map,
}
"""All methods that a text has in templates."""
