"""Statements of all files in one set of names, and what each needs."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import libcst as cst

from omniform.core.errors import InputError
from omniform.export.modular import looks
from omniform.export.modular.book import MARK, Book
from omniform.export.modular.flatten import NO_INHERIT, decorators, flat, is_removed, members
from omniform.export.modular.library import Entity, ModuleOf, Outside, Target, class_in
from omniform.export.modular.scopes import Walk
from omniform.export.modular.sources import Source, Statement, base_name
from omniform.export.modular.supers import NeedsParentError

_SUPER = re.compile(r"\bsuper\([^()]*\)\.(\w+)")

HARD, SOFT, NOTE, SAID = "hard", "soft", "note", "said"
"""How a name is needed: when the module is imported, when something runs, by an annotation, by one that is a string."""


@dataclass(eq=False)
class Unit:
    """One statement of the result.

    Attributes:
        source, index: the file that it is from and its number there.
        node: the statement, with marks for the module's names.
        needs: how it needs what each mark stands for.
        defines: the marks of what it defines.
    """

    source: Source
    index: int
    node: Statement
    needs: dict[int, str]
    defines: list[int]
    is_import: bool = False
    kept: bool = False


class _FileNames:
    """A file's names as marks, its family's as the new model's.

    Args:
        own: what is called otherwise here: marks for names.
        said: what strings and comments say otherwise here: names for names.
    """

    def __init__(self, book: Book, source: Source, own: Mapping[str, str], said: Mapping[str, str]) -> None:
        self._book = book
        self._source = source
        self._own = own
        self._said = [(re.compile(rf"(?<!\w){re.escape(old)}(?!\w)"), new) for old, new in said.items()]
        self._renamer = book.renamer(source)

    def used(self, name: str) -> str:
        if name in self._own:
            return self._own[name]
        if name == "no_inherit_decorator":
            return NO_INHERIT
        target = self._book.meant(self._source, name)
        if target is None:
            return name
        if isinstance(target, ModuleOf):
            if target.source.dotted is None:
                raise InputError(f"the module {name} is used as a whole", where=self._source.where(),
                                 remedy=f"Import the names that are meant: from {name} import ...")  # fmt: skip
            target = Outside(target.source.dotted, None)
        mark = self._book.mark(target)
        self._book.wishes.setdefault(target, self._book.wanted(target, name))
        return mark

    def chained(self, chain: str) -> str | None:
        if chain in self._own:
            return self._own[chain]
        if not self._book.library.opens_module(self._source, chain):
            return None
        name = chain.split(".")[-1]
        found = self._book.settled(self._source, self._book.library.of_class(self._source, chain), name)
        if found is None or isinstance(found, ModuleOf):
            return None
        self._book.wishes.setdefault(found, self._book.wanted(found, chain.split(".")[-1]))
        return self._book.mark(found)

    def own(self, name: str) -> str:
        return self._renamer.name(name)

    def attribute(self, name: str, root: str | None) -> str:
        foreign = root is not None and isinstance(self._book.library.target(self._source, root), Outside)
        return name if foreign else self._renamer.attribute(name)

    def text(self, text: str) -> str:
        for old, new in self._said:
            text = old.sub(new, text)
        return self._renamer.text(text)

    def said(self, text: str) -> str:
        def name(found: re.Match[str]) -> str:
            target = self._book.meant(self._source, found[0])
            return self.used(found[0]) if target is not None and not isinstance(target, ModuleOf) else found[0]

        # Renamed word by word: a name that is known by what it is, the rest as text.
        return self.text(re.sub(r"(?<![\w.])[A-Za-z_]\w*", name, text))

    def imported(self, level: int, module: str) -> str | None:
        return self._book.library.absolute(self._source, level, module) if level else None


class Units:
    """Makes the statements of the result, each once."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.notes: list[str] = []
        self._made: dict[tuple[Source, int, bool], Unit] = {}

    def of(self, entity: Entity) -> list[Unit]:
        """The statements that define something."""
        return [self.at(entity.source, index, kept=entity.kept) for index in entity.source.defs.get(entity.name, [])]

    def at(self, source: Source, index: int, *, kept: bool = False) -> Unit:
        """A file's statement."""
        key = (source, index, kept)
        if key not in self._made:
            self._made[key] = self._make(source, index, kept)
        return self._made[key]

    def _make(self, source: Source, index: int, kept: bool) -> Unit:
        statement = source.statements[index]
        names = [name for name, places in source.defs.items() if index in places]
        if source is self.book.root and isinstance(statement, cst.ClassDef):
            statement = self._of_root(statement)
        else:
            own = {name: self.book.mark(Entity(source, name, kept=True)) for name in names} if kept else {}
            if kept:
                for name in names:
                    entity = Entity(source, name, kept=True)
                    self.book.wishes.setdefault(entity, self.book.wanted(entity, name))
            statement = self._walked(source, statement, own)
        if isinstance(statement, cst.ClassDef):
            statement = self._undocumented(statement)
        defines = []
        for name in names:
            entity = Entity(source, name, kept=kept)
            self.book.wishes.setdefault(entity, self.book.wanted(entity, name))
            self.book.mark(entity)
            defines.append(int(MARK.match(self.book.mark(entity))[1]))  # type: ignore[index]
        return Unit(source, index, statement, needs_of(statement), defines, _imports(statement), kept)

    def _walked(
        self, source: Source, node: Statement, own: Mapping[str, str], said: Mapping[str, str] | None = None
    ) -> Statement:
        found = node.visit(Walk(_FileNames(self.book, source, own, said or {})))
        assert isinstance(found, (cst.SimpleStatementLine, cst.BaseCompoundStatement))
        return found

    def _undocumented(self, node: cst.ClassDef) -> cst.ClassDef:
        """A processor without the decorator that writes its calls' docstrings.

        ``auto_docstring`` tells by a file's name whether a method is a processor's, and fails in a file that holds a
        model too; it changes documentation only.
        """
        body = [
            each.with_changes(decorators=[one for one in each.decorators if not self._documents(one)])
            if isinstance(each, cst.FunctionDef) and each.name.value in ("__call__", "preprocess")
            else each
            for each in looks.statements(node.body)
        ]
        named = MARK.fullmatch(node.name.value)
        entity = self.book.target(int(named[1])) if named is not None else None
        is_processor = isinstance(entity, Entity) and "Processor" in entity.name
        return node.with_changes(body=looks.block(body, node.body)) if is_processor else node

    def _documents(self, node: cst.Decorator) -> bool:
        inner = node.decorator.func if isinstance(node.decorator, cst.Call) else node.decorator
        found = MARK.fullmatch(looks.code(inner))
        target = self.book.target(int(found[1])) if found is not None else None
        return isinstance(target, Outside) and target.attr == "auto_docstring"

    # Classes of the modular file

    def _of_root(self, node: cst.ClassDef) -> cst.ClassDef:
        book, name = self.book, node.name.value
        parent = book.parents.get(name)
        if parent is None:
            found = self._walked(book.root, node, {})
            assert isinstance(found, cst.ClassDef)
            return found.with_changes(decorators=decorators(found.decorators, []))
        this = book.mark(Entity(book.root, name))
        theirs = class_in(parent)
        assert theirs is not None
        chain = next(each for each in map(base_name, node.bases) if each and book.base(each, name) == parent)
        node = _without_its_variables(node, chain, theirs)
        if chain not in map(_spelled, node.bases) or not self._can_flatten(node, chain, parent):
            return self._derived(node, chain, parent)
        grand = self._walked(parent.source, theirs, {parent.name: this}, {parent.name: name})
        child = self._walked(book.root, node, {chain: f"{this}__parent"})
        assert isinstance(grand, cst.ClassDef) and isinstance(child, cst.ClassDef)
        bases = self._bases(child, grand, f"{this}__parent")
        try:
            result = flat(child, grand, bases, book.root.where(name), parent.name, book.called)
        except NeedsParentError as reason:
            known = {each.name for each in members(theirs)}
            if any(is_removed(each) and each.name in known for each in members(node)):
                raise
            self.notes.append(f"{name} stays a child of {parent.name}: {reason.message}")
            return self._derived(node, chain, parent)
        self.notes += [f"{name}.{note}" for note in result.notes]
        return result.node

    def _derived(self, node: cst.ClassDef, chain: str, parent: Entity) -> cst.ClassDef:
        """The class as it is, with its parent, written out beside it, among its bases."""
        kept = Entity(parent.source, parent.name, kept=True)
        self.book.wishes.setdefault(kept, self.book.wanted(kept, parent.name))
        found = self._walked(self.book.root, node, {chain: self.book.mark(kept)})
        assert isinstance(found, cst.ClassDef)
        return found

    def _can_flatten(self, node: cst.ClassDef, chain: str, parent: Entity) -> bool:
        """Whether nothing stands between the class and its parent: a mixin before it may take its methods' place."""
        theirs = class_in(parent)
        assert theirs is not None
        names = {each.name for each in members(theirs)}
        roots = {self.book.library.of_class(parent.source, base_name(base)) for base in theirs.bases}
        for base in node.bases:
            if base_name(base) == chain:
                return True
            found = self.book.base(base_name(base), node.name.value)
            if found in roots or self._stands_for(found) & roots or self._is_spelled(found, roots):
                continue
            if not isinstance(found, Entity) or self._touches(found, names):
                return False
        return True

    def _is_spelled(self, found: Target | None, roots: set[Target | None]) -> bool:
        """Whether a class of the modular file is one of these under the new model's name: ``MyPreTrainedModel``."""
        if not isinstance(found, Entity) or found.source is not self.book.root:
            return False
        rests = [
            self.book.wanted(each, each.name).removeprefix(self.book.renamer(each.source).new_cased)
            for each in roots
            if isinstance(each, Entity)
        ]
        return any(found.name != rest and found.name.endswith(rest) for rest in rests if rest)

    def _stands_for(self, target: Target | None) -> set[Target | None]:
        """The classes of other files that a class of the modular file was made of."""
        found: set[Target | None] = set()
        while isinstance(target, Entity) and target.source is self.book.root:
            target = self.book.parents.get(target.name)
            found.add(target)
        return found - {None}

    def _touches(self, entity: Entity, names: set[str | None]) -> bool:
        node = class_in(entity)
        if node is None:
            return True
        body = looks.code(node.body)
        if len(re.findall(r"\bsuper\b", body)) > len(_SUPER.findall(body)) or set(_SUPER.findall(body)) & names:
            return True
        if {each.name for each in members(node)} & names:
            return True
        for base in node.bases:
            found = self.book.library.of_class(entity.source, base_name(base))
            if isinstance(found, Entity) and self._touches(found, names):
                return True
        return False

    def _bases(self, child: cst.ClassDef, parent: cst.ClassDef, marked: str) -> list[cst.Arg]:
        """The bases of the new class: the parent's in the parent's place, each once, or the child's own."""
        theirs = [base for base in parent.bases if base.keyword is None]
        mine = [base for base in child.bases if looks.code(base.value) != marked]
        for index, base in enumerate(theirs):
            better = next((each for each in mine if self._replaces(each, base)), None)
            if better is not None:
                theirs[index] = better
        groups = [theirs if looks.code(base.value) == marked else [base] for base in child.bases]
        result = [base for group in groups for base in group]
        ordered = _in_order([*groups, mine]) or list({looks.code(base.value): base for base in result}.values())
        return [base for index, base in enumerate(ordered) if not self._above(base, ordered[index + 1 :])]

    def _entity(self, base: cst.Arg) -> Target | None:
        found = MARK.fullmatch(looks.code(base.value))
        return self.book.target(int(found[1])) if found is not None else None

    def _replaces(self, mine: cst.Arg, theirs: cst.Arg) -> bool:
        """Whether one of the child's bases was made of one of the parent's: it is the new spelling of that."""
        new, old = self._entity(mine), self._entity(theirs)
        if not isinstance(old, Entity) or not isinstance(new, Entity) or new == old:
            return False
        if old in self._stands_for(new):
            return True
        renamer = self.book.renamer(old.source)
        rest = self.book.wanted(old, old.name).removeprefix(renamer.new_cased)
        return (
            old.source is not self.book.root
            and rest != old.name
            and new.name.endswith(rest)
            and new.source is self.book.root
        )

    def _above(self, base: cst.Arg, later: list[cst.Arg]) -> bool:
        """Whether a base is a parent of a later one: Python wants it behind that, where it is already."""
        text = looks.code(base.value)
        return any(text in self._ancestors(each, ()) for each in later)

    def _ancestors(self, base: cst.Arg, seen: tuple[Target, ...]) -> set[str]:
        entity = self._entity(base)
        if not isinstance(entity, Entity) or entity in seen or (node := class_in(entity)) is None:
            return set()
        unit = self.of(entity)[-1].node
        found: set[str] = set()
        for each in unit.bases if isinstance(unit, cst.ClassDef) else node.bases:
            found |= {looks.code(each.value)} | self._ancestors(each, (*seen, entity))
        return found


def _spelled(base: cst.Arg) -> str:
    return looks.code(base.value)


def _variables(node: cst.Subscript) -> str:
    return ", ".join(looks.code(each.slice) for each in node.slice)


def _without_its_variables(node: cst.ClassDef, chain: str, parent: cst.ClassDef) -> cst.ClassDef:
    """``class B(A[T])`` as ``class B(A)``, where ``A`` is ``Generic[T]`` itself: that comes with its bases."""
    theirs = {_variables(base.value) for base in parent.bases if isinstance(base.value, cst.Subscript)}
    bases = [
        base.with_changes(value=base.value.value)
        if isinstance(base.value, cst.Subscript) and base_name(base) == chain and _variables(base.value) in theirs
        else base
        for base in node.bases
    ]
    return node.with_changes(bases=bases)


def _in_order(groups: list[list[cst.Arg]]) -> list[cst.Arg]:
    """Bases of all groups, each once, with no group's order changed, as Python merges them; empty if there is none."""
    left = [list(group) for group in groups]
    found: list[cst.Arg] = []
    while any(left):
        heads = [group[0] for group in left if group]
        behind = {_spelled(base) for group in left for base in group[1:]}
        first = next((base for base in heads if _spelled(base) not in behind), None)
        if first is None:
            return []
        found.append(first)
        left = [[base for base in group if _spelled(base) != _spelled(first)] for group in left]
    return found


def needs_of(node: Statement) -> dict[int, str]:
    """How a statement needs what each of its marks stands for."""
    finder = _Needs()
    finder.visit(ast.parse(cst.Module([looks.bare(node)]).code))
    return finder.found


@dataclass
class _Needs(ast.NodeVisitor):
    found: dict[int, str] = field(default_factory=dict)
    depth: int = 0
    note: bool = False

    def visit_Name(self, node: ast.Name) -> None:
        mark = MARK.fullmatch(node.id)
        if mark is not None and isinstance(node.ctx, ast.Load):
            kind = NOTE if self.note else SOFT if self.depth else HARD
            self._need(int(mark[1]), kind)

    def visit_Constant(self, node: ast.Constant) -> None:
        if self.note and isinstance(node.value, str):
            for mark in MARK.finditer(node.value):
                self._need(int(mark[1]), SAID)

    def _need(self, number: int, kind: str) -> None:
        order = (HARD, SOFT, NOTE, SAID)
        before = self.found.get(number, SAID)
        self.found[number] = order[min(order.index(before), order.index(kind))]

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for each in [*node.decorator_list, *node.args.defaults, *[one for one in node.args.kw_defaults if one]]:
            self.visit(each)
        args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        args += [each for each in (node.args.vararg, node.args.kwarg) if each is not None]
        for note in [each.annotation for each in args] + [node.returns]:
            self._annotation(note)
        self.depth += 1
        for statement in node.body:
            self.visit(statement)
        self.depth -= 1

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for each in [*node.args.defaults, *[one for one in node.args.kw_defaults if one]]:
            self.visit(each)
        self.depth += 1
        self.visit(node.body)
        self.depth -= 1

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._annotation(node.annotation)
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def _annotation(self, node: ast.expr | None) -> None:
        if node is not None:
            before, self.note = self.note, True
            self.visit(node)
            self.note = before


def _imports(node: Statement) -> bool:
    """Whether a compound statement only guards imports."""
    if not isinstance(node, (cst.If, cst.Try)):
        return False
    return any(isinstance(each, (ast.Import, ast.ImportFrom)) for each in ast.walk(ast.parse(cst.Module([node]).code)))
