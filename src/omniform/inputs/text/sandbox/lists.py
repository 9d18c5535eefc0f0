"""Filters that make lists of lists, or choose from them; see :mod:`omniform.inputs.text.sandbox.filters`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, cast

from jinja2.exceptions import FilterArgumentError, TemplateRuntimeError
from jinja2.runtime import Undefined

from omniform.inputs.text.sandbox import strings
from omniform.inputs.text.sandbox.budget import NODE
from omniform.inputs.text.sandbox.values import Group, Lazy

if TYPE_CHECKING:
    from omniform.inputs.text.sandbox.machine import Machine
    from omniform.inputs.text.sandbox.values import Handler


def getter(machine: Machine, attribute: object, default: object = None) -> Callable[[object], object]:
    """A function that looks up ``"a.0.b"`` in what it is given, as attributes are looked up."""
    parts: list[object] = [] if attribute is None else [attribute]
    if isinstance(attribute, str):
        machine.spend(16 * len(attribute))
        parts = [int(part) if part.isdigit() else part for part in attribute.split(".")]

    def get(item: object) -> object:
        for part in parts:
            machine.spend(4 * NODE)
            item = machine.getitem(item, part)
            if default is not None and isinstance(item, Undefined):
                item = default
        return item

    return get


def _keys(machine: Machine, keys: list[object], case_sensitive: object) -> list[object]:
    """Keys to sort by, once their comparisons are paid for."""
    total = sum(machine.size(key) for key in keys)
    machine.spend(total * (1 + len(keys).bit_length()))
    return keys if case_sensitive else [_lowered(key) for key in keys]


def _lowered(key: object) -> object:
    if isinstance(key, str):
        return key.lower()
    return [_lowered(part) for part in key] if type(key) is list else key


def sort(
    machine: Machine,
    value: object,
    reverse: object = False,
    case_sensitive: object = False,
    attribute: object = None,
) -> list[object]:
    """``value|sort``, by one attribute or by several."""
    items = machine.listed(value)
    names = machine.listed(strings.METHODS["split"](machine, attribute, ",")) if isinstance(attribute, str) else None
    gets = [getter(machine, name) for name in (names or [attribute])]
    # Lists that are items themselves are compared as they are: only what stands at the top is lowered.
    keys = [[get(item) for get in gets] for item in items]
    ranked = _keys(machine, cast("list[object]", keys), True)
    if not case_sensitive:
        ranked = [[part.lower() if isinstance(part, str) else part for part in key] for key in keys]
    order = sorted(range(len(items)), key=cast("list[int]", ranked).__getitem__, reverse=bool(reverse))
    return [items[index] for index in order]


def sort_dict(
    machine: Machine, value: dict[object, object], case_sensitive: object = False, by: str = "key", reverse: object = 0
) -> list[object]:
    """``value|dictsort``."""
    if by not in ("key", "value"):
        raise FilterArgumentError('You can only sort by either "key" or "value"')
    pairs = [tuple(machine.listed(pair)) for pair in machine.items(value.items(), 4 * NODE)]
    keys = cast("list[int]", _keys(machine, [pair[by == "value"] for pair in pairs], case_sensitive))
    order = sorted(range(len(pairs)), key=keys.__getitem__, reverse=bool(reverse))
    return [pairs[index] for index in order]


def group(
    machine: Machine, value: object, attribute: object, default: object = None, case_sensitive: object = False
) -> list[Group]:
    """``value|groupby(attribute)``."""
    get = getter(machine, attribute, default)
    items = machine.listed(value)
    plain = [get(item) for item in items]
    keys = cast("list[int]", _keys(machine, plain, case_sensitive))
    order = sorted(range(len(items)), key=keys.__getitem__)
    groups = [list(group) for _, group in groupby(order, key=keys.__getitem__)]
    return [Group(plain[group[0]], [items[index] for index in group]) for group in groups]


def unique(machine: Machine, value: object, case_sensitive: object = False, attribute: object = None) -> Lazy:
    """``value|unique``: the first of each kind."""

    def unique() -> Iterator[object]:
        get = getter(machine, attribute)
        seen = set()
        for item in machine.items(value, 4 * NODE):
            key = get(item)
            key = machine.needle(key if case_sensitive or not isinstance(key, str) else key.lower())
            if key not in seen:
                seen.add(key)
                yield item

    return machine.lazy(unique(), value)


def as_list(machine: Machine, value: object) -> list[object]:
    """``value|list``."""
    return machine.listed(value)


def items(machine: Machine, value: object) -> Lazy:
    """``value|items``, of a mapping or of nothing."""
    if not isinstance(value, (dict, Undefined)):
        raise TypeError("Can only get item pairs from a mapping.")
    pairs = value.items() if isinstance(value, dict) else ()
    return machine.lazy(iter(machine.items(pairs)), value)


def reverse(machine: Machine, value: object) -> object:
    """``value|reverse``."""
    if isinstance(value, str):
        return machine.slice(value, None, None, -1)
    return machine.lazy(iter(machine.listed(value)[::-1]), value)


def batch(machine: Machine, value: object, linecount: int, fill_with: object = None) -> Lazy:
    """``value|batch(linecount)``: lists of so many."""

    def batch() -> Iterator[object]:
        line: list[object] = []
        for item in machine.items(value, 4 * NODE):
            if len(line) == linecount:
                yield line
                line = []
            line.append(item)
        if line:
            if fill_with is not None and len(line) < linecount:
                machine.spend(4 * linecount)
                line += [fill_with] * (linecount - len(line))
            yield line

    return machine.lazy(batch(), value)


def cut(machine: Machine, value: object, slices: int, fill_with: object = None) -> Lazy:
    """``value|slice(slices)``: so many lists."""

    def cut() -> Iterator[object]:
        items = machine.listed(value)
        each, more = divmod(len(items), slices)
        start = 0
        for number in range(slices):
            end = start + each + (number < more)
            machine.spend(2 * NODE + 3 * (end - start))
            yield items[start:end] + ([fill_with] if fill_with is not None and number >= more else [])
            start = end

    return machine.lazy(cut(), value)


def map_items(machine: Machine, value: object, /, *args: object, **named: object) -> Lazy:
    """``value|map(...)``: an attribute of each item, or what a filter makes of it."""

    def mapped() -> Iterator[object]:
        if not value:
            return
        change = _change(machine, args, named)
        for item in machine.items(value, 4 * NODE):
            yield change(item)

    return machine.lazy(mapped(), value)


def _change(machine: Machine, args: tuple[object, ...], named: dict[str, object]) -> Callable[[object], object]:
    if not args and "attribute" in named:
        unknown = set(named) - {"attribute", "default"}
        if unknown:
            raise FilterArgumentError(f"Unexpected keyword argument {min(unknown)!r}")
        return getter(machine, named["attribute"], named.get("default"))
    if not args:
        raise FilterArgumentError("map requires a filter argument")
    function = _named(machine.filters, args[0], "filter")
    machine.spend(NODE * (len(args) + len(named)))
    return lambda item: function(item, *args[1:], **named)


def _named(table: object, name: object, what: str) -> Handler:
    known = cast("dict[str, Handler]", table)
    if not isinstance(name, str) or name not in known:
        raise TemplateRuntimeError(f"No {what} named {name!r} found.")
    return known[name]


def choosing(wanted: bool, *, by_attribute: bool) -> Handler:
    """``select``, ``reject``, ``selectattr`` and ``rejectattr``: the items that pass a test, or do not."""

    def choosing(machine: Machine, value: object, /, *args: object, **named: object) -> Lazy:
        def chosen() -> Iterator[object]:
            if not value:
                return
            rest = args
            get = None
            if by_attribute:
                if not rest:
                    raise FilterArgumentError("Missing parameter for attribute name")
                get, rest = getter(machine, rest[0]), rest[1:]
            test = _named(machine.tests, rest[0], "test") if rest else None
            more = rest[1:]
            machine.spend(NODE * len(more))
            for item in machine.items(value, 4 * NODE + NODE * len(more)):
                found = item if get is None else get(item)
                if bool(found if test is None else test(found, *more, **named)) is wanted:
                    yield item

        return machine.lazy(chosen(), value)

    return choosing


def extreme(choose: Callable[..., object]) -> Handler:
    """``min`` and ``max``."""

    def extreme(machine: Machine, value: object, case_sensitive: object = False, attribute: object = None) -> object:
        get = getter(machine, attribute)
        items = machine.listed(value)
        if not items:
            return Undefined("No aggregated item, sequence was empty.")
        keys = _keys(machine, [get(item) for item in items], case_sensitive)
        best = choose(range(len(items)), key=keys.__getitem__)
        return items[cast(int, best)]

    return extreme
