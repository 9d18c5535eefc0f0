"""The sources of functions and classes, as trees that keep their comments."""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType

from omniform.core.errors import OmniformError

IDLE = ("type:", "noqa", "fmt:", "pragma")
"""How comments begin that are meant for tools."""

FunctionTree = ast.FunctionDef


@dataclass(frozen=True)
class Sources:
    """One file.

    Attributes:
        functions: by the number of their first line.
        classes: by their name.
        notes: comments of whole statements, by the number of the statement's first line.
    """

    functions: dict[int, FunctionTree]
    classes: dict[str, ast.ClassDef]
    notes: dict[int, list[str]]


@cache
def sources_of(path: str) -> Sources:
    """The trees of one file."""
    text = Path(path).read_text(encoding="utf-8")
    functions: dict[int, FunctionTree] = {}
    classes: dict[str, ast.ClassDef] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            functions[min([node.lineno, *(d.lineno for d in node.decorator_list)])] = node
        elif isinstance(node, ast.ClassDef):
            classes[node.name] = node
    return Sources(functions, classes, _notes(text))


def _notes(text: str) -> dict[int, list[str]]:
    """Comments by the line that they stand before, or at the end of."""
    notes: dict[int, list[str]] = {}
    waiting: list[str] = []
    trivia = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    started = None
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            words = token.string.lstrip("# ")
            if words.startswith(IDLE):
                continue
            if started is None:
                waiting.append(words)
            else:
                notes.setdefault(started, []).append(words)
        elif token.type == tokenize.NEWLINE:
            started = None
        elif token.type not in trivia and started is None:
            started = token.start[0]
            if waiting:
                notes.setdefault(started, []).extend(waiting)
                waiting = []
    return notes


def plain_function(function: Callable[..., object]) -> FunctionType:
    """The function behind decorators."""
    found = inspect.unwrap(function)
    assert isinstance(found, FunctionType)
    return found


def tree_of(function: FunctionType) -> FunctionTree:
    """The tree of a function.

    Raises:
        OmniformError: there is no source to be found, or it is a lambda.
    """
    code: CodeType = function.__code__
    found = sources_of(code.co_filename).functions.get(code.co_firstlineno)
    if found is None:
        raise OmniformError("this function has no source to write down", where=function.__qualname__)
    return found


def notes_of(function: FunctionType, node: ast.stmt) -> list[str]:
    """The comments of a statement of a function."""
    return sources_of(function.__code__.co_filename).notes.get(node.lineno, [])


def class_tree(kind: type) -> ast.ClassDef | None:
    """The tree of a class."""
    module = inspect.getmodule(kind)
    if module is None or module.__file__ is None:
        return None
    return sources_of(module.__file__).classes.get(kind.__name__)


def in_house(value: object) -> bool:
    """Whether a function or a class is ours, so that it is written down and not imported."""
    module = value.__module__ if isinstance(value, (type, FunctionType)) else ""
    return (module or "").split(".")[0] == "omniform"
