"""The files that a modular file draws from, and what a name in one of them is."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import libcst as cst

from omniform.core.errors import DependencyError, InputError, UnknownNameError, nearest
from omniform.export.modular import places
from omniform.export.modular.places import Place
from omniform.export.modular.sources import Imported, Source, read


@dataclass(frozen=True)
class Entity:
    """A definition in a file.

    Attributes:
        kept: it is meant itself, and not what the modular file has in its place.
    """

    source: Source
    name: str
    kept: bool = False


@dataclass(frozen=True)
class Outside:
    """What the result imports: a module, or a name in one."""

    module: str
    attr: str | None


@dataclass(frozen=True)
class ModuleOf:
    """A module that is written out, by its own name."""

    source: Source


Target = Entity | Outside | ModuleOf


class Library:
    """Finds and reads files, each once.

    Args:
        root: the modular file.
        also: modules whose classes are to be written out besides those of families.
        convert: makes the text of the file that another modular file stands for.
    """

    def __init__(self, root: Source, also: Sequence[str], convert: Callable[[Path], Source]) -> None:
        self.root = root
        self.sources: list[Source] = [root]
        self._also = also
        self._convert = convert
        self._read: dict[Path, Source] = {root.path.resolve(): root}
        self._targets: dict[tuple[Source, str], Target | None] = {}

    def number(self, source: Source) -> int:
        """The place of a file in the order in which they were first needed."""
        return self.sources.index(source)

    def load(self, place: Place) -> Source:
        """A module's file, read."""
        assert place.path is not None
        key = place.path.resolve()
        if key == self.root.path.resolve():
            raise InputError("a file that this one draws from draws from it in turn", where=self.root.path.name)
        if key not in self._read:
            modular = place.path.stem.startswith("modular_")
            self._read[key] = self._convert(place.path) if modular else read(place.path)
            self.sources.append(self._read[key])
        return self._read[key]

    def place(self, source: Source, level: int, module: str) -> Place:
        """Where the module lies that an import in a file names."""
        if level:
            return places.relative(source.path, level, module)
        folder = self.root.path.parent if source is self.root else source.path.parent
        return places.absolute(folder, module)

    def opens(self, source: Source, place: Place) -> bool:
        """Whether what a file imports from there is written out: the modular file's families, and others' own files."""
        if not places.is_family(place, self._also) or place.path is None:
            return False
        if source is self.root:
            return True
        near = place.path.parent == source.path.parent
        top = (place.dotted or "").split(".")[0]
        return near or top not in ("transformers", "omniform")

    def absolute(self, source: Source, level: int, module: str) -> str | None:
        """The absolute name of a module that a file names by dots; None where it has none."""
        return self.place(source, level, module).dotted if level else None

    def target(self, source: Source, name: str, seen: tuple[tuple[Source, str], ...] = ()) -> Target | None:
        """What a module's name is; None for a builtin, and for one that only a star import can bind."""
        key = (source, name)
        if key not in self._targets:
            self._targets[key] = self._target(source, name, seen)
        return self._targets[key]

    def _target(self, source: Source, name: str, seen: tuple[tuple[Source, str], ...]) -> Target | None:
        if (source, name) in seen:
            raise InputError(f"{name} is imported in a circle", where=source.where())
        if name in source.defs:
            return Entity(source, name)
        imported = source.imports.get(name) or source.typing_only.get(name)
        if imported is not None:
            return self.imported(source, imported, (*seen, (source, name)))
        for star in source.stars:
            place = self.place(source, star.level, star.module)
            if self.opens(source, place) and place.path is not None and place.path.resolve() not in self._key(source):
                found = self.target(self.load(place), name, (*seen, (source, name)))
                if found is not None:
                    return found
        return None

    def _key(self, source: Source) -> set[Path]:
        return {source.path.resolve()}

    def imported(self, source: Source, imported: Imported, seen: tuple[tuple[Source, str], ...] = ()) -> Target:
        """What an import binds.

        Raises:
            InputError: the module is not there, or it is a file beside the modular one that is not.
            UnknownNameError: the module does not define the name.
        """
        place = self.place(source, imported.level, imported.module)
        if imported.attr is None:
            if self.opens(source, place):
                return ModuleOf(self.load(place))
            # ``import torch.nn as nn`` is ``from torch import nn``.
            package, _, last = imported.module.rpartition(".")
            return Outside(package, last) if package else Outside(imported.module, None)
        inner = self._submodule(source, imported)
        if inner is not None and self.opens(source, inner):
            return ModuleOf(self.load(inner))
        if not self.opens(source, place):
            if not place.there and (imported.level or source is self.root):
                self._missing(source, imported, place)
            return Outside(place.dotted or imported.module, imported.attr)
        opened = self.load(place)
        found = self.target(opened, imported.attr, seen)
        if found is None:
            raise UnknownNameError(
                f"{opened.path.name} has no {imported.attr!r}",
                where=source.where_imported(imported),
                remedy=nearest(imported.attr, opened.defs),
            )
        return found

    def _submodule(self, source: Source, imported: Imported) -> Place | None:
        if imported.attr is None or not imported.attr.islower():
            return None
        name = f"{imported.module}.{imported.attr}" if imported.module else imported.attr
        place = self.place(source, imported.level, name)
        return place if place.there and place.path is not None else None

    def _missing(self, source: Source, imported: Imported, place: Place) -> None:
        dots = "." * imported.level
        name = f"{dots}{imported.module}"
        if (place.dotted or "").split(".")[0] == "transformers":
            if not places.installed("transformers").there:
                raise DependencyError(
                    f"{source.path.name} draws from {name}, and transformers is not installed",
                    remedy="pip install transformers",
                )
            raise InputError(
                f"there is no module {place.dotted}",
                where=source.where_imported(imported),
                found=None if name == place.dotted else name,
                remedy=places.like(place),
            )
        if imported.level or imported.module.split(".")[-1].startswith(tuple(f"{kind}_" for kind in places.KINDS)):
            raise InputError(
                f"there is no module {name}",
                where=source.where_imported(imported),
                expected="a file, or an installed module",
            )

    def origin(self, target: Outside) -> Outside:
        """Where a name is from that a library's module only hands on, as far as its files say so."""
        seen = {target}
        while target.attr is not None:
            place = places.installed(target.module)
            if place.path is None:
                break
            found = handed_on(place.path, target.attr)
            if found is None:
                break
            level, module = found
            near = places.relative(place.path, level, module) if level else places.installed(module)
            target = Outside(near.dotted or module, target.attr)
            if target in seen:
                break
            seen.add(target)
        return target

    def base_of_transformers(self, source: Source, imported: Imported) -> Target | None:
        """The class of a family that is imported from ``transformers`` itself; None if no family's file has it."""
        if imported.level or imported.module != "transformers" or imported.attr is None:
            return None
        models = places.installed("transformers.models").path
        if models is None:
            return None
        flat = imported.attr.lower()
        folders = [
            each for each in models.parent.iterdir() if each.is_dir() and flat.startswith(each.name.replace("_", ""))
        ]
        for folder in sorted(folders, key=lambda each: (-len(each.name), each.name)):
            for path in sorted(folder.glob("*_*.py")):
                if path.stem.startswith("modular_") or f"class {imported.attr}(" not in path.read_text("utf-8"):
                    continue
                return Entity(self.load(Place(places.module_of(path), path)), imported.attr)
        return None

    def of_class(self, source: Source, chain: str) -> Target | None:
        """What a chain of names is that stands for a class: ``nn.Module``, ``modeling_llama.LlamaMLP``."""
        found, taken = self._module(source, chain)
        rest = chain.split(".")[taken:]
        imported = source.imports.get(chain)
        if source is self.root and imported is not None and isinstance(found, Outside) and not rest:
            return self.base_of_transformers(source, imported) or found
        for part in rest:
            if not isinstance(found, ModuleOf):
                return None
            found = self.target(found.source, part) or self._inner(found.source, part)
        return found

    def module_of(self, source: Source, chain: str) -> Source:
        """The module that a chain of names begins with, and that is written out."""
        found = self._module(source, chain)[0]
        assert isinstance(found, ModuleOf)
        return found.source

    def opens_module(self, source: Source, chain: str) -> bool:
        """Whether a chain of names begins with a module that is written out."""
        return isinstance(self._module(source, chain)[0], ModuleOf)

    def _module(self, source: Source, chain: str) -> tuple[Target | None, int]:
        """What a chain begins with, and how many names that takes: one, or all of ``a.b.c`` after ``import a.b.c``."""
        first = chain.split(".")[0]
        for dotted in sorted(source.plain.get(first, ()), key=len, reverse=True):
            if chain.startswith(f"{dotted}."):
                place = self.place(source, 0, dotted)
                if self.opens(source, place):
                    return ModuleOf(self.load(place)), len(dotted.split("."))
        return self.target(source, first), 1

    def _inner(self, source: Source, part: str) -> Target | None:
        if source.path.name != "__init__.py":
            return None
        path = places.beside(source.path.parent, [part])
        return None if path is None else ModuleOf(self.load(Place(places.module_of(path), path)))


@functools.lru_cache(maxsize=256)
def handed_on(path: Path, name: str) -> tuple[int, str] | None:
    """The module that a file imports a name from, and its dots; None if the file has it itself."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any(
            name == (each.asname or each.name) == each.name for each in node.names
        ):
            return node.level, node.module or ""
    return None


def class_in(entity: Entity) -> cst.ClassDef | None:
    """The class that an entity is; None of a function or a constant."""
    return entity.source.classes().get(entity.name)
