"""Closed schemas: what fits them fits the open ones, and they are closed only where nothing can be lost by it."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from pydantic import BaseModel

from omniform.inputs.replies.closing import closed, closed_format


class Node(BaseModel):
    name: Literal["a", "b"]
    below: list[Node] = []


class Answer(BaseModel):
    node: Node
    other: Node | int | None = None


def test_what_pydantic_writes_is_closed_everywhere() -> None:
    schema = Answer.model_json_schema()
    found = json.dumps(closed(schema))
    assert found.count('"additionalProperties": false') == 2 and "additionalProperties" not in json.dumps(schema)


OPEN = {
    "says so": {"properties": {"a": {}}, "additionalProperties": True},
    "says which": {"properties": {"a": {}}, "patternProperties": {"^b": {}}},
    "names none": {"type": "object"},
    "needs another": {"properties": {"a": {}}, "required": ["a", "b"]},
    "needs more": {"properties": {"a": {}}, "minProperties": 2},
    "is joined": {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
    "joins": {"properties": {"a": {}}, "anyOf": [{"required": ["b"]}, {"required": ["c"]}]},
    "refers": {"$ref": "#/$defs/x", "properties": {"a": {}}, "$defs": {"x": {"properties": {"b": {}}}}},
    "is not": {"not": {"properties": {"a": {"const": 1}}, "required": ["a"]}},
    "a property of that name": {"properties": {"properties": {"type": "string"}}, "additionalProperties": {}},
}


@pytest.mark.parametrize("name", OPEN)
def test_what_stays_open(name: str) -> None:
    assert closed(OPEN[name]) == OPEN[name]


def test_a_format() -> None:
    inner = {"properties": {"a": {"items": {"properties": {"b": {}}}}}}
    told = closed_format({"type": "json_schema", "json_schema": {"name": "x", "schema": inner}})
    items = {"properties": {"b": {}}, "additionalProperties": False}
    assert told["json_schema"] == {
        "name": "x",
        "schema": {"properties": {"a": {"items": items}}, "additionalProperties": False},
    }
    for other in ({"type": "json_object"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": 1}):
        assert closed_format(other) == other
