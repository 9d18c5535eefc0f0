"""Small work on trees: copies, names, sizes."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar, cast

N = TypeVar("N", bound=ast.AST)


def clone(node: N) -> N:
    """A copy of a tree; what was noted on its nodes is shared."""
    new = type(node).__new__(type(node))
    for name, value in vars(node).items():
        if isinstance(value, ast.AST) and name in node._fields:
            setattr(new, name, clone(value))
        elif isinstance(value, list) and name in node._fields:
            setattr(new, name, [clone(item) if isinstance(item, ast.AST) else item for item in value])
        else:
            setattr(new, name, value)
    return new


def name_of(name: str) -> ast.Name:
    """A variable."""
    return ast.Name(id=name, ctx=ast.Load())


def attribute(base: ast.expr, name: str) -> ast.Attribute:
    """``base.name``."""
    return ast.Attribute(value=base, attr=name, ctx=ast.Load())


def constant(value: object) -> ast.Constant:
    """A literal."""
    return ast.Constant(value=value)  # type: ignore[arg-type]


def call(function: ast.expr, args: Iterable[ast.expr] = (), /, **keywords: ast.expr) -> ast.Call:
    """A call."""
    return ast.Call(func=function, args=list(args), keywords=[ast.keyword(arg=n, value=v) for n, v in keywords.items()])


def same(one: ast.AST, other: ast.AST) -> bool:
    """Whether two trees read the same."""
    return ast.dump(one) == ast.dump(other)


def size(node: ast.AST) -> int:
    """How large a tree is."""
    return sum(isinstance(part, (ast.expr, ast.stmt)) for part in ast.walk(node))


def is_atom(node: ast.expr) -> bool:
    """Whether an expression may be written twice for nothing: a name, a literal, attributes of a name."""
    if isinstance(node, ast.Attribute):
        return is_atom(node.value)
    return isinstance(node, (ast.Name, ast.Constant)) or (isinstance(node, ast.Tuple) and not node.elts)


def stored(nodes: Iterable[ast.AST]) -> dict[str, int]:
    """How often each variable is assigned; what is within functions of their own is left out."""
    counts: dict[str, int] = {}
    for node in nodes:
        for part in walk_here(node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                counts[part.id] = counts.get(part.id, 0) + 1
    return counts


def walk_here(node: ast.AST) -> Iterator[ast.AST]:
    """A tree without comprehensions' own variables and nested functions."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.Lambda, ast.comprehension)):
            continue
        yield from walk_here(child)


def names_read(nodes: Iterable[ast.AST]) -> dict[str, int]:
    """How often each variable is read."""
    counts: dict[str, int] = {}
    for node in nodes:
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
                counts[part.id] = counts.get(part.id, 0) + 1
    return counts


class Substitution(ast.NodeTransformer):
    """Puts expressions in the places of variables."""

    def __init__(self, found: Mapping[str, ast.expr]) -> None:
        self.found = found

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return clone(self.found[node.id]) if node.id in self.found else node


def substituted(node: N, found: Mapping[str, ast.expr]) -> N:
    """A tree with expressions in the places of variables."""
    return cast(N, Substitution(found).visit(node)) if found else node


def returns(body: Iterable[ast.stmt]) -> bool:
    """Whether there is a ``return`` anywhere."""
    return any(isinstance(part, ast.Return) for node in body for part in walk_here(node))


def map_blocks(body: list[ast.stmt], change: Callable[[list[ast.stmt]], list[ast.stmt]]) -> list[ast.stmt]:
    """Change every block of statements, the innermost first."""
    for node in body:
        for name in ("body", "orelse", "finalbody"):
            inner = vars(node).get(name)
            if isinstance(inner, list) and inner and isinstance(inner[0], ast.stmt):
                setattr(node, name, map_blocks(inner, change))
    return change(body)
