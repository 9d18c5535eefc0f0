"""JSON schemas of Python functions, so that a function can be handed to a chat template as a tool.

The function's name, its type hints and its docstring in Google's style say everything:
https://google.github.io/styleguide/pyguide.html#383-functions-and-methods
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch

from omniform.core.errors import InputError

Schema = dict[str, object]

_SCALARS: dict[type, str] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    type(None): "null",
}
_TYPES: dict[object, Schema] = {
    **{kind: {"type": name} for kind, name in _SCALARS.items()},
    list: {"type": "array"},
    tuple: {"type": "array"},
    dict: {"type": "object"},
    torch.Tensor: {"type": "audio"},
    Any: {},
}
_SECTIONS = ("Args:", "Returns:", "Raises:")


def function_schema(function: Callable[..., object]) -> Schema:
    """The schema of a function, in the form that tool-using models are trained on.

    Raises:
        InputError: it lacks a docstring, a type hint or the description of an argument, or a hint has no counterpart in
            JSON.
    """
    name = function.__name__
    doc = inspect.getdoc(function)
    if not doc:
        raise InputError("a tool needs a docstring", where=name)
    summary, arguments, returned = _read_docstring(doc.strip())
    properties, required, result = _parameters(function)
    for argument, schema in properties.items():
        if argument not in arguments:
            raise InputError("the docstring does not describe this argument", where=f"{name}({argument})")
        description = arguments[argument]
        choices = re.search(r"\(choices:\s*(.*?)\)\s*$", description, flags=re.IGNORECASE)
        if choices:
            schema["enum"] = _choices(choices.group(1), f"{name}({argument})")
            description = description[: choices.start()].strip()
        schema["description"] = description
    parameters: Schema = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    output: Schema = {"name": name, "description": summary, "parameters": parameters}
    if result is not None:
        output["return"] = {**result, **({} if returned is None else {"description": returned})}
    return {"type": "function", "function": output}


def _parameters(function: Callable[..., object]) -> tuple[dict[str, Schema], list[str], Schema | None]:
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError) as error:
        raise InputError("the type hints cannot be read", where=function.__name__, found=str(error)) from error
    signature = inspect.signature(function)
    properties: dict[str, Schema] = {}
    required = []
    for index, (name, parameter) in enumerate(signature.parameters.items()):
        where = f"{function.__name__}({name})"
        if parameter.annotation is inspect.Parameter.empty:
            if index == 0 and name in ("self", "cls"):
                continue
            raise InputError("a tool's arguments need type hints", where=where)
        properties[name] = hint_schema(hints[name], where)
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
    result: Schema | None = None
    if "return" in hints:
        try:
            result = hint_schema(hints["return"], function.__name__)
        except InputError:
            result = None  # what a tool gives back need not be described
    return properties, required, result


def hint_schema(hint: object, where: str) -> Schema:
    """The schema of a type hint.

    Raises:
        InputError: it has no JSON counterpart.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is None:
        if isinstance(hint, type) and issubclass(hint, Enum):
            return _values([member.value for member in hint], where)
        if hint in _TYPES:
            return dict(_TYPES[hint])
        if isinstance(hint, type) and hint.__module__ == "PIL.Image" and hint.__name__ == "Image":
            return {"type": "image"}
    elif origin is Union or origin is types.UnionType:
        return _union(args, where)
    elif origin is Literal:
        return _values(list(args), where)
    elif origin is list:
        return {"type": "array", "items": hint_schema(args[0], where)}
    elif origin is tuple and len(args) > 1 and ... not in args:
        return {"type": "array", "prefixItems": [hint_schema(arg, where) for arg in args]}
    elif origin is dict:
        return {"type": "object", "additionalProperties": hint_schema(args[1], where)}
    raise InputError(
        "the type hint has no JSON counterpart",
        where=where,
        expected="int, float, str, bool, an Enum, Literal, or list, tuple, dict and unions of these",
        found=str(hint),
        remedy="Hand over the tool's JSON schema instead of the function.",
    )


def _union(args: tuple[object, ...], where: str) -> Schema:
    members = [hint_schema(arg, where) for arg in args if arg is not type(None)]
    names = [member.get("type") for member in members if list(member) == ["type"]]
    schema: Schema
    if len(members) == 1:
        schema = members[0]
    elif len(names) == len(members) and all(isinstance(name, str) for name in names):
        distinct = sorted({str(name) for name in names})
        schema = {"type": distinct[0] if len(distinct) == 1 else distinct}
    else:
        schema = {"anyOf": members}
    if type(None) in args:
        schema["nullable"] = True
    return schema


def _values(values: list[object], where: str) -> Schema:
    if not values or any(type(value) not in _SCALARS for value in values):
        raise InputError("choices are text, numbers, booleans or None", where=where, found=repr(values))
    kinds = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _choices(text: str, where: str) -> list[object]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError("the choices are no JSON list", where=where, found=text) from error
    return [value.strip() if isinstance(value, str) else value for value in values]


def _read_docstring(doc: str) -> tuple[str, dict[str, str], str | None]:
    """A docstring's summary, its arguments with their descriptions, and what it says of the result."""
    sections: dict[str, list[str]] = {"": []}
    current = ""
    for line in doc.splitlines():
        if line.strip() in _SECTIONS and line.strip() not in sections and not line.startswith(" "):
            current = line.strip()
            sections[current] = []
        else:
            sections[current].append(line)
    returned = "\n".join(sections["Returns:"]).strip() if "Returns:" in sections else None
    return "\n".join(sections[""]).strip(), _read_arguments(sections.get("Args:", [])), returned


def _read_arguments(lines: list[str]) -> dict[str, str]:
    arguments: dict[str, list[str]] = {}
    depth: int | None = None
    for line in lines:
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        begun = re.match(r"\s*(\w+):\s*(.*)", line)
        if begun and (depth is None or indent <= depth):
            depth = indent
            arguments[begun.group(1)] = [begun.group(2)]
        elif arguments:
            next(reversed(arguments.values())).append(line)
    return {name: " ".join(part.strip() for part in parts if part.strip()) for name, parts in arguments.items()}
