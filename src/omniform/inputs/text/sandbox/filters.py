"""The filters of the language, ``| trim``, ``| tojson``: each is given the machine that pays, and pays before it works.

Those that would walk texts with patterns made for web pages (``urlize``, ``striptags``, ``xmlattr``, ``urlencode``),
print objects (``pprint``) or draw lots (``random``) have no place in a prompt and do not exist here.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Literal, cast

from jinja2.exceptions import FilterArgumentError, TemplateRuntimeError
from jinja2.runtime import Undefined
from markupsafe import Markup, escape

from omniform.inputs.text.sandbox import strings
from omniform.inputs.text.sandbox.budget import NODE, TooMuchError, depth_of
from omniform.inputs.text.sandbox.values import Group, Lazy

if TYPE_CHECKING:
    from omniform.inputs.text.sandbox.machine import Machine
    from omniform.inputs.text.sandbox.values import Handler

_WIDEST_INDENT = 100
_ESCAPED = 6  # characters that one becomes in JSON or HTML: \u0001, &quot;
_FINEST = 400  # decimal places of any number

# ---- texts


def _of_text(name: str, *, factor: int = 3) -> Handler:
    method: Callable[[str], object] = getattr(str, name)

    def of_text(machine: Machine, value: object) -> object:
        text = machine.text(value)
        machine.spend(factor * len(text))
        return method(text)

    return of_text


def _trim(machine: Machine, value: object, chars: object = None) -> object:
    return strings.METHODS["strip"](machine, machine.text(value), chars)


def _title(machine: Machine, value: object) -> str:
    text = machine.text(value)
    machine.spend(24 * len(text))
    words = re.split(r"([-\s({\[<]+)", text)
    return "".join(word[0].upper() + word[1:].lower() for word in words if word)


def _center(machine: Machine, value: object, width: object = 80) -> object:
    return strings.METHODS["center"](machine, machine.text(value), width)


def _replace(machine: Machine, value: object, old: object, new: object, count: object = None) -> str:
    return strings.replace(
        machine, machine.text(value), machine.text(old), machine.text(new), -1 if count is None else count
    )


def _format(machine: Machine, value: object, /, *args: object, **named: object) -> str:
    if args and named:
        raise FilterArgumentError("can't handle positional and keyword arguments at the same time")
    return strings.percent(machine, machine.text(value), named or args)


def _indent(machine: Machine, value: object, width: object = 4, first: object = False, blank: object = False) -> str:
    if not isinstance(value, str):
        raise TypeError(f"indent takes text, not {type(value).__name__}")
    text = str.__str__(value) + "\n"
    if isinstance(width, int):
        machine.spend(max(width, 0))
        margin = " " * width
    else:
        margin = machine.text(width)
    lines = strings.split_lines(machine, text)
    machine.spend(len(text) + len(lines) * (NODE + len(margin)))
    kept = [margin + line if line or blank else line for line in lines[1:]]
    return (margin if first else "") + "\n".join([lines[0], *kept])


def _word_count(machine: Machine, value: object) -> int:
    text = machine.text(value)
    machine.spend(24 * len(text))
    return len(re.findall(r"\w+", text))


def _wrap(
    machine: Machine,
    value: object,
    width: int = 79,
    break_long_words: bool = True,
    wrapstring: object = None,
    break_on_hyphens: bool = True,
) -> str:
    lines = strings.split_lines(machine, machine.text(value))
    glue = "\n" if wrapstring is None else machine.text(wrapstring)
    # Python's pattern looks for the end of a word from each of its letters.
    machine.spend(sum(len(word) ** 2 for line in lines for word in line.split()))
    machine.spend(sum((80 + len(glue)) * (len(line) + 1) for line in lines))
    return glue.join(
        glue.join(
            textwrap.wrap(
                line,
                width=width,
                expand_tabs=False,
                replace_whitespace=False,
                break_long_words=break_long_words,
                break_on_hyphens=break_on_hyphens,
            )
        )
        for line in lines
    )


def _truncate(
    machine: Machine,
    value: object,
    length: int = 255,
    killwords: object = False,
    end: str = "...",
    leeway: int | None = None,
) -> object:
    if not isinstance(value, str) or not isinstance(end, str) or length < len(end):
        raise ValueError("truncate takes text, and a length no shorter than what ends it")
    machine.spend(2 * len(value) + len(end))
    if len(value) <= length + (5 if leeway is None else leeway):
        return value
    kept = value[: length - len(end)]
    return (kept if killwords else kept.rsplit(" ", 1)[0]) + end


def _escape(machine: Machine, value: object) -> Markup:
    text = value if isinstance(value, Markup) else machine.text(value)
    machine.spend(_ESCAPED * len(text))
    return escape(text)


def _safe(machine: Machine, value: object) -> Markup:
    text = machine.text(value)
    machine.spend(len(text))
    return Markup(text)


def _join(machine: Machine, value: object, d: object = "", attribute: object = None) -> str:
    get = _getter(machine, attribute) if attribute is not None else None
    parts = [machine.text(item if get is None else get(item)) for item in machine.listed(value)]
    return strings.join(machine, machine.text(d), parts)


def _to_json(
    machine: Machine,
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja's own escapes what would be HTML, which a prompt is not.
    size = machine.size(value)
    machine.spend(size * (_ESCAPED if not ensure_ascii else 2 * _ESCAPED) * (4 if sort_keys else 1))
    if indent is not None:
        width = indent if isinstance(indent, int) else len(indent)
        known = machine.known.get(id(value))
        depth = known[1] if known is not None else depth_of(value)
        if width > _WIDEST_INDENT:
            raise TooMuchError(f"an indent is wider than {_WIDEST_INDENT}")
        machine.spend(size // NODE * (8 * NODE + depth * max(width, 0)))
    if separators is not None:
        machine.spend(size * (1 + sum(map(len, separators))))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


# ---- numbers


def _abs(machine: Machine, value: object) -> object:
    return abs(cast(float, value))


def _round(
    machine: Machine, value: float, precision: int = 0, method: Literal["common", "ceil", "floor"] = "common"
) -> float:
    if method not in ("common", "ceil", "floor"):
        raise FilterArgumentError("method must be common, ceil or floor")
    if not -_FINEST <= precision <= _FINEST:
        raise TooMuchError(f"a number is rounded to more than {_FINEST} places")
    if method == "common":
        return round(value, precision)
    function = math.ceil if method == "ceil" else math.floor
    scale: float = 10**precision
    return function(value * scale) / scale


def _int(machine: Machine, value: object, default: object = 0, base: int = 10) -> object:
    if isinstance(value, str):
        machine.spend(2 * len(value))
    try:
        made = int(value, base) if isinstance(value, str) else int(cast(float, value))
    except (TypeError, ValueError):
        try:
            made = int(float(cast(str, value)))
        except (TypeError, ValueError, OverflowError):
            return default
    return machine.checked(made)


def _float(machine: Machine, value: object, default: object = 0.0) -> object:
    if isinstance(value, str):
        machine.spend(2 * len(value))
    try:
        return float(cast(str, value))
    except (TypeError, ValueError):
        return default


def _sum(machine: Machine, value: object, attribute: object = None, start: object = 0) -> object:
    if isinstance(start, str):
        raise TypeError("sum() can't sum strings")
    get = _getter(machine, attribute) if attribute is not None else None
    total = start
    for item in machine.items(value, 4 * NODE):
        total = machine.binary("+", total, item if get is None else get(item))
    return total


# ---- one of several


def _default(machine: Machine, value: object, default_value: object = "", boolean: object = False) -> object:
    return default_value if isinstance(value, Undefined) or (boolean and not value) else value


def _first(machine: Machine, value: object) -> object:
    for item in machine.items(value, 0):
        return item
    return Undefined("No first item, sequence was empty.")


def _last(machine: Machine, value: object) -> object:
    # Items that are computed as they come have no last one.
    for item in reversed(cast("list[object]", value)):
        return item
    return Undefined("No last item, sequence was empty.")


def _length(machine: Machine, value: object) -> int:
    return len(cast("list[object]", value))


def _attr(machine: Machine, value: object, name: object) -> object:
    if isinstance(value, dict):
        wanted = machine.text(name)
        return machine.getattr({}, wanted) if wanted in dir(dict) else Undefined(obj=value, name=wanted)
    return machine.getattr(value, machine.text(name))


def _extreme(choose: Callable[..., object]) -> Handler:
    def extreme(machine: Machine, value: object, case_sensitive: object = False, attribute: object = None) -> object:
        get = _getter(machine, attribute)
        items = machine.listed(value)
        if not items:
            return Undefined("No aggregated item, sequence was empty.")
        keys = _keys(machine, [get(item) for item in items], case_sensitive)
        best = choose(range(len(items)), key=keys.__getitem__)
        return items[cast(int, best)]

    return extreme


# ---- lists


def _getter(machine: Machine, attribute: object, default: object = None) -> Callable[[object], object]:
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


def _sort(
    machine: Machine,
    value: object,
    reverse: object = False,
    case_sensitive: object = False,
    attribute: object = None,
) -> list[object]:
    items = machine.listed(value)
    names = machine.listed(strings.METHODS["split"](machine, attribute, ",")) if isinstance(attribute, str) else None
    gets = [_getter(machine, name) for name in (names or [attribute])]
    # Lists that are items themselves are compared as they are: only what stands at the top is lowered.
    keys = [[get(item) for get in gets] for item in items]
    ranked = _keys(machine, cast("list[object]", keys), True)
    if not case_sensitive:
        ranked = [[part.lower() if isinstance(part, str) else part for part in key] for key in keys]
    order = sorted(range(len(items)), key=cast("list[int]", ranked).__getitem__, reverse=bool(reverse))
    return [items[index] for index in order]


def _sort_dict(
    machine: Machine, value: dict[object, object], case_sensitive: object = False, by: str = "key", reverse: object = 0
) -> list[object]:
    if by not in ("key", "value"):
        raise FilterArgumentError('You can only sort by either "key" or "value"')
    pairs = [tuple(machine.listed(pair)) for pair in machine.items(value.items(), 4 * NODE)]
    keys = cast("list[int]", _keys(machine, [pair[by == "value"] for pair in pairs], case_sensitive))
    order = sorted(range(len(pairs)), key=keys.__getitem__, reverse=bool(reverse))
    return [pairs[index] for index in order]


def _group(
    machine: Machine, value: object, attribute: object, default: object = None, case_sensitive: object = False
) -> list[Group]:
    get = _getter(machine, attribute, default)
    items = machine.listed(value)
    plain = [get(item) for item in items]
    keys = cast("list[int]", _keys(machine, plain, case_sensitive))
    order = sorted(range(len(items)), key=keys.__getitem__)
    groups = [list(group) for _, group in groupby(order, key=keys.__getitem__)]
    return [Group(plain[group[0]], [items[index] for index in group]) for group in groups]


def _unique(machine: Machine, value: object, case_sensitive: object = False, attribute: object = None) -> Lazy:
    def unique() -> Iterator[object]:
        get = _getter(machine, attribute)
        seen = set()
        for item in machine.items(value, 4 * NODE):
            key = get(item)
            key = machine.needle(key if case_sensitive or not isinstance(key, str) else key.lower())
            if key not in seen:
                seen.add(key)
                yield item

    return machine.lazy(unique(), value)


def _list(machine: Machine, value: object) -> list[object]:
    return machine.listed(value)


def _items(machine: Machine, value: object) -> Lazy:
    if not isinstance(value, (dict, Undefined)):
        raise TypeError("Can only get item pairs from a mapping.")
    pairs = value.items() if isinstance(value, dict) else ()
    return machine.lazy(iter(machine.items(pairs)), value)


def _reverse(machine: Machine, value: object) -> object:
    if isinstance(value, str):
        return machine.slice(value, None, None, -1)
    return machine.lazy(iter(machine.listed(value)[::-1]), value)


def _batch(machine: Machine, value: object, linecount: int, fill_with: object = None) -> Lazy:
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


def _slice(machine: Machine, value: object, slices: int, fill_with: object = None) -> Lazy:
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


def _map(machine: Machine, value: object, /, *args: object, **named: object) -> Lazy:
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
        return _getter(machine, named["attribute"], named.get("default"))
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


def _choosing(wanted: bool, *, by_attribute: bool) -> Handler:
    def choosing(machine: Machine, value: object, /, *args: object, **named: object) -> Lazy:
        def chosen() -> Iterator[object]:
            if not value:
                return
            rest = args
            get = None
            if by_attribute:
                if not rest:
                    raise FilterArgumentError("Missing parameter for attribute name")
                get, rest = _getter(machine, rest[0]), rest[1:]
            test = _named(machine.tests, rest[0], "test") if rest else None
            more = rest[1:]
            machine.spend(NODE * len(more))
            for item in machine.items(value, 4 * NODE + NODE * len(more)):
                found = item if get is None else get(item)
                if bool(found if test is None else test(found, *more, **named)) is wanted:
                    yield item

        return machine.lazy(chosen(), value)

    return choosing


FILTERS: dict[str, Handler] = {
    "abs": _abs,
    "attr": _attr,
    "batch": _batch,
    "capitalize": _of_text("capitalize"),
    "center": _center,
    **dict.fromkeys(("count", "length"), _length),
    **dict.fromkeys(("d", "default"), _default),
    "dictsort": _sort_dict,
    **dict.fromkeys(("e", "escape"), _escape),
    "first": _first,
    "float": _float,
    "forceescape": lambda machine, value: _escape(machine, machine.text(value)),
    "format": _format,
    "groupby": _group,
    "indent": _indent,
    "int": _int,
    "items": _items,
    "join": _join,
    "last": _last,
    "list": _list,
    "lower": _of_text("lower"),
    "map": _map,
    "max": _extreme(max),
    "min": _extreme(min),
    "reject": _choosing(False, by_attribute=False),
    "rejectattr": _choosing(False, by_attribute=True),
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "safe": _safe,
    "select": _choosing(True, by_attribute=False),
    "selectattr": _choosing(True, by_attribute=True),
    "slice": _slice,
    "sort": _sort,
    "string": lambda machine, value: value if isinstance(value, Markup) else machine.text(value),
    "sum": _sum,
    "title": _title,
    "tojson": _to_json,
    "trim": _trim,
    "truncate": _truncate,
    "unique": _unique,
    "upper": _of_text("upper"),
    "wordcount": _word_count,
    "wordwrap": _wrap,
}
"""All filters of the language, by name."""
