"""Who is who: every name in the code that is drawn together, by what it is and not by how a file spells it."""

from __future__ import annotations

import builtins
import re
from collections import Counter, defaultdict
from typing import Final

import libcst as cst

from omniform.core.errors import InputError, UnknownNameError, nearest
from omniform.export.modular import places
from omniform.export.modular.library import Entity, Library, ModuleOf, Outside, Target, class_in
from omniform.export.modular.names import Renamer, camel, cased_as, family_of, prefix_for, snake
from omniform.export.modular.places import KINDS
from omniform.export.modular.sources import Source, base_name

MARK: Final = re.compile(r"__ref(\d+)__(?:__parent\b)?")
"""Stands in code for a name of the module's until it is known how that is spelled in the result."""


class Book:
    """Gives numbers to what names stand for, and says what the modular file puts in whose place.

    Attributes:
        parents: for each class of the modular file that changes another file's, that one.
        wishes: how each target would be spelled if nothing else had that name.
        spelled: what the modular file calls what it imports.
    """

    def __init__(self, library: Library, name: str) -> None:
        self.library = library
        self.root = library.root
        self.name = name
        self.cased = cased_as(name, list(self.root.classes())) or camel(name)
        self._targets: list[Target] = []
        self._numbers: dict[Target, int] = {}
        self._renamers: dict[Source, Renamer] = {}
        self.wishes: dict[Target, str] = {}
        self.parents: dict[str, Entity] = {}
        self._check_twice()
        for each in self.root.classes().values():
            self._find_parent(each)
        self._prefixes = self._infer()
        self._drawn: dict[Target, str] = {}
        self.spelled = self._spelled()

    def mark(self, target: Target) -> str:
        """The mark of a target."""
        if target not in self._numbers:
            self._numbers[target] = len(self._targets)
            self._targets.append(target)
        return f"__ref{self._numbers[target]}__"

    def target(self, number: int) -> Target:
        """What a mark stands for."""
        return self._targets[number]

    def called(self, text: str) -> str:
        """A chain of names with what its marks stand for in their place."""

        def name(found: re.Match[str]) -> str:
            target = self.target(int(found[1]))
            if isinstance(target, ModuleOf):
                return target.source.path.stem
            return target.name if isinstance(target, Entity) else target.attr or target.module

        return MARK.sub(name, text)

    def count(self) -> int:
        """How many marks there are."""
        return len(self._targets)

    # Parents and prefixes

    def _check_twice(self) -> None:
        for name, first, second in self.root.twice:
            if name not in self.root.imports or "" in (first.module, second.module):
                continue
            found = [self.library.imported(self.root, each) for each in (first, second)]
            if all(isinstance(each, Entity) for each in found) and found[0] != found[1]:
                raise InputError(
                    f"{name} is imported from two modules",
                    where=self.root.where(),
                    found=f"{first.module} and {second.module}",
                    remedy="Give one of them another name: import ... as ....",
                )

    def _check_base(self, child: str, name: str, found: Target | None) -> None:
        """Raise an error for a base class that is nowhere."""
        first = name.split(".")[0]
        imported = self.root.imports.get(first)
        if imported is None and found is None and first not in self.root.defs and not _is_builtin(first):
            raise UnknownNameError(
                f"{child} inherits from {name}, which is neither defined nor imported",
                where=self.root.where(child),
                remedy=nearest(first, {*self.root.defs, *self.root.imports}),
            )
        if imported is not None and found is None and "." in name and self.library.opens_module(self.root, name):
            module = self.library.module_of(self.root, name)
            raise UnknownNameError(
                f"{module.path.name} has no {name.split('.')[-1]!r}",
                where=self.root.where(child),
                remedy=nearest(name.split(".")[-1], module.defs),
            )
        if imported is not None and isinstance(found, Outside):
            place = self.library.place(self.root, imported.level, imported.module)
            if not place.there:
                raise InputError(
                    f"{child} inherits from {name}, and there is no module {place.dotted or imported.module}",
                    where=self.root.where(child),
                    remedy=places.like(place) or "Put the file beside this one, or install the package.",
                )

    def _find_parent(self, node: cst.ClassDef) -> None:
        names = list(filter(None, map(base_name, node.bases)))
        if len(set(names)) < len(names):
            raise InputError(
                "two parents have the same name", where=self.root.where(node.name.value), found=", ".join(names)
            )
        found = [(name, self.base(name, node.name.value)) for name in names if name]
        for name, each in found:
            self._check_base(node.name.value, name, each)
        theirs = [(name, each) for name, each in found if isinstance(each, Entity) and each.source is not self.root]
        for index, (name, each) in enumerate(theirs):
            below = [other for other, later in theirs[index + 1 :] if each in self._ancestors(later)]
            if below:
                raise InputError(
                    f"{node.name.value} inherits from {name} before {below[0]}, which inherits from {name} too",
                    where=self.root.where(node.name.value),
                    remedy=f"Write {below[0]} first: Python cannot order them so.",
                )
        last = [name.split(".")[-1] for name, _ in theirs]
        if len(set(last)) < len(last):
            raise InputError(
                "two parents have the same name", where=self.root.where(node.name.value), found=", ".join(names)
            )
        if theirs and isinstance(theirs[0][1], Entity) and theirs[0][1].name in theirs[0][1].source.classes():
            self.parents[node.name.value] = theirs[0][1]

    def _ancestors(self, target: Target | None, seen: tuple[Target, ...] = ()) -> set[Target]:
        """The classes of files that a class inherits from, near and far."""
        node = class_in(target) if isinstance(target, Entity) and target not in seen else None
        if not isinstance(target, Entity) or node is None:
            return set()
        found = {self.library.of_class(target.source, base_name(base)) for base in node.bases if base_name(base)}
        above = {each for each in found if isinstance(each, Entity)}
        return above.union(*(self._ancestors(each, (*seen, target)) for each in above))

    def base(self, name: str, child: str) -> Target | None:
        """What a base class of a class of the modular file is; ``class X(X)`` means the one that is imported."""
        if not name:
            return None
        imported = self.root.imports.get(name)
        if name == child and imported is not None:
            return self.library.imported(self.root, imported)
        return self.library.of_class(self.root, name)

    def _infer(self) -> dict[Source, str]:
        """For each file what stands in its family's place in names: that which most classes say, or the model's own."""
        said: dict[Source, list[str]] = defaultdict(list)
        for child, parent in self.parents.items():
            old = self._old(parent.source)[1]
            said[parent.source].append(prefix_for(child, parent.name, old) or self.cased)
        found = {}
        for source, prefixes in said.items():
            most = max(Counter(prefixes).values())
            often = [prefix for prefix, count in Counter(prefixes).items() if count == most]
            prefix = self.cased if self.cased in often else often[-1]
            found[source] = self.cased if self._collides(source, prefix) else prefix
        return found

    def _collides(self, source: Source, prefix: str) -> bool:
        """Whether a longer prefix (``MyVision``) makes two of a file's classes one: ``CLIPMLP``, ``CLIPVisionMLP``."""
        if prefix == self.cased or not prefix.startswith(self.cased):
            return False
        old = self._old(source)[1] + prefix[len(self.cased) :]
        return any(each.startswith(old) for each in source.classes())

    def _old(self, source: Source) -> tuple[str, str]:
        """The name of a file's family, and as its classes spell it; empty where it has none."""
        classes = list(source.classes())
        in_package = (source.dotted or "").split(".")
        if in_package[:2] == ["transformers", "models"] and len(in_package) > 2:
            name = in_package[2]
        elif in_package[:2] == ["omniform", "models"]:
            name = in_package[-1]
        else:
            stem = source.path.stem
            kind = next((each for each in KINDS if stem.startswith(f"{each}_")), None)
            name = family_of(stem[len(kind) + 1 :] if kind else stem, classes) or ""
            # attention.py with an Attention is no family's file; nor is a library's that --flatten names.
            whole = cased_as(name, classes) if name else None
            if kind is None and (whole in classes or in_package[0] == "omniform"):
                name = ""
        return name, (cased_as(name, classes) or camel(name)) if name else ""

    def renamer(self, source: Source) -> Renamer:
        """How a file's names become the new model's."""
        if source not in self._renamers:
            if source is self.root or self._is_own(source):
                self._renamers[source] = Renamer("", "", "", "")
            else:
                self._renamers[source] = self._renamer(source)
        return self._renamers[source]

    def _is_own(self, source: Source) -> bool:
        """Whether a file beside the modular one is the same model's: ``configuration_<name>.py``."""
        kinds = [kind for kind in KINDS if source.path.stem == f"{kind}_{self.name}"]
        return bool(kinds) and source.path.parent == self.root.path.parent

    def _renamer(self, source: Source) -> Renamer:
        old, old_cased = self._old(source)
        cased = self._prefixes.get(source)
        if cased is None:
            near = [prefix for each, prefix in self._prefixes.items() if each.path.parent == source.path.parent]
            same = [prefix for each, prefix in self._prefixes.items() if self._old(each)[0] == old]
            cased = Counter([*near, *same]).most_common(1)[0][0] if near or same else self.cased
        if cased == self.cased:
            new = self.name
        elif cased.startswith(self.cased):
            new = f"{self.name}_{snake(cased[len(self.cased) :])}"
        else:
            new = snake(cased)
        owned, attributes = set(source.owned), set(source.attributes)
        for imported in source.imports.values():
            place = self.library.place(source, imported.level, imported.module)
            if imported.level == 1 and self.library.opens(source, place):
                owned |= self.library.load(place).owned
                attributes |= self.library.load(place).attributes
                if imported.attr is not None:
                    owned.add(imported.attr)
        return Renamer(old, old_cased, new, cased, frozenset(owned), frozenset(attributes))

    # What stands for what

    def _spelled(self) -> dict[Target, str]:
        found: dict[Target, str] = {}
        for name, imported in self.root.imports.items():
            if name in self.root.defs:
                continue
            target = self.library.imported(self.root, imported)
            if isinstance(target, Outside):
                found.setdefault(target, name)
            elif isinstance(target, Entity):
                self._drawn.setdefault(target, name)
        return found

    def wanted(self, target: Target, name: str) -> str:
        """How a target is spelled where nothing else has that name; ``name`` is what its user calls it."""
        if isinstance(target, Entity):
            if target.source is self.root or target.name in target.source.guarded:
                return target.name
            if target in self._drawn and target.name not in target.source.classes():
                return self._drawn[target]  # a function that the modular file names itself
            return self.renamer(target.source).text(target.name)
        return self.spelled.get(target, name)

    def meant(self, source: Source, name: str) -> Target | None:
        """What a name of a file's stands for in the result.

        What the modular file defines stands in the place of what other files call so; so does a function that it
        imports from elsewhere.
        """
        return self.settled(source, self.library.target(source, name), name)

    def settled(self, source: Source, target: Target | None, name: str) -> Target | None:
        """The same for a target that a file calls ``name``."""
        if source is self.root:
            return self._of_root(target)
        renamed = self.renamer(source).text(name)
        if isinstance(target, Entity):
            renamed = self.wanted(target, name)
        if target is not None and renamed in self.root.defs:
            parent = self.parents.get(renamed)
            if parent is not None and parent != target and target in self._ancestors(parent):
                # MyBase(LlamaModel) is no LlamaBase of the new model's: LlamaModel is one itself.
                assert isinstance(target, Entity)
                return Entity(target.source, target.name, kept=True)
            return Entity(self.root, renamed)
        if target is None and not (name in self.root.defs and not _is_builtin(name)):
            return None
        for each in (name, renamed):
            if each in self.root.imports and isinstance(target, Entity):
                switched = self.library.target(self.root, each)
                if isinstance(switched, Entity) and switched.source is not source:
                    return switched
                if isinstance(switched, Outside) and (_is_function(target) or each in target.source.guarded):
                    return switched
        return target if target is not None else Entity(self.root, name)

    def _of_root(self, target: Target | None) -> Target | None:
        if not isinstance(target, Entity) or target.source is self.root:
            return target
        renamed = self.wanted(target, target.name)
        if renamed not in self.root.defs:
            return target
        # The modular file has another class of that name: if it is no new version of this one, both are there.
        # A function of another file is named by its module or another name where both are there: it is meant itself.
        if target.name in target.source.classes() and self.parents.get(renamed, target) == target:
            return Entity(self.root, renamed)
        return Entity(target.source, target.name, kept=True)


def _is_builtin(name: str) -> bool:
    return name in vars(builtins)


def _is_function(entity: Entity) -> bool:
    return all(
        isinstance(entity.source.statements[index], cst.FunctionDef)
        for index in entity.source.defs.get(entity.name, [])
    )
