"""Schemas whose objects hold what they name, and nothing else.

A schema says of an object which properties it may have; what it does not speak of is allowed as well, which nobody
means who writes ``{"properties": {"city": ...}}`` for a tool. A model that is held to such a schema may go astray in
names of its own. What fits a closed schema fits the open one, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from omniform.inputs.replies.tools import Schema

_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTED: Final = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_INNER: Final = ("items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames")
_JOINS: Final = frozenset(
    {"properties", "allOf", "anyOf", "oneOf", "$ref", "$dynamicRef", "not", "if", "dependentSchemas"}
)
"""Each says something of the same object; of two, one may name what the other does not."""
_OTHERS: Final = frozenset({"additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames"})
_DEEPEST: Final = 100


def closed(schema: Schema) -> Schema:
    """A schema whose objects have no other properties than those it names, where it says nothing of others.

    A schema in which several parts speak of one object stays as it is: what one of them names another may not.
    """
    parts = list(_parts(schema, 0))
    if any(len(_JOINS.intersection(part)) > 1 or len(_list(part.get("allOf"))) > 1 for part in parts):
        return schema
    found = _closed(schema, 0)
    return found if isinstance(found, Mapping) else schema


def closed_format(value: Mapping[str, object]) -> Mapping[str, object]:
    """OpenAI's ``response_format`` with a closed schema; one of another kind as it is."""
    inner = value.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    if value.get("type") != "json_schema" or not isinstance(inner, Mapping) or not isinstance(schema, Mapping):
        return value
    return {**value, "json_schema": {**inner, "schema": closed(schema)}}


def _parts(value: object, depth: int) -> Iterator[Schema]:
    """A schema and all that are within it."""
    if not isinstance(value, Mapping) or depth > _DEEPEST:
        return
    yield value
    for name in _NAMED:
        inner = value.get(name)
        for one in inner.values() if isinstance(inner, Mapping) else ():
            yield from _parts(one, depth + 1)
    for name in _LISTED:
        for one in _list(value.get(name)):
            yield from _parts(one, depth + 1)
    for name in _INNER:
        yield from _parts(value.get(name), depth + 1)


def _closed(value: object, depth: int) -> object:
    if not isinstance(value, Mapping) or depth > _DEEPEST:
        return value
    found = dict(value)
    for name in _NAMED:
        inner = found.get(name)
        if isinstance(inner, Mapping):
            found[name] = {key: _closed(one, depth + 1) for key, one in inner.items()}
    for name in _LISTED:
        inner = found.get(name)
        if isinstance(inner, list):
            found[name] = [_closed(one, depth + 1) for one in inner]
    for name in _INNER:
        if isinstance(found.get(name), Mapping) and name != "not":
            found[name] = _closed(found[name], depth + 1)
    if _may_close(found):
        found["additionalProperties"] = False
    return found


def _may_close(schema: Mapping[object, object]) -> bool:
    """Whether a schema names properties, and needs no others than those."""
    named, least = schema.get("properties"), schema.get("minProperties", 0)
    if not isinstance(named, Mapping) or not named or not _OTHERS.isdisjoint(schema):
        return False
    return all(name in named for name in _list(schema.get("required"))) and not (
        isinstance(least, int) and least > len(named)
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
