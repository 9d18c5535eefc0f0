"""Modules made of bytes in memory, under names that tell the bytes: ``omniform.modules.REPO._DIGEST.modeling``.

A module is called by the digest of all files that it is made of (its closure). Two revisions of a repository, or two
repositories with files of the same names, can therefore not be mistaken for one another, and a config's class is the
same object whether the config's file or the model's led to it. No other finder is asked: the packages have no path, so
neither a changed copy on disk nor a stale ``__pycache__`` can take the place of what was digested.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType

from omniform.core.errors import CodeError, OmniformError
from omniform.hub.code import copies
from omniform.hub.code.closure import File, Files, digest_of, digests

ROOT = "omniform.modules"
"""Where the modules are; :class:`omniform.names.Paths` asks :func:`find` for what lies below."""


@dataclass(frozen=True, slots=True)
class Package:
    """The files of one closure.

    Attributes:
        name: the package's name (``omniform.modules.REPO._DIGEST``).
        files: its files by path.
        homes: the name of the package that each file belongs to: its own closure's.
        where: the repository, for messages.
    """

    name: str
    files: Mapping[str, File]
    homes: Mapping[str, str]
    where: str


_PACKAGES: dict[str, Package] = {}


def homes_of(files: Files, entry: str) -> dict[str, str]:
    """The name of the package that each file of an entry belongs to."""
    label = label_of(files.repository.key)
    return {file.path: name_of(label, files.closure(file.path)) for file in files.closure(entry)}


def package_of(files: Files, entry: str) -> Package:
    """The package of an entry that may run, ready to be imported; so are those of all files in it."""
    homes = homes_of(files, entry)
    for file in files.closure(entry):
        name = homes[file.path]
        if name not in _PACKAGES:
            inner = {one.path: one for one in files.closure(file.path)}
            _PACKAGES[name] = Package(name, inner, {path: homes[path] for path in inner}, files.where)
        copies.write(name, {path: one.text for path, one in _PACKAGES[name].files.items()})
    return _PACKAGES[homes[entry]]


def name_of(label: str, files: Sequence[File]) -> str:
    """The name of the package of some files."""
    return f"{ROOT}.{label}._{digest_of(digests(files))[:40]}"


def label_of(name: str) -> str:
    """A repository's id or a folder's own name as a part of a module's name."""
    own = name if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) else Path(name).name
    text = own.replace("/", "__").replace(".", "_dot_").replace("-", "_hyphen_")
    text = re.sub(r"\W", "_", text)[:100] or "_"
    return f"_{text}" if text[0].isdigit() else text


def load(files: Files, entry: str, name: str) -> object:
    """What a file that was read calls ``name``; the file runs now, if it has not yet.

    Raises:
        CodeError: it cannot be imported, or has no such name.
        DependencyError: a package is missing.
    """
    files.check(entry)
    where = f"{files.where}: {entry}"
    package = package_of(files, entry)
    return taken(f"{package.name}.{module_of(entry)}", name, where)


def taken(module: str, name: str, where: str) -> object:
    """What a module below :data:`ROOT` calls ``name``. Raises as :func:`load`."""
    names = vars(_import(module, where))
    if name not in names:
        raise CodeError("there is no such name in this file", where=where, expected=name)
    return names[name]


def brought(module: str) -> tuple[str, dict[str, bytes]] | None:
    """The file of a module below :data:`ROOT` and all files that it needs, by their paths; None for other modules."""
    if not module.startswith(f"{ROOT}."):
        return None
    label, digest, inner = module.removeprefix(f"{ROOT}.").split(".", 2)
    files = _PACKAGES[f"{ROOT}.{label}.{digest}"].files
    path = inner.replace(".", "/")
    entry = next(file for file in (f"{path}.py", f"{path}/__init__.py") if file in files)
    return entry, {file: one.text for file, one in files.items()}


class _First(MetaPathFinder):
    """Stands before Python's own finders, which would look where code says that its package lies."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module below :data:`ROOT`; None for any other."""
        return find(fullname) if fullname.startswith(f"{ROOT}.") else None


_FIRST = _First()


def _import(name: str, where: str) -> ModuleType:
    if _FIRST not in sys.meta_path:
        sys.meta_path.insert(0, _FIRST)
    try:
        return import_module(name)
    except OmniformError:
        raise
    except ImportError as error:
        circular = "partially initialized module" in str(error)
        raise CodeError(
            "the code imports itself in a circle" if circular else "the code cannot be imported",
            where=where,
            found=f"{type(error).__name__}: {error}",
        ) from error
    except (Exception, SystemExit) as error:
        words = f"{type(error).__name__}: {error}"
        raise CodeError("the code has failed while it was imported", where=where, found=words) from error


def find(fullname: str) -> ModuleSpec:
    """The spec of a module below :data:`ROOT`.

    Where there is none this raises, so that Python's own finders are not asked: code may have given its package a path.

    Raises:
        ModuleNotFoundError: there is none.
    """
    found = _found(fullname)
    if found is None:
        raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
    return found


def _found(fullname: str) -> ModuleSpec | None:
    """The same; None where there is none.

    A package that this process has not read (one that a pickle names) is looked for in the modules cache, and counts
    if the user has accepted its files.
    """
    if fullname == ROOT:
        return _empty(fullname)
    label, _, rest = fullname.removeprefix(f"{ROOT}.").partition(".")
    if not rest:
        return _empty(fullname)
    digest, _, inner = rest.partition(".")
    name = f"{ROOT}.{label}.{digest}"
    package = _PACKAGES.get(name) or _recalled(name)
    if package is None:
        return None
    path = inner.replace(".", "/")
    for file in (f"{path}.py", f"{path}/__init__.py" if path else "__init__.py"):
        if file in package.files:
            home = package.homes[file]
            loader = _Alias(f"{home}.{inner}" if inner else home) if home != name else _Loader(package, file)
            return ModuleSpec(fullname, loader, is_package=file.endswith("__init__.py"), origin=loader.origin)
    if not path or any(file.startswith(f"{path}/") for file in package.files):
        return _empty(fullname)
    return None


def _recalled(name: str) -> Package | None:
    from omniform.hub.code.recall import recalled

    files = recalled(name)
    if files is None:
        return None
    label = name.removeprefix(f"{ROOT}.").partition(".")[0]
    homes = {path: name_of(label, files.closure(path)) for path in files.found}
    return _PACKAGES.setdefault(name, Package(name, files.found, homes, name))


def module_of(path: str) -> str:
    """The name of a file's module below its package."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _empty(fullname: str) -> ModuleSpec:
    return ModuleSpec(fullname, None, is_package=True)


class _Loader(InspectLoader):
    """Runs one file of a package."""

    def __init__(self, package: Package, path: str) -> None:
        self.package = package
        self.file = package.files[path]
        kept = copies.path_of(package.name, path)
        self.origin = str(kept if kept.is_file() else self.file.origin)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """An ordinary module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Run the bytes that were digested."""
        module.__file__ = self.origin
        exec(self.get_code(module.__name__), vars(module))

    def get_code(self, fullname: str) -> CodeType:
        """The bytes, compiled; nothing of what is not Python as it is read."""
        if isinstance(self.file.fault, CodeError):  # of a file that another one tries to import
            raise self.file.fault
        return compile(self.file.text, self.origin, "exec", dont_inherit=True)

    def get_source(self, fullname: str) -> str:
        """The text, for tracebacks and ``inspect``."""
        from importlib.util import decode_source

        return decode_source(self.file.text)

    def is_package(self, fullname: str) -> bool:
        """Whether this is the file of a package."""
        return self.file.path.endswith("__init__.py")


def _is_inner(name: str) -> bool:
    return name.startswith("__") and name.endswith("__") and name not in ("__all__", "__doc__", "__version__")


class _Alias(InspectLoader):
    """Gives the module that the same bytes have been made into already."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.origin = target

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """An ordinary module, which is never seen."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Put the other module in this one's place, as Python allows a module to do.

        A package only gets the other's names: more of its modules may be found below this one than below the other.
        """
        found = import_module(self.target)
        if module.__spec__ is not None and module.__spec__.submodule_search_locations is not None:
            vars(module).update({name: value for name, value in vars(found).items() if not _is_inner(name)})
        else:
            sys.modules[module.__name__] = found

    def get_source(self, fullname: str) -> None:
        """The other module has it."""
        return
