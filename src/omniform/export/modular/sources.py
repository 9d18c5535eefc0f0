"""Files of Python, read and never run: what each defines, and what it imports from where."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import libcst as cst

from omniform.core.errors import InputError, RepoError
from omniform.export.modular.places import module_of


@dataclass(frozen=True, slots=True)
class Imported:
    """One name that an import statement binds: ``from <dots><module> import <attr>``, or ``import <module>``."""

    level: int
    module: str
    attr: str | None
    line: int = field(default=0, compare=False)


Statement = cst.SimpleStatementLine | cst.BaseCompoundStatement


@dataclass(eq=False)
class Source:
    """A file: its statements, the names that they define, and its imports.

    Attributes:
        path: where it lies.
        text: what it holds.
        statements: those of the module, in order.
        defs: for each name that is defined here, the numbers of the statements that do so.
        imports: for each name that is bound by a plain import, what it is.
        guarded: names that imports below ``if`` and ``try`` bind; they are also in ``defs``.
        plain: for each package that ``import a.b.c`` names, those modules in full.
        stars: modules whose names all are imported.
        twice: names that two imports bind, and what to.
    """

    path: Path
    text: str
    module: cst.Module
    statements: list[Statement] = field(default_factory=list)
    defs: dict[str, list[int]] = field(default_factory=dict)
    imports: dict[str, Imported] = field(default_factory=dict)
    guarded: set[str] = field(default_factory=set)
    typing_only: dict[str, Imported] = field(default_factory=dict)
    plain: dict[str, set[str]] = field(default_factory=dict)
    stars: list[Imported] = field(default_factory=list)
    twice: list[tuple[str, Imported, Imported]] = field(default_factory=list)
    future: bool = False

    @cached_property
    def dotted(self) -> str | None:
        """The module's name in its package; None outside of packages."""
        return module_of(self.path)

    @cached_property
    def lines(self) -> dict[str, int]:
        """The line of each top-level name, and of each method as ``Class.method``."""
        found: dict[str, int] = {}
        for node in ast.parse(self.text).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                found.setdefault(node.name, node.lineno)
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        found.setdefault(f"{node.name}.{inner.name}", inner.lineno)
        return found

    def where_imported(self, imported: Imported) -> str:
        """The file and the line of an import, for an error."""
        for node in ast.walk(ast.parse(self.text)):
            if isinstance(node, ast.ImportFrom):
                known = (node.level, node.module or "") == (imported.level, imported.module)
                if known and any(each.name == imported.attr for each in node.names):
                    return f"{self.path.name}, line {node.lineno}"
            if isinstance(node, ast.Import) and any(each.name == imported.module for each in node.names):
                return f"{self.path.name}, line {node.lineno}"
        return self.path.name

    def where(self, name: str | None = None) -> str:
        """The file, and the line of a name in it, for an error."""
        line = self.lines.get(name) if name is not None else None
        return self.path.name if line is None else f"{self.path.name}, line {line}"

    def classes(self) -> dict[str, cst.ClassDef]:
        """The classes of the module; of two of one name the last."""
        return {node.name.value: node for node in self.statements if isinstance(node, cst.ClassDef)}

    @cached_property
    def owned(self) -> frozenset[str]:
        """Every name that the file itself gives to something: definitions, parameters, variables, fields."""
        found = set(self.defs)
        for node in ast.walk(ast.parse(self.text)):
            if isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
        return frozenset(found)

    @cached_property
    def attributes(self) -> frozenset[str]:
        """Every name of an attribute that the file sets, and of its classes' members."""
        found: set[str] = set()
        for node in ast.walk(ast.parse(self.text)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        found.add(inner.name)
                    targets = inner.targets if isinstance(inner, ast.Assign) else []
                    targets = [inner.target] if isinstance(inner, ast.AnnAssign) else targets
                    found.update(each.id for each in targets if isinstance(each, ast.Name))
        return frozenset(found)


def read(path: Path) -> Source:
    """Read a file.

    Raises:
        RepoError: it cannot be read.
        InputError: it is not Python; file and line are named.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("the file is not text in UTF-8", where=path.name) from error
    except OSError as error:
        raise RepoError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    return parse(text, path)


def parse(text: str, path: Path) -> Source:
    """Read a file's text."""
    try:
        ast.parse(text)
        module = cst.parse_module(text)
    except SyntaxError as error:
        raise InputError(f"a syntax error: {error.msg}", where=f"{path.name}, line {error.lineno}") from error
    except ValueError as error:
        raise InputError(f"the file is not Python: {error}", where=path.name) from error
    except cst.ParserSyntaxError as error:
        raise InputError(f"a syntax error: {error.message}", where=f"{path.name}, line {error.raw_line}") from error
    except RecursionError as error:
        raise InputError("expressions are nested too deeply", where=path.name) from error
    source = Source(path, text, module)
    for statement in module.body:
        index = len(source.statements)
        source.statements.append(statement)
        _note(source, statement, index, guarded=False)
    return source


def _note(source: Source, statement: cst.BaseStatement, index: int, *, guarded: bool) -> None:
    if isinstance(statement, (cst.ClassDef, cst.FunctionDef)):
        source.defs.setdefault(statement.name.value, []).append(index)
    elif isinstance(statement, cst.SimpleStatementLine):
        for small in statement.body:
            _note_small(source, small, index, guarded=guarded)
    elif isinstance(statement, cst.If) and _is_type_checking(statement.test):
        for name, imported in _imported_below(statement):
            source.typing_only[name] = imported
        for inner in _blocks(statement):
            for each in inner:
                if isinstance(each, cst.SimpleStatementLine):
                    source.stars += [
                        Imported(len(small.relative), dotted(small.module), "*")
                        for small in each.body
                        if isinstance(small, cst.ImportFrom) and isinstance(small.names, cst.ImportStar)
                    ]
    else:
        for block in _blocks(statement):
            for each in block:
                _note(source, each, index, guarded=True)


def _note_small(source: Source, small: cst.BaseSmallStatement, index: int, *, guarded: bool) -> None:
    if isinstance(small, cst.ImportFrom) and isinstance(small.names, cst.ImportStar):
        source.stars.append(Imported(len(small.relative), dotted(small.module), "*"))
    if isinstance(small, (cst.Import, cst.ImportFrom)):
        for name, imported in bound_by(small):
            if imported.module == "__future__":
                source.future = source.future or imported.attr == "annotations"
            elif guarded:
                source.guarded.add(name)
                source.defs.setdefault(name, []).append(index)
            else:
                if source.imports.get(name, imported) != imported:
                    source.twice.append((name, source.imports[name], imported))
                source.imports[name] = imported
                if imported.attr is None and "." in imported.module and name == imported.module.split(".")[0]:
                    source.plain.setdefault(name, set()).add(imported.module)
                    source.imports[name] = Imported(0, name, None)
    for target in targets_of(small):
        for name in names_in(target):
            source.defs.setdefault(name, []).append(index)


def bound_by(small: cst.Import | cst.ImportFrom) -> Iterator[tuple[str, Imported]]:
    """The names that an import binds, and what each is; none for a star."""
    if isinstance(small.names, cst.ImportStar):
        return
    for alias in small.names:
        name = alias.evaluated_name
        given = alias.evaluated_alias
        if isinstance(small, cst.Import):
            yield (given or name.split(".")[0]), Imported(0, name, None)
        else:
            yield (given or name), Imported(len(small.relative), dotted(small.module), name)


def _imported_below(statement: cst.BaseStatement) -> Iterator[tuple[str, Imported]]:
    for block in _blocks(statement):
        for each in block:
            if isinstance(each, cst.SimpleStatementLine):
                for small in each.body:
                    if isinstance(small, (cst.Import, cst.ImportFrom)):
                        yield from bound_by(small)


def _blocks(statement: cst.CSTNode) -> Iterator[list[cst.BaseStatement]]:
    """The statements below ``if``, ``try``, ``with``, ``for`` and ``while``, one list a branch."""
    if not isinstance(statement, (cst.If, cst.Else, cst.Try, cst.With, cst.For, cst.While, cst.Finally)):
        return
    if isinstance(statement.body, cst.IndentedBlock):
        yield list(statement.body.body)
    else:
        smalls = [each for each in statement.body.body if isinstance(each, cst.BaseSmallStatement)]
        yield [cst.SimpleStatementLine(smalls)]
    if isinstance(statement, cst.Try):
        for handler in statement.handlers:
            if isinstance(handler.body, cst.IndentedBlock):
                yield list(handler.body.body)
        if statement.finalbody is not None:
            yield from _blocks(statement.finalbody)
    if isinstance(statement, (cst.If, cst.Try, cst.For, cst.While)) and statement.orelse is not None:
        yield from _blocks(statement.orelse)


def _is_type_checking(test: cst.BaseExpression) -> bool:
    return dotted(test).split(".")[-1] == "TYPE_CHECKING"


def dotted(node: cst.CSTNode | None) -> str:
    """``a.b.c`` of a chain of names; empty for anything else."""
    if isinstance(node, cst.Name):
        return node.value
    if isinstance(node, cst.Attribute):
        root = dotted(node.value)
        return f"{root}.{node.attr.value}" if root else ""
    return ""


def base_name(base: cst.Arg) -> str:
    """``a.b.C`` of a base class, ``C`` or ``C[T]``; empty of a keyword and of what is computed."""
    value = base.value.value if isinstance(base.value, cst.Subscript) else base.value
    return dotted(value) if base.keyword is None else ""


def targets_of(small: cst.CSTNode) -> list[cst.BaseExpression]:
    """What an assignment assigns to."""
    if isinstance(small, cst.Assign):
        return [target.target for target in small.targets]
    if isinstance(small, (cst.AnnAssign, cst.AugAssign)):
        return [small.target]
    return []


def names_in(target: cst.BaseExpression) -> Iterator[str]:
    """The names that an assignment to this target binds."""
    if isinstance(target, cst.Name):
        yield target.value
    elif isinstance(target, (cst.Tuple, cst.List)):
        for element in target.elements:
            yield from names_in(element.value)
