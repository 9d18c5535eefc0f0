"""From a modular file to one file."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import libcst as cst

from omniform.core.errors import InputError
from omniform.export.modular import places
from omniform.export.modular.book import Book
from omniform.export.modular.graph import Graph, check_circles
from omniform.export.modular.library import Library
from omniform.export.modular.places import KINDS
from omniform.export.modular.sources import Source, parse, read
from omniform.export.modular.units import Units
from omniform.export.modular.writer import formatted, text_of


@dataclass(frozen=True)
class Converted:
    """The file that a modular file stands for.

    Attributes:
        text: the file.
        name: the new model's name, as in ``model_type``.
        notes: where the modular way of writing was followed, and plain Python would do otherwise.
        sources: the files that it is made of.
    """

    text: str
    name: str
    notes: tuple[str, ...]
    sources: frozenset[Path] = frozenset()


def convert(
    path: Path, *, name: str | None, command: str, also: Sequence[str] = (), above: tuple[Path, ...] = ()
) -> Converted:
    """Write out a modular file, with all that it draws from other files.

    Args:
        path: the modular file, ``modular_<name>.py``.
        name: the new model's name; from the file's name by default.
        command: what is said to have made the file.
        also: modules whose classes are written out besides those of families and neighbours.
        above: the modular files that this one is read for.
    """
    _check_name(path, name)
    root = read(path)
    _check(root)
    for each in also:
        if not places.absolute(path.parent, each).there:
            raise InputError(f"there is no module {each}", where="--flatten")
    name = name_of(path) if name is None else name
    if not name.isidentifier():
        raise InputError("this is no model's name", where="--name", found=name, expected="a word such as my_model")
    seen = (*above, path.resolve())

    def inner(other: Path) -> Source:
        if other.resolve() in seen:
            raise InputError("modular files draw from each other in a circle", where=path.name, found=other.name)
        return parse(convert(other, name=None, command=command, also=also, above=seen).text, other)

    book = Book(Library(root, also, inner), name)
    check_circles(book)
    units = Units(book)
    graph = Graph(book, units)
    text = formatted(text_of(graph, command))
    try:
        ast.parse(text)
    except SyntaxError as error:  # ours: never written
        raise InputError(f"the result is no Python: {error}", where=path.name) from error
    return Converted(text, name, tuple(units.notes), frozenset(each.path.resolve() for each in book.library.sources))


def _check_name(path: Path, name: str | None) -> None:
    kind = next((kind for kind in KINDS if kind != "modular" and path.stem.startswith(f"{kind}_")), None)
    if kind is not None and name is None:
        raise InputError(
            "this is no modular file by its name", where=path.name, expected="modular_<name>.py", remedy="Say --name."
        )


def name_of(path: Path) -> str:
    """The model's name in a modular file's own."""
    if path.suffix != ".py":
        raise InputError("a modular file is a .py file", where=path.name)
    name = path.stem.removeprefix("modular_")
    if not name.isidentifier():
        raise InputError("the file's name gives no model's name", where=path.name, expected="modular_<name>.py",
                         remedy="Say --name.")  # fmt: skip
    return name


def _check(root: Source) -> None:
    for statement in root.statements:
        if not isinstance(statement, cst.SimpleStatementLine):
            continue
        for small in statement.body:
            if isinstance(small, cst.ImportFrom) and isinstance(small.names, cst.ImportStar):
                line = next(
                    node.lineno
                    for node in ast.parse(root.text).body
                    if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
                )
                raise InputError(
                    "a star import does not say what it brings",
                    where=f"{root.path.name}, line {line}",
                    remedy="Name what is meant: from module import A, B.",
                )
