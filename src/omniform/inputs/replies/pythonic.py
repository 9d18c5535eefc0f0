"""Calls in Python's notation: read by Python's own parser, never run; the arguments are literals."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Final

from omniform.inputs.replies.tape import NoCall, Step, Tape
from omniform.inputs.replies.tools import Schema, json_text

_DEEPEST: Final = 50
_LONGEST: Final = 1 << 20
_PAIRS: Final = {"(": ")", "[": "]", "{": "}"}
_PLAIN: Final = re.compile(r"[^()\[\]{}\"']+")
_CONSTANTS: Final[Mapping[str, object]] = {"true": True, "false": False, "null": None}


def python_group(tape: Tape) -> Step[str]:
    """Read from one bracket to the one that closes it.

    Raises:
        NoCall: there is none, or it is nested absurdly deep.
    """
    start = tape.at
    closers: list[str] = []
    while True:
        char = yield from tape.peek()
        if not char or tape.at - start > _LONGEST or len(closers) > _DEEPEST:
            raise NoCall
        if char in _PAIRS:
            closers.append(_PAIRS[char])
        elif char in "\"'":
            yield from _quoted(tape, char)
            continue
        elif char in ")]}":
            if closers.pop() != char:
                raise NoCall
        else:
            found = _PLAIN.match(tape.text, tape.at)
            assert found is not None
            tape.at = found.end()
            continue
        tape.at += 1
        if not closers:
            return tape.text[start : tape.at]


def _quoted(tape: Tape, quote: str) -> Step[None]:
    mark = yield from tape.literal(quote * 3, quote)
    while True:
        char = yield from tape.peek()
        if not char:
            raise NoCall
        if char == "\\":
            tape.at += 1
            if not (yield from tape.peek()):
                raise NoCall
            tape.at += 1
        elif char == quote and (yield from tape.literal(mark)):
            return
        else:
            tape.at += 1


def called(text: str, tools: Mapping[str, Schema]) -> list[tuple[str, str]]:
    """The names and arguments (as JSON) of a list of calls.

    Args:
        text: Python's notation of the list.
        tools: say what arguments without a name are.

    Raises:
        NoCall: it is anything else.
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NoCall from None
    if not isinstance(tree, ast.List) or not tree.elts:
        raise NoCall
    return [_call(part, tools) for part in tree.elts]


def _call(node: ast.expr, tools: Mapping[str, Schema]) -> tuple[str, str]:
    if not isinstance(node, ast.Call):
        raise NoCall
    name = ast.unparse(node.func)
    if not re.fullmatch(r"[\w.]+", name):
        raise NoCall
    properties = tools.get(name, {}).get("properties")
    order = list(properties) if isinstance(properties, Mapping) else []
    if len(node.args) > len(order):
        raise NoCall
    arguments = {str(key): _value(value) for key, value in zip(order, node.args, strict=False)}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in arguments:
            raise NoCall
        arguments[keyword.arg] = _value(keyword.value)
    try:
        return name, json_text(arguments)
    except ValueError:
        raise NoCall from None


def _value(node: ast.expr) -> object:
    match node:
        case ast.Constant(str(value)):
            # Characters beyond the first plane may be spelt in halves, as JSON does.
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case ast.Constant(value) if value is None or isinstance(value, (bool, int, float)):
            return value
        case ast.Name(name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.List(parts) | ast.Tuple(parts):
            return [_value(part) for part in parts]
        case ast.Dict(keys, values):
            return {_key(key): _value(value) for key, value in zip(keys, values, strict=True)}
        case ast.UnaryOp(ast.USub(), ast.Constant(value)) if type(value) in (int, float):
            return -value  # type: ignore[operator] # as the guard says
    raise NoCall


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise NoCall
