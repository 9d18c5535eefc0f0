"""Tools as a reader needs them: names, and the types of arguments that are written without any."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from omniform.core.numbers import is_finite

Schema = Mapping[str, object]
Tool = Mapping[str, object]
"""OpenAI's ``{"type": "function", "function": {"name": ..., "parameters": ...}}``, or the inner mapping alone."""

ANYTHING: Final[Schema] = {"type": "object"}
_DEEPEST: Final = 8
_NONE: Final = ("null", "None")
_TRUTH: Final = {"true": True, "false": False}


def function_of(tool: Tool) -> Schema:
    """The part of a tool that names and describes its function."""
    inner = tool.get("function", tool)
    return inner if isinstance(inner, Mapping) else {}


def parameters_by_name(tools: Sequence[Tool] | None) -> dict[str, Schema]:
    """The schema of each tool's arguments, by the tool's name."""
    found: dict[str, Schema] = {}
    for tool in tools or ():
        function = function_of(tool)
        name, parameters = function.get("name"), function.get("parameters")
        if isinstance(name, str):
            found[name] = parameters if isinstance(parameters, Mapping) else ANYTHING
    return found


def property_of(schema: Schema, name: str) -> Schema:
    """The schema of one argument; an empty one where nothing is said of it."""
    properties = schema.get("properties")
    found = properties.get(name) if isinstance(properties, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def json_text(value: object) -> str:
    """A value as JSON, of whole characters."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return json.dumps(value) if any("\ud800" <= char <= "\udfff" for char in text) else text


def kinds_of(schema: Schema) -> list[str]:
    """The types that a schema names, in its order."""
    return _kinds(schema, schema, 0)


def typed(text: str, schema: Schema, whole: Schema) -> object:
    """The value that a text stands for where its type is not written: the first that the schema allows.

    Args:
        text: as it is written.
        schema: the argument's; without a type it is text.
        whole: what ``$ref`` points into.
    """
    kinds = _kinds(schema, whole, 0)
    if "null" in kinds and text.strip() in _NONE:
        return None
    value = _read(text) if kinds else text
    for kind in kinds:
        if kind == "string":
            break
        if kind == "boolean" and text.strip().lower() in _TRUTH:
            return _TRUTH[text.strip().lower()]
        if _FITS.get(kind, _never)(value):
            return int(value) if kind == "integer" and isinstance(value, float) else value
    return text


def _kinds(schema: Schema, whole: Schema, depth: int) -> list[str]:
    """The types that a schema names, in its order."""
    if depth > _DEEPEST:
        return []
    said = schema.get("type")
    found = [said] if isinstance(said, str) else [kind for kind in _listed(said) if isinstance(kind, str)]
    if not found:
        known = [*_listed(schema.get("enum")), *([schema["const"]] if "const" in schema else [])]
        found = [_kind(value) for value in known]
    for word in ("anyOf", "oneOf", "allOf"):
        for part in _listed(schema.get(word)):
            if isinstance(part, Mapping):
                found += _kinds(part, whole, depth + 1)
    pointer = schema.get("$ref")
    if isinstance(pointer, str) and pointer.startswith("#/"):
        inner: object = whole
        for step in pointer[2:].split("/"):
            inner = inner.get(step) if isinstance(inner, Mapping) else None
        if isinstance(inner, Mapping):
            found += _kinds(inner, whole, depth + 1)
    if schema.get("nullable") is True:
        found.append("null")
    return found


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else ()


def _kind(value: object) -> str:
    """The JSON type of a value."""
    if value is None:
        return "null"
    names = {bool: "boolean", str: "string", int: "integer", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "string")


def _never(_value: object) -> bool:
    return False


_FITS: Final[Mapping[str, Callable[[object], bool]]] = {
    "integer": lambda value: is_finite(value) and value == int(value),
    "number": is_finite,
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
}


def _read(text: str) -> object:
    """A text as JSON, else as a Python literal, else as it is."""
    for read in (json.loads, ast.literal_eval):
        try:
            value: object = read(text.strip())
            json.dumps(value, allow_nan=False)  # what has no place in JSON stays text
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        return list(value) if isinstance(value, tuple) else value
    return text
