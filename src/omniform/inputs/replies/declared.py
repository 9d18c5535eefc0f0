"""Answers by a description that comes with a tokenizer: ``response_template``, version 1, as transformers 5 has it.

It names the fields of a message, each with what begins and ends it in the text, as literals or regular expressions, and
how what is between is read. The expressions are the checkpoint's own and run as they are, so this is for those who ask
for it (``tokenizer.parse_response``); :class:`~omniform.inputs.replies.reader.Reader` never does.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from omniform.core.errors import ConfigError, InputError, brief
from omniform.inputs.replies.tools import Schema, Tool, parameters_by_name, property_of, typed

Options = Mapping[str, object]
_KEYS: Final = frozenset(
    ("open", "open_pattern", "close", "close_pattern", "content", "content_args", "repeats", "join", "optional")
) | {"transform", "transform_each"}
_TOP: Final = frozenset(("version", "defaults", "fields", "start_anchor", "start_anchor_pattern"))
_SLOT: Final = re.compile(r"\{(\w+(?:\.\w+)*)\}")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message; see the description's own words."""

    name: str
    open: re.Pattern[str] | None
    close: re.Pattern[str] | None
    said: Options

    def value(self, text: str, captured: Mapping[str, str]) -> object:
        """What a text between its ends stands for."""
        found = _content(text, str(self.said.get("content", "text")), _options(self.said.get("content_args")))
        shape = self.said.get("transform")
        if shape is None:
            return found
        if not self.said.get("transform_each"):
            return _shaped(shape, {**captured, "content": found})
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise _unread(self.name, text, "a list of objects")
        return [_shaped(shape, {**captured, **item}) for item in found]


def parse_declared(
    text: str, template: Options, prefix: str = "", tools: Sequence[Tool] | None = None
) -> dict[str, object]:
    """A message out of an answer.

    Args:
        text: the answer.
        template: the description.
        prefix: the prompt, the end of which may be the beginning of the message.
        tools: their schemas say what arguments are that are written as text.

    Raises:
        ConfigError: the description is malformed.
        InputError: the answer is not as it says.
    """
    if not isinstance(template, Mapping) or set(template) - _TOP or template.get("version", 1) != 1:
        raise _malformed("response_template", template)
    fields = [_field(name, said) for name, said in _options(template.get("fields")).items()]
    anchor = _pattern(template, "start_anchor", "start_anchor_pattern")
    implicit = [field for field in fields if field.open is None]
    if not fields or len(implicit) > 1 or anchor is None:
        raise _malformed("response_template", template)
    after = [found.end() for found in anchor.finditer(prefix)]
    whole = prefix[after[-1] if after else 0 :] + text
    found: dict[str, object] = copy.deepcopy(dict(_options(template.get("defaults"))))
    schemas = parameters_by_name(tools)
    for field, part, captured in _parts(whole, fields, implicit[0] if implicit else None):
        _store(found, field, _typed(field.value(part, captured), schemas))
    missing = [field.name for field in fields if field.said.get("optional", True) is False and field.name not in found]
    if missing:
        raise InputError("the answer lacks fields that it has to have", where="parse_response", found=f"no {missing}")
    kept = _options(template.get("defaults"))
    return {name: value for name, value in found.items() if name in kept or value not in (None, "", [], {})}


def _parts(text: str, fields: list[Field], implicit: Field | None) -> list[tuple[Field, str, dict[str, str]]]:
    """The fields that a text consists of, one after another, with what their beginnings captured."""
    found: list[tuple[Field, str, dict[str, str]]] = []
    at = 0
    while True:
        ends = [(field, field.open.search(text, at), 0) for field in fields if field.open is not None]
        if implicit is not None and implicit.close is not None:
            ends.append((implicit, implicit.close.search(text, at), 1))
        hits = [
            (m.start(), m.start() - m.end(), kind, field.name, field, m) for field, m, kind in ends if m is not None
        ]
        if not hits:
            break
        start, length, kind, _, field, match = min(hits, key=lambda hit: hit[:4])
        if implicit is not None and start > at:
            found.append((implicit, text[at:start], {}))
        elif kind and not length:
            return found  # nothing stands before an end that is nothing
        at = match.end()
        if kind:
            continue
        captured = {name: value for name, value in match.groupdict().items() if value is not None}
        close = None if field.close is None else field.close.search(text, at)
        found.append((field, text[at : len(text) if close is None else close.start()], captured))
        at = len(text) if close is None else close.end()
    if implicit is not None and at < len(text):
        found.append((implicit, text[at:], {}))
    return found


def _store(found: dict[str, object], field: Field, value: object) -> None:
    join = field.said.get("join")
    before = found.get(field.name)
    if isinstance(join, str) and isinstance(value, str):
        found[field.name] = value if before is None else f"{before}{join}{value}"
    elif field.said.get("repeats"):
        found[field.name] = [*(before if isinstance(before, list) else []), value]
    else:
        found[field.name] = value


def _typed(value: object, schemas: Mapping[str, Schema]) -> object:
    """A call, or several, with arguments of the types that its tool's schema says."""
    if isinstance(value, list):
        return [_typed(item, schemas) for item in value]
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
        return value
    schema = schemas.get(str(function.get("name")), {})
    given = function["arguments"]
    function["arguments"] = {
        name: typed(one, property_of(schema, name), schema) if isinstance(one, str) else one
        for name, one in given.items()
    }
    return value


def _content(text: str, kind: str, options: Options) -> object:
    stripped = text.strip() if options.get("strip", True) else text
    readers: dict[str, Callable[[], object]] = {
        "text": lambda: stripped,
        "int": lambda: int(stripped),
        "float": lambda: float(stripped),
        "bool": lambda: stripped.lower() in ("true", "1"),
        "json": lambda: _loose_json(text, stripped, options),
        "xml-inline": lambda: _tags(text, options),
        "kv-lines": lambda: _lines(text, options),
    }
    if kind not in readers:
        raise _malformed("content", kind)
    try:
        return readers[kind]()
    except (ValueError, RecursionError):
        raise _unread(kind, text, kind) from None


def _loose_json(text: str, stripped: str, options: Options) -> object:
    """JSON, with keys that need no quotes and texts in other quotes where the options say so."""
    quotes = options.get("string_delims")
    ends = [tuple(map(str, pair)) for pair in quotes] if isinstance(quotes, list) else []
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        kept.append(json.dumps(found[1]))
        return f"\x01{len(kept) - 1}\x02"

    loose = text
    for open, close in ends:
        loose = re.sub(f"{re.escape(open)}(.*?){re.escape(close)}", keep, loose, flags=re.DOTALL)
    if options.get("unquoted_keys"):
        loose = re.sub(r"(?<=[{,])(\w+):", r'"\1":', loose)
    loose = re.sub("\x01(\\d+)\x02", lambda found: kept[int(found[1])], loose) if kept else loose
    try:
        found: object = json.loads(loose)
    except ValueError:
        if options.get("allow_non_json"):
            return stripped
        raise
    return found


def _tags(text: str, options: Options) -> object:
    pattern, found = options.get("tag_pattern"), dict[str, object]()
    if not isinstance(pattern, str):
        raise _malformed("tag_pattern", pattern)
    for match in _compiled(pattern, "tag_pattern").finditer(text):
        groups = match.groupdict()
        key, value = str(groups.get("key")), _inner(groups.get("value") or "", options)
        if key in found and options.get("merge_duplicates"):
            before = found[key]
            found[key] = [*(before if isinstance(before, list) else [before]), value]
        else:
            found[key] = value
    return found


def _lines(text: str, options: Options) -> object:
    between = str(options.get("kv_sep", ":"))
    pairs = [line.split(between, 1) for line in text.split(str(options.get("line_sep", "\n"))) if between in line]
    return {key.strip(): _inner(value.strip(), options) for key, value in pairs}


def _inner(text: str, options: Options) -> object:
    said = options.get("value_parser")
    if not isinstance(said, Mapping):
        return text
    return _content(text, str(said.get("name", "text")), _options(said.get("args")))


def _shaped(shape: object, values: Mapping[str, object]) -> object:
    """A form with its slots filled."""
    if isinstance(shape, Mapping):
        return {name: _shaped(part, values) for name, part in shape.items()}
    if isinstance(shape, list):
        return [_shaped(part, values) for part in shape]
    slot = _SLOT.fullmatch(shape) if isinstance(shape, str) else None
    if slot is None:
        return shape
    value: object = values
    for key in slot[1].split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise InputError("the answer lacks what its form names", where="parse_response", expected=slot[0])
        value = value[key]
    return value


def _field(name: str, said: object) -> Field:
    options = _options(said)
    if set(options) - _KEYS:
        raise _malformed(f"response_template.fields.{name}", said)
    return Field(name, _pattern(options, "open", "open_pattern"), _pattern(options, "close", "close_pattern"), options)


def _pattern(said: Options, literal: str, pattern: str) -> re.Pattern[str] | None:
    texts, expression = said.get(literal), said.get(pattern)
    if texts is not None:
        listed = [texts] if isinstance(texts, str) else texts
        if not isinstance(listed, list) or not listed or not all(isinstance(one, str) and one for one in listed):
            raise _malformed(literal, texts)
        return re.compile("|".join(map(re.escape, sorted(listed, key=len, reverse=True))))
    return None if expression is None else _compiled(expression, pattern)


def _compiled(expression: object, where: str) -> re.Pattern[str]:
    try:
        return re.compile(expression, re.DOTALL)  # type: ignore[call-overload, no-any-return]
    except (re.error, TypeError):
        raise _malformed(where, expression) from None


def _options(value: object) -> Options:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _malformed("response_template", value)
    return value


def _malformed(where: str, found: object) -> ConfigError:
    return ConfigError("this describes no answers", where=where, found=brief(found))


def _unread(where: str, text: str, expected: str) -> InputError:
    return InputError("a part of the answer cannot be read", where=where, expected=expected, found=brief(text))
