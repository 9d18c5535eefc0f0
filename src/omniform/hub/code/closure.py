"""The files that would run: an entry, and what it imports from beside it, read once into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from omniform.core.errors import CodeError, OmniformError, OutsideError, RepoError, listed
from omniform.hub.code.imports import Imports, Relative, lies_in, need_packages, read_code, scan
from omniform.hub.files import Source
from omniform.hub.remote import Asked, remote

MOST_FILES = 500
"""So many files at most belong to one entry."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A folder or a repository on the Hub, as a place of code.

    Attributes:
        source: where its files are; paths of code begin at its root.
        beside: the folder in it where the checkpoint lies, which may have code of its own.
    """

    source: Source
    beside: str = ""

    @classmethod
    def of(cls, source: Source, revision: str | None = None) -> Repository:
        """The repository of a checkpoint; its code may be taken from another ``revision``."""
        root = replace(source, subfolder="")
        if revision is not None and source.remote is not None:
            asked = replace(source.remote.asked, revision=revision)
            root = replace(root, revision=revision, remote=remote(asked))
        return cls(root, Path(source.subfolder).as_posix() if source.subfolder else "")

    @classmethod
    def elsewhere(cls, name: str, source: Source, revision: str | None = None) -> Repository:
        """Another repository on the Hub, whose code a checkpoint names; asked as its own is."""
        asked = Asked(name) if source.remote is None else source.remote.asked
        asked = replace(asked, name=name, revision=revision)
        return cls(Source(name=name, revision=revision, remote=remote(asked)))

    @property
    def key(self) -> str:
        """What trust is remembered by: the id, or the folder's absolute path."""
        return self.source.name if self.source.folder is None else str(self.source.folder.resolve())

    def path(self, file: str) -> Path | None:
        """The local path of a file; None where there is none.

        Raises:
            CodeError: it is a link that leads out of the folder.
        """
        path = self.source.find(file)
        if path is not None and self.source.folder is not None and not _inside(path, self.source.folder):
            raise OutsideError(
                "this is a link that leads out of its folder", where=f"{self.source.name}: {file}", found=path.resolve()
            )
        return path

    def read(self, file: str) -> tuple[bytes, Path]:
        """A file's bytes and its local path.

        Raises:
            RepoError: it is not there.
            CodeError: it is too large, or lies elsewhere.
        """
        path = self.path(file)
        where = f"{self.source.name}: {file}"
        if path is None:
            raise RepoError("there is no such file of code", where=where)
        return read_code(path), path

    def entry(self, file: str) -> str:
        """Where a file that the checkpoint names lies: beside the checkpoint, else at the repository's root."""
        if self.beside and self.source.has(f"{self.beside}/{file}"):
            return f"{self.beside}/{file}"
        return file


def _inside(path: Path, folder: Path) -> bool:
    real, root = path.resolve(), folder.resolve()
    if real.is_relative_to(root):
        return True
    # The Hub's cache keeps contents apart and links to them: models--x/snapshots/COMMIT/file -> models--x/blobs/DIGEST.
    for home in (root, *root.parents):
        if home.parent.name == "snapshots":
            return real.is_relative_to(home.parent.parent / "blobs")
    return False


@dataclass(frozen=True, slots=True)
class File:
    """A file of code.

    Attributes:
        path: in its repository, with slashes.
        text: its bytes.
        origin: where it was read.
        needs: the files that it imports.
        optional: those of them without which it runs all the same.
        imports: what else it says it imports.
        fault: why it cannot run; it is raised when it is to.
    """

    path: str
    text: bytes
    origin: Path
    needs: tuple[str, ...]
    optional: frozenset[str]
    imports: Imports
    fault: OmniformError | None = None

    @property
    def sha256(self) -> str:
        """The digest of its bytes, in hexadecimal."""
        return hashlib.sha256(self.text).hexdigest()


@dataclass(slots=True)
class Files:
    """Files of one repository, each read once; what is digested, shown and run are the bytes in here."""

    repository: Repository
    found: dict[str, File] = field(default_factory=dict)
    _absent: set[str] = field(default_factory=set)

    @property
    def where(self) -> str:
        """The repository, for messages."""
        return self.repository.source.name

    def add(self, entry: str) -> tuple[File, ...]:
        """Read an entry and all that it needs; returns these files, sorted by path.

        Raises:
            RepoError: the entry is not there, or cannot be read.
            CodeError: there are absurdly many.
        """
        waiting, seen = [entry], {entry}
        while waiting:
            path = waiting.pop()
            file = self.found.get(path) or self._read(path)
            waiting += [need for need in file.needs if need not in seen]
            seen.update(file.needs)
            if len(self.found) > MOST_FILES:
                raise CodeError("absurdly many files belong to this code", where=self.where, found=len(self.found))
        return self.closure(entry)

    def closure(self, entry: str, *, least: bool = False) -> tuple[File, ...]:
        """An entry that was read and all that it imports, sorted by path.

        Args:
            least: leave out what it runs without.
        """
        seen: set[str] = set()
        waiting = [entry]
        while waiting:
            path = waiting.pop()
            if path not in seen:
                seen.add(path)
                file = self.found[path]
                waiting += [need for need in file.needs if not least or need not in file.optional]
        return tuple(self.found[path] for path in sorted(seen))

    def check(self, entry: str) -> None:
        """Raise what stands in the way of running an entry: the first fault, or all packages that are missing.

        Raises:
            CodeError: also for an import by which Python itself would run a file of the checkpoint that nobody saw.
        """
        least = self.closure(entry, least=True)
        for file in least:
            if file.fault is not None:
                raise file.fault
        where, folder = f"{self.where}: {entry}", self.repository.source.folder
        for file in self.closure(entry):
            shadow = next((name for name in file.imports.named if folder and lies_in(name, folder)), None)
            if shadow is not None:
                raise CodeError(
                    "Python would take this import from the checkpoint's folder, where nobody has been shown it",
                    where=f"{self.where}: {file.path}",
                    found=f"import {shadow}",
                    remedy=f"Run Python in another folder; code beside is imported as 'from .{shadow} import ...'.",
                )
        need_packages((name for file in least for name in file.imports.packages), where)

    def _read(self, path: str) -> File:
        text, origin = self.repository.read(path)
        where = f"{self.where}: {path}"
        needs, imports, fault = dict.fromkeys(self._packages_of(path), False), Imports((), ()), None
        try:
            imports = scan(text, where)
            for need, spare in self._needs(path, imports):
                needs[need] = spare and needs.get(need, True)
        except OmniformError as error:
            fault = error
        needs.pop(path, None)
        optional = frozenset(need for need, spare in needs.items() if spare)
        self.found[path] = File(path, text, origin, tuple(needs), optional, imports, fault)
        return self.found[path]

    def _needs(self, path: str, imports: Imports) -> Iterator[tuple[str, bool]]:
        """The files that a file imports, and whether it runs without."""
        for one in imports.relative:
            found = list(self._targets(path, one))
            if not found and not one.optional:
                dots = "." * one.level
                raise RepoError(
                    "a file that this code imports is not there",
                    where=f"{self.where}: {path}",
                    expected=f"{_path(_base(path, one.level), one.module) or listed(one.names)}.py",
                    found=f"from {dots}{one.module} import {listed(one.names)}",
                )
            for target in found:
                yield from ((file, one.optional) for file in (target, *self._packages_of(target)))

    def _targets(self, path: str, one: Relative) -> Iterator[str]:
        """The files that a relative import leads to."""
        base = _base(path, one.level)
        if base is None:
            if one.optional:
                return
            dots = "." * one.level
            raise OutsideError(
                "a relative import leads out of its folder",
                where=f"{self.where}: {path}",
                found=f"from {dots}{one.module} import {listed(one.names)}",
            )
        target = _path(base, one.module)
        if one.module and self._is(f"{target}.py"):
            yield f"{target}.py"
            return
        inits = False
        for name in one.names:
            inner = [f"{_path(target, name)}.py", f"{_path(target, name)}/__init__.py"]
            file = next((file for file in inner if name != "*" and self._is(file)), None)
            inits |= file is None
            if file is not None:
                yield file
        # What is no module is a name in the package's own file.
        if inits and self._is(_path(target, "__init__.py")):
            yield _path(target, "__init__.py")

    def _packages_of(self, path: str) -> list[str]:
        """Files of the packages that a file lies in, which run before it; the root's runs only where it is imported."""
        parts = path.split("/")[:-1]
        inits = ["/".join(parts[: i + 1]) + "/__init__.py" for i in range(len(parts))]
        return [init for init in inits if init != path and self._is(init)]

    def _is(self, file: str) -> bool:
        if file in self.found:
            return True
        if file not in self._absent and self.repository.source.has(file):
            return True
        self._absent.add(file)
        return False


def _base(path: str, level: int) -> str | None:
    """The folder that dots before a module mean; None beyond the root."""
    parts = path.split("/")
    return "/".join(parts[:-level]) if level <= len(parts) else None


def _path(folder: str | None, module: str) -> str:
    """A module below a folder, as a path."""
    inner = module if module.endswith(".py") else module.replace(".", "/")
    return f"{folder}/{inner}" if folder and inner else (folder or inner)


def digest_of(files: Mapping[str, str]) -> str:
    """One digest of files, given the digest of each by its path."""
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def digests(files: Iterable[File]) -> dict[str, str]:
    """The digest of each file by its path."""
    return {file.path: file.sha256 for file in files}
