"""Plain values as typed dataclasses, each value checked, each mistake told with where it was written."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from omniform.core.errors import ConfigError, brief, nearest

T = TypeVar("T")

Where = Callable[[str], str]
"""Says where the value of a dotted key was written."""


def typed(cls: type[T], given: Mapping[str, object], where: Where, path: str = "") -> T:
    """A dataclass of plain values.

    Args:
        cls: its class; fields may be numbers, texts, lists, mappings and dataclasses.
        given: the values by the fields' names.
        where: for errors.
        path: the dotted key of the whole, for errors.

    Raises:
        ConfigError: an unknown key (the nearest is named), a value of another type, a key that is missing.
    """
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cast("Any", cls)) if field.init}
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown key {joined(path, name)!r}", where=where(joined(path, name)),
                              remedy=nearest(str(name), known))  # fmt: skip
    for name, field in known.items():
        if name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{joined(path, name)!r} is missing", where=where(path))
    return cls(**{name: value_of(hints[name], value, where, joined(path, name)) for name, value in given.items()})


def joined(path: str, name: object) -> str:
    """A dotted key."""
    return f"{path}.{name}" if path else str(name)


def value_of(kind: Any, value: object, where: Where, path: str) -> object:
    """A value as its type says.

    Raises:
        ConfigError: it is of another.
    """
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        kinds = get_args(kind)
        if value is None and type(None) in kinds:
            return None
        left = [one for one in kinds if one is not type(None)]
        for one in left[:-1]:
            try:
                return value_of(one, value, where, path)
            except ConfigError:
                continue
        return value_of(left[-1], value, where, path)
    if origin is Literal:
        if value not in get_args(kind):
            raise _wrong(path, " or ".join(map(str, get_args(kind))), value, where)
        return value
    if origin in (tuple, list, Sequence):
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise _wrong(path, "a list", value, where)
        made = [value_of(get_args(kind)[0], one, where, f"{path}[{place}]") for place, one in enumerate(value)]
        return tuple(made) if origin is tuple else made
    if origin in (dict, Mapping) or kind in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(path, "keys and values", value, where)
        inner = get_args(kind)[1] if get_args(kind) else object
        return {str(key): value_of(inner, one, where, joined(path, key)) for key, one in value.items()}
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise _wrong(path, "keys and values", value, where)
        return typed(cast("type[Any]", kind), cast("Mapping[str, object]", value), where, path)
    return _plain(kind, value, where, path)


def _plain(kind: Any, value: object, where: Where, path: str) -> object:
    if kind in (object, Any):
        return value
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    right = isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not right:
        raise _wrong(path, names.get(kind, str(kind)), value, where)
    return value


def _wrong(path: str, expected: str, found: object, where: Where) -> ConfigError:
    several = isinstance(found, str) and "," in found
    return ConfigError(
        f"{path!r} cannot be this", where=where(path), expected=expected, found=brief(found),
        remedy="Several values, one run each, need --multirun." if several else None,
    )  # fmt: skip
