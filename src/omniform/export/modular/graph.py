"""Which statements the result needs, under which names, and in which order."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import libcst as cst

from omniform.core.errors import InputError
from omniform.export.modular import looks
from omniform.export.modular.book import MARK, Book
from omniform.export.modular.library import Entity, Outside, Target
from omniform.export.modular.names import snake
from omniform.export.modular.sources import Source, base_name, dotted, targets_of
from omniform.export.modular.units import HARD, NOTE, SAID, SOFT, Unit, Units


class Graph:
    """The statements of the result, what each needs, and the names of all.

    Attributes:
        order: the statements, each below what it needs when it is imported.
        names: for each mark its name.
        outside: what is imported, by mark.
    """

    def __init__(self, book: Book, units: Units) -> None:
        self.book = book
        self.root = book.root
        self.units = units
        self.roots = [units.at(self.root, index) for index in self._of_root()]
        self._instead: dict[Target, Target] = {}
        self.wanted: dict[Unit, None] = {}
        self.outside: dict[int, Outside] = {}
        self._sides: dict[Unit, None] = {}
        while True:
            self._close()
            if not self._merge():
                break
        self.names = self._named()
        self.order = self._ordered()

    def _of_root(self) -> Iterator[int]:
        for index, statement in enumerate(self.root.statements):
            if index == 0 and looks.docstring([statement]) is not None:
                continue
            if isinstance(statement, cst.SimpleStatementLine) and any(
                isinstance(small, (cst.Import, cst.ImportFrom)) for small in statement.body
            ):
                continue
            if isinstance(statement, cst.If) and dotted(statement.test).split(".")[-1] == "TYPE_CHECKING":
                continue
            yield index

    def target(self, number: int) -> Target:
        """What a mark stands for, when all that means the same is one."""
        found = self.book.target(number)
        while found in self._instead:
            found = self._instead[found]
        return found

    def _is_own(self, target: Target) -> bool:
        return isinstance(target, Entity) and target.source is self.root and not target.kept

    # What is needed

    def _close(self) -> None:
        self.wanted, self.outside, self._sides = {}, {}, {}
        notes: dict[int, None] = {}
        for unit in self.roots:
            if not unit.is_import:
                self._want(unit, notes)
        while True:
            self._note(notes)
            if not self._add_sides(notes):
                break

    def _want(self, unit: Unit, notes: dict[int, None]) -> None:
        stack = [unit]
        while stack:
            each = stack.pop()
            if each in self.wanted:
                continue
            self.wanted[each] = None
            for number, kind in each.needs.items():
                target = self.target(number)
                if isinstance(target, Outside):
                    self.outside[self._number(target)] = target
                elif kind == SAID:
                    if isinstance(target, Entity) and self._guards(target):
                        stack += self.units.of(target)
                elif kind == NOTE:
                    notes[number] = None
                elif isinstance(target, Entity):
                    stack += self.units.of(target)

    def _number(self, target: Target) -> int:
        found = MARK.match(self.book.mark(target))
        assert found is not None
        return int(found[1])

    def _note(self, notes: dict[int, None]) -> None:
        """What only annotations name: the class that has the name already, if there is one."""
        owners = {self.book.wishes[target]: target for target in self._defined()}
        for number in list(notes):
            target = self.target(number)
            assert isinstance(target, Entity)
            wish = self.book.wishes[target]
            if wish not in owners:
                for unit in self.units.of(target):
                    self._want(unit, notes)
                owners |= {self.book.wishes[each]: each for each in self._defined()}
            elif owners[wish] != target:
                self._instead[target] = owners[wish]

    def _defined(self) -> list[Target]:
        return [self.target(number) for unit in self.wanted for number in unit.defines]

    def _add_sides(self, notes: dict[int, None]) -> bool:
        """Statements of other files that act on what was taken from there: ``TABLE["x"] = f``, ``X.append(y)``."""
        defined = set(self._defined())
        added = False
        for source in {unit.source: None for unit in self.wanted if unit.source is not self.root}:
            for index, statement in enumerate(source.statements):
                if not _is_side(statement):
                    continue
                unit = self.units.at(source, index)
                if unit in self.wanted or not self._concerns(unit, defined):
                    continue
                self._want(unit, notes)
                added = True
        return added

    def _concerns(self, unit: Unit, defined: set[Target]) -> bool:
        small = looks.only(unit.node)
        targets = targets_of(small) if small is not None else []
        if targets:
            root = MARK.match(looks.code(targets[0]))
            return root is not None and self.target(int(root[1])) in defined
        local = [target for number in unit.needs if isinstance(target := self.target(number), Entity)]
        return any(each in defined and each.name in each.source.classes() for each in local) and all(
            each in defined for each in local
        )

    # Names

    def _used(self) -> list[Target]:
        """What has a name in the result, those first whose names are sure."""
        found: dict[Target, None] = {}
        for unit in self.wanted:
            if unit.source is self.root and not unit.kept:
                found.update(dict.fromkeys(self.target(number) for number in unit.defines))
        sure = [each for each in self.outside.values() if each in self.book.spelled]
        found.update(dict.fromkeys(sure))
        named = {self.book.library.target(self.root, name) for name in self.root.imports}
        rest = sorted(
            (unit for unit in self.wanted if unit.source is not self.root or unit.kept),
            key=lambda unit: (self.book.library.number(unit.source), unit.index),
        )
        theirs = [self.target(number) for unit in rest for number in unit.defines]
        found.update(dict.fromkeys(each for each in theirs if each in named))
        found.update(dict.fromkeys(each for each in theirs if not (isinstance(each, Entity) and self._guards(each))))
        found.update(dict.fromkeys(self.outside.values()))
        found.update(dict.fromkeys(theirs))
        return list(found)

    def _guards(self, entity: Entity) -> bool:
        return entity.name in entity.source.guarded

    def _merge(self) -> bool:
        """Make one of what is the same under one name; whether there was any."""
        owners: dict[str, Target] = {}
        pairs: dict[Target, Target] = {}
        for target in self._used():
            owner = owners.setdefault(self.book.wishes[target], target)
            if owner == target or self._is_own(target):
                continue
            if isinstance(target, Entity) and self._guards(target):
                self._instead[target] = owner
                return True
            if isinstance(target, Entity) and isinstance(owner, Entity) and self._alike(target, owner):
                pairs[target] = owner
            if isinstance(target, Outside) and isinstance(owner, Outside):
                origin = self.book.library.origin
                if origin(target) == origin(owner):
                    pairs[target] = owner
        while True:
            wrong = [one for one, other in pairs.items() if not self._agree(one, other, pairs)]
            for each in wrong:
                del pairs[each]
            if not wrong:
                break
        self._instead |= pairs
        return bool(pairs)

    def _alike(self, one: Entity, other: Entity) -> bool:
        return self._plain(one) == self._plain(other) if not self._is_own(other) else False

    def _plain(self, entity: Entity) -> list[str]:
        """An entity's code with every name as wished, comments and docstrings aside."""
        found = []
        for unit in self.units.of(entity):
            text = MARK.sub(
                lambda mark: self.book.wishes[self.target(int(mark[1]))], cst.Module([looks.bare(unit.node)]).code
            )
            tree = ast.parse(text)
            for node in ast.walk(tree):
                if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
                    node.body = node.body[1:]
            found.append(ast.dump(tree))
        return found

    def _agree(self, one: Target, other: Target, pairs: dict[Target, Target]) -> bool:
        """Whether what the two need is the same too."""
        if isinstance(one, Outside):
            return True
        mine, theirs = self._needs(one), self._needs(other)
        for wish, target in mine.items():
            match = theirs.get(wish)
            if match is not None and match != target and pairs.get(target) != match and pairs.get(match) != target:
                if pairs.get(target) is not None and pairs.get(target) == pairs.get(match):
                    continue
                return False
        return True

    def _needs(self, target: Target) -> dict[str, Target]:
        assert isinstance(target, Entity)
        found = {}
        for unit in self.units.of(target):
            for number, kind in unit.needs.items():
                needed = self.target(number)
                if kind not in (NOTE, SAID):
                    found[self.book.wishes[needed]] = needed
        return found

    def _named(self) -> dict[int, str]:
        """A name for every mark: what is wished, or where two wish for the same, one with its family's name in it."""
        given: dict[Target, str] = {}
        taken: set[str] = set()
        for target in self._used():
            name = self.book.wishes[target]
            if name in taken and not self._is_own(target):
                name = self._other_name(target, name, taken)
            taken.add(name)
            given[target] = name
        numbers = range(self.book.count())
        return {
            number: given.get(self.target(number)) or self.book.wishes.get(self.target(number), "")
            for number in numbers
        }

    def _other_name(self, target: Target, wish: str, taken: set[str]) -> str:
        if isinstance(target, Outside):
            name = f"{target.module.split('.')[-1]}_{wish}"
        else:
            assert isinstance(target, Entity)
            renamer = self.book.renamer(target.source)
            old, cased = renamer.old or snake(target.source.path.stem), renamer.old_cased
            cased = cased or "".join(part.title() for part in target.source.path.stem.split("_"))
            if wish.isupper():
                name = f"{old.upper()}_{wish}"
            elif not wish[:1].isupper():
                name = f"{old}_{wish}" if not wish.startswith("_") else f"_{old}{wish}"
            elif wish.startswith(renamer.new_cased) and renamer.new_cased:
                name = f"{renamer.new_cased}{cased}{wish[len(renamer.new_cased) :]}"
            else:
                name = f"{cased}{wish}"
        while name in taken:
            name += "_"
        return name

    # Order

    def _ordered(self) -> list[Unit]:
        order: dict[Unit, None] = {}
        last = [unit for unit in self.roots if self._is_all(unit)]
        for unit in self.roots:
            if unit in last or unit not in self.wanted:
                continue
            for each in self._before(unit, order):
                self._put(each, order, ())
            self._put(unit, order, ())
        for unit in self._sorted([unit for unit in self.wanted if unit not in order and unit not in last]):
            self._put(unit, order, ())
        return [*order, *last]

    def _is_all(self, unit: Unit) -> bool:
        """Whether a statement makes or changes ``__all__``: such stand last, in their order."""
        if isinstance(unit.node, (cst.ClassDef, cst.FunctionDef)):
            return False
        number = self._number(Entity(self.root, "__all__"))
        return number in unit.defines or unit.needs.get(number) == HARD

    def _sorted(self, units: list[Unit]) -> list[Unit]:
        return sorted(units, key=lambda unit: (self.book.library.number(unit.source), unit.index))

    def _before(self, unit: Unit, order: dict[Unit, None]) -> list[Unit]:
        """What other files give that this statement needs, in their order."""
        found: dict[Unit, None] = {}
        stack = [unit]
        while stack:
            for number in stack.pop().needs:
                target = self.target(number)
                if not isinstance(target, Entity) or self._is_own(target):
                    continue
                for each in self.units.of(target):
                    if each not in found and each not in order and each in self.wanted:
                        found[each] = None
                        stack.append(each)
        return self._sorted(list(found))

    def _put(self, unit: Unit, order: dict[Unit, None], above: tuple[Unit, ...]) -> None:
        if unit in order or unit in above or unit not in self.wanted:
            return
        for number, kind in unit.needs.items():
            target = self.target(number)
            if kind in (SOFT, SAID) or not isinstance(target, Entity):
                continue
            for each in self.units.of(target):
                if each is not unit and (self._is_own(target) is False or each.index <= self._last(target)):
                    if kind == HARD and isinstance(each.node, cst.FunctionDef):
                        self._put_called(each, order, (*above, unit))
                    self._put(each, order, (*above, unit))
        order[unit] = None

    def _last(self, target: Target) -> int:
        assert isinstance(target, Entity)
        return target.source.defs[target.name][0]

    def _put_called(self, unit: Unit, order: dict[Unit, None], above: tuple[Unit, ...]) -> None:
        """What a function needs that runs while the module is imported."""
        for number, kind in unit.needs.items():
            target = self.target(number)
            if kind == SOFT and isinstance(target, Entity):
                for each in self.units.of(target):
                    if each not in above and each is not unit:
                        self._put(each, order, (*above, unit))


def check_circles(book: Book) -> None:
    """Raise :class:`InputError` where classes of the modular file inherit from each other in a circle."""
    classes = book.root.classes()
    for name in classes:
        seen = [name]
        current = [name]
        while current:
            bases = [
                base_name(base)
                for each in current
                for base in classes[each].bases
                if not (base_name(base) == each and each in book.root.imports)
            ]
            current = [base for base in bases if base in classes and base not in seen[1:]]
            if name in current:
                raise InputError(
                    "classes inherit from each other in a circle",
                    where=book.root.where(name),
                    found=" -> ".join([*seen, name] if len(seen) > 1 else [name, name]),
                )
            seen += current


def _is_side(statement: cst.CSTNode) -> bool:
    small = looks.only(statement) if isinstance(statement, cst.BaseStatement) else None
    if isinstance(small, cst.Expr):
        return isinstance(small.value, cst.Call)
    if isinstance(small, cst.AugAssign):
        return True
    if isinstance(small, (cst.Assign, cst.AnnAssign)):
        return any(isinstance(each, (cst.Subscript, cst.Attribute)) for each in targets_of(small))
    return False


def sources_of(graph: Graph) -> list[Source]:
    """The files that the result's statements are from."""
    return list({unit.source: None for unit in graph.order})
