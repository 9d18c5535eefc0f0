"""The filters of the language, ``| trim``, ``| tojson``: each is given the machine that pays, and pays before it works.

Those that would walk texts with patterns made for web pages (``urlize``, ``striptags``, ``xmlattr``, ``urlencode``),
print objects (``pprint``) or draw lots (``random``) have no place in a prompt and do not exist here.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, cast

from jinja2.exceptions import FilterArgumentError
from jinja2.runtime import Undefined
from markupsafe import Markup, escape

from omniform.inputs.text.sandbox import lists, strings
from omniform.inputs.text.sandbox.budget import NODE, TooMuchError, depth_of

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
    get = lists.getter(machine, attribute) if attribute is not None else None
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
    get = lists.getter(machine, attribute) if attribute is not None else None
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


FILTERS: dict[str, Handler] = {
    "abs": _abs,
    "attr": _attr,
    "batch": lists.batch,
    "capitalize": _of_text("capitalize"),
    "center": _center,
    **dict.fromkeys(("count", "length"), _length),
    **dict.fromkeys(("d", "default"), _default),
    "dictsort": lists.sort_dict,
    **dict.fromkeys(("e", "escape"), _escape),
    "first": _first,
    "float": _float,
    "forceescape": lambda machine, value: _escape(machine, machine.text(value)),
    "format": _format,
    "groupby": lists.group,
    "indent": _indent,
    "int": _int,
    "items": lists.items,
    "join": _join,
    "last": _last,
    "list": lists.as_list,
    "lower": _of_text("lower"),
    "map": lists.map_items,
    "max": lists.extreme(max),
    "min": lists.extreme(min),
    "reject": lists.choosing(False, by_attribute=False),
    "rejectattr": lists.choosing(False, by_attribute=True),
    "replace": _replace,
    "reverse": lists.reverse,
    "round": _round,
    "safe": _safe,
    "select": lists.choosing(True, by_attribute=False),
    "selectattr": lists.choosing(True, by_attribute=True),
    "slice": lists.cut,
    "sort": lists.sort,
    "string": lambda machine, value: value if isinstance(value, Markup) else machine.text(value),
    "sum": _sum,
    "title": _title,
    "tojson": _to_json,
    "trim": _trim,
    "truncate": _truncate,
    "unique": lists.unique,
    "upper": _of_text("upper"),
    "wordcount": _word_count,
    "wordwrap": _wrap,
}
"""All filters of the language, by name."""
