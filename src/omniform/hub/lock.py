"""Lockfiles: which commit, and which bytes of every file, a script or a model has used; and runs that use nothing else.

``omniform lock`` writes one, ``OMNIFORM_FROZEN=1`` (or ``--frozen``) holds a run to it: repositories are read at the
commit that was locked, without asking where their branches are now, and every file is hashed before it is handed out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from omniform.core.errors import ConfigError, InputError, RepoError, listed, nearest
from omniform.hub.used import watch

if TYPE_CHECKING:
    from omniform.hub.files import Source

FILE: Final = "omniform.lock"
VERSION: Final = 1
FROZEN: Final = "OMNIFORM_FROZEN"
LOCKFILE: Final = "OMNIFORM_LOCKFILE"
RECORD: Final = "OMNIFORM_RECORD"
"""Names of environment variables: whether a run is frozen, by which lockfile, and where it is to say what it uses."""

BUNDLED: Final = "(bundled with omniform)"
_REPOSITORY: Final = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_PACKAGE: Final = Path(__file__).resolve().parents[1]


class FrozenError(RepoError):
    """A frozen run asks for what its lockfile does not hold, or finds other bytes there."""


@dataclass(frozen=True, slots=True)
class LockedFile:
    """One file.

    Attributes:
        sha256: of its bytes, in hexadecimal.
        size: how many they are.
    """

    sha256: str
    size: int


@dataclass(slots=True)
class LockedSource:
    """A repository at one commit, or a folder.

    Attributes:
        name: Hub id, or the folder's path as seen from the lockfile.
        revision: what was asked for; None for the main branch, and for folders.
        commit: what that was; None for folders.
        files: every file that was used, by its path in there.
    """

    name: str
    revision: str | None
    commit: str | None
    files: dict[str, LockedFile] = field(default_factory=dict)


@dataclass(slots=True)
class Lock:
    """What a lockfile says.

    Attributes:
        sources: repositories and folders.
        path: where the file is; folders are named as seen from there.
        made_by: the command that wrote it.
    """

    sources: list[LockedSource]
    path: Path
    made_by: str = ""

    def repository(self, name: str, revision: str | None) -> LockedSource:
        """What is locked of a repository at a revision, or at the commit that it was.

        Raises:
            FrozenError: nothing, or not at this revision.
        """
        named = [one for one in self.sources if one.name == name and one.commit is not None]
        for one in named:
            if revision == one.commit or (revision or "main") == (one.revision or "main"):
                return one
        if named:
            raise FrozenError(
                "this revision is not locked",
                where=f"{name}, {self.path}",
                expected=listed([one.revision or "main" for one in named]),
                found=revision or "main",
                remedy=UPDATE,
            )
        raise self._stranger("repository", name)

    def folder(self, folder: Path) -> LockedSource:
        """What is locked of a folder.

        Raises:
            FrozenError: nothing.
        """
        name = folder_name(folder, self.path)
        for one in self.sources:
            if one.name == name and one.commit is None:
                return one
        raise self._stranger("folder", name)

    def _stranger(self, what: str, name: str) -> FrozenError:
        close = nearest(name, [one.name for one in self.sources])
        return FrozenError(f"this {what} is not locked", where=str(self.path), found=name, remedy=f"{close} {UPDATE}")

    def check(self, source: Source, filename: str, path: Path | None) -> None:
        """Raise :class:`FrozenError` if a file is not what was locked; of a peek, the commit tells."""
        locked = self.repository(source.name, source.revision) if source.folder is None else self.folder(source.folder)
        if locked.commit is not None and source.commit != locked.commit:
            raise FrozenError(
                "another commit than the one that is locked",
                where=f"{locked.name}, {self.path}",
                expected=locked.commit,
                found=source.commit,
                remedy=UPDATE,
            )
        if path is None:
            return
        name = f"{source.subfolder}/{filename}" if source.subfolder else filename
        expected = locked.files.get(name)
        if expected is None:
            raise FrozenError(
                f"{name} is not locked",
                where=f"{locked.name}, {self.path}",
                expected=listed(locked.files),
                remedy=UPDATE,
            )
        found = digest(path)
        if found != expected:
            raise FrozenError(
                f"{name} is not the file that was locked",
                where=f"{locked.name}, {self.path}",
                expected=_spoken(expected),
                found=_spoken(found),
                remedy=f"Bring the locked file back. {UPDATE}",
            )

    def differences(self) -> list[str]:
        """What has changed on this machine since the lock was made, a line each; what is not here is named."""
        return [line for source in self.sources for line in _differences(source, self.path)]

    def write(self) -> None:
        """Write the file, at once or not at all.

        Raises:
            RepoError: it cannot be written.
        """
        body = {
            "version": VERSION,
            "made_by": self.made_by,
            "sources": [_written(source) for source in sorted(self.sources, key=lambda s: (s.name, s.revision or ""))],
        }
        text = json.dumps(body, indent=2, ensure_ascii=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, staging = tempfile.mkstemp(prefix=f".{self.path.name}-", dir=self.path.parent)
            try:
                with open(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                os.chmod(staging, 0o644)
                os.replace(staging, self.path)
            finally:
                Path(staging).unlink(missing_ok=True)
        except OSError as error:
            raise RepoError("the lockfile cannot be written", where=str(self.path), found=error.strerror) from error


UPDATE: Final = "Run `omniform lock` again if this is meant."


def _spoken(file: LockedFile) -> str:
    return f"sha256 {file.sha256[:16]}..., {file.size} bytes"


def _written(source: LockedSource) -> dict[str, object]:
    files = {name: {"sha256": f.sha256, "size": f.size} for name, f in sorted(source.files.items())}
    place: dict[str, object] = {"folder": source.name}
    if source.commit is not None:
        place = {"repo": source.name, "revision": source.revision or "main", "commit": source.commit}
    return {**place, "files": files}


def read_lock(path: Path) -> Lock:
    """Read a lockfile.

    Raises:
        RepoError: it cannot be read.
        ConfigError: it is no lockfile, or one of a later version.
    """
    from omniform.hub.files import read_json

    raw, where = read_json(path), str(path)
    if raw.get("version") != VERSION:
        raise ConfigError("not a lockfile of this version", where=where, expected=VERSION, found=raw.get("version"))
    sources = raw.get("sources")
    if not isinstance(sources, list):
        raise ConfigError("the lockfile names no sources", where=where)
    return Lock([_read_source(one, f"{where}: sources[{n}]") for n, one in enumerate(sources)], path)


def _read_source(raw: object, where: str) -> LockedSource:
    if not isinstance(raw, Mapping) or not isinstance(raw.get("files"), Mapping):
        raise ConfigError("this is no source", where=where)
    name, commit = raw.get("repo", raw.get("folder")), raw.get("commit")
    revision = raw.get("revision")
    if not isinstance(name, str) or ("repo" in raw) != isinstance(commit, str):
        raise ConfigError("neither a repository with its commit nor a folder", where=where)
    if isinstance(commit, str) and not (_REPOSITORY.fullmatch(name) and _COMMIT.fullmatch(commit)):
        raise ConfigError("no repository at a commit", where=where, found=f"{name!r} at {commit!r}")
    if ".." in Path(name).parts:
        raise ConfigError("a folder that leads upwards", where=where, found=repr(name))
    files = {}
    for file, said in raw["files"].items():
        sha256, size = (said.get("sha256"), said.get("size")) if isinstance(said, Mapping) else (None, None)
        if not isinstance(sha256, str) or len(sha256) != 64 or type(size) is not int:
            raise ConfigError("a file without its digest", where=f"{where}: {file}")
        if not file or os.path.isabs(file) or ".." in Path(file).parts:
            raise ConfigError("a file that lies outside its source", where=where, found=repr(file))
        files[str(file)] = LockedFile(sha256.lower(), size)
    commit_said = commit if isinstance(commit, str) else None
    return LockedSource(name, revision if isinstance(revision, str) else None, commit_said, files)


def folder_name(folder: Path, lockfile: Path) -> str:
    """A folder as a lockfile names it: from its own folder if it lies below, else in full."""
    real = Path(os.path.realpath(folder))
    if real.is_relative_to(_PACKAGE):
        return f"{BUNDLED} {real.relative_to(_PACKAGE)}"
    base = Path(os.path.realpath(lockfile.parent))
    return f"./{real.relative_to(base).as_posix()}" if real.is_relative_to(base) else str(real)


def folder_of(name: str, lockfile: Path) -> Path:
    """The other way about."""
    if name.startswith(BUNDLED):
        return _PACKAGE / name.removeprefix(BUNDLED).strip()
    return lockfile.parent / name


def _differences(source: LockedSource, lockfile: Path) -> Iterator[str]:
    for name, expected in sorted(source.files.items()):
        path = _local(source, name, lockfile)
        where = f"{source.name}: {name}"
        if path is None:
            yield f"{where} is not on this machine"
        elif (found := digest(path)) != expected:
            yield f"{where} has changed: locked {_spoken(expected)}, found {_spoken(found)}"


def _local(source: LockedSource, name: str, lockfile: Path) -> Path | None:
    if source.commit is None:
        path = folder_of(source.name, lockfile) / name
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(source.name, name, revision=source.commit)
    return Path(cached) if isinstance(cached, str) else None


# ---- digests

_DIGESTS: dict[tuple[int, int, int, int, int], LockedFile] = {}
_HASHING = threading.Lock()


def digest(path: Path) -> LockedFile:
    """A file's digest; hashed once per process while the file system says that it is the same.

    Raises:
        RepoError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
            with _HASHING:
                known = _DIGESTS.get(key)
            if known is None:
                known = LockedFile(hashlib.file_digest(file, "sha256").hexdigest(), stat.st_size)
                with _HASHING:
                    _DIGESTS[key] = known
            return known
    except OSError as error:
        raise RepoError("the file cannot be read", where=str(path), found=error.strerror) from error


# ---- recording


@dataclass(slots=True)
class Recorder:
    """Notes what is used; a watcher for :func:`omniform.hub.used.watched`."""

    sources: dict[tuple[str, str | None, str | None], dict[str, Path]] = field(default_factory=dict)

    def __call__(self, source: Source, filename: str, path: Path | None) -> None:
        """One file is handed out; ``path`` is None where it was only peeked into."""
        name = source.name if source.folder is None else os.path.realpath(source.folder)
        self.note(
            name,
            None if source.folder else source.revision,
            None if source.folder else source.commit,
            f"{source.subfolder}/{filename}" if source.subfolder else filename,
            path,
        )

    def note(self, name: str, revision: str | None, commit: str | None, file: str, path: Path | None) -> None:
        """The same in plain values."""
        files = self.sources.setdefault((name, revision, commit), {})
        if path is not None:
            files[file] = path

    def lock(self, path: Path, made_by: str) -> Lock:
        """What was used, as a lock that is to lie at ``path``.

        Raises:
            RepoError: a file is gone; a branch moved while it was read.
        """
        found: list[LockedSource] = []
        for (name, revision, commit), files in self.sources.items():
            said = name if commit is not None else folder_name(Path(name), path)
            if any(one.name == said and one.revision == revision and one.commit != commit for one in found):
                raise RepoError("a branch moved while it was recorded", where=name, remedy="Lock once more.")
            locked = {file: digest(where) for file, where in files.items()}
            found.append(LockedSource(said, revision, commit, locked))
        return Lock(found, path, made_by)


def record_to(file: Path) -> None:
    """Write every file that this process uses from here on to a file, a line of JSON each; other processes may too."""

    def watcher(source: Source, filename: str, path: Path | None) -> None:
        folder = None if source.folder is None else os.path.realpath(source.folder)
        name = f"{source.subfolder}/{filename}" if source.subfolder else filename
        line = [folder or source.name, None if folder else source.revision, None if folder else source.commit, name,
                None if path is None else os.path.abspath(path)]  # fmt: skip
        with file.open("ab", buffering=0) as log:  # one write that appends is whole, whoever else writes
            log.write(json.dumps(line).encode() + b"\n")

    watch(watcher)


def recorded(file: Path) -> Recorder:
    """What :func:`record_to` wrote."""
    recorder = Recorder()
    for line in file.read_text(encoding="utf-8").splitlines():
        name, revision, commit, filename, path = json.loads(line)
        recorder.note(name, revision, commit, filename, None if path is None else Path(path))
    return recorder


# ---- frozen runs

_HELD: ContextVar[Lock | None] = ContextVar("omniform_frozen", default=None)
_OPEN: list[Lock] = []
"""The locks of all that is inside :func:`frozen`: threads begun there are held too, and know nothing of the context."""
_READ: dict[tuple[Path, int], Lock] = {}


@contextlib.contextmanager
def frozen(lockfile: str | os.PathLike[str] | None = None) -> Iterator[Lock]:
    """Use nothing but what a lockfile holds, for as long as this lasts, in this thread and those without a lock.

    Args:
        lockfile: which; by default the one that :func:`find_lockfile` finds.

    Raises:
        FrozenError: there is none.
        RepoError, ConfigError: it cannot be read.
    """
    lock = read_lock(_needed() if lockfile is None else Path(os.path.abspath(lockfile)))
    token = _HELD.set(lock)
    _OPEN.append(lock)
    try:
        yield lock
    finally:
        _OPEN.remove(lock)
        _HELD.reset(token)


def lock_in_force() -> Lock | None:
    """The lock that this run is held to, if there is one.

    Raises:
        FrozenError: the environment says that it is, and there is no lockfile.
        InputError: the environment says neither yes nor no.
    """
    held = _HELD.get() or (_OPEN[-1] if _OPEN else None)
    if held is not None or not is_frozen():
        return held
    path = _needed()
    key = (path, path.stat().st_mtime_ns if path.exists() else 0)
    if key not in _READ:
        _READ[key] = read_lock(path)
    return _READ[key]


def _needed() -> Path:
    path = find_lockfile()
    if path is None:
        raise FrozenError(
            "the run is frozen and there is no lockfile",
            where=str(Path.cwd()),
            expected=FILE,
            remedy=f"Make one with `omniform lock SCRIPT-OR-MODEL`, or name it in {LOCKFILE}.",
        )
    return path


def is_frozen() -> bool:
    """Whether the environment holds the run to a lockfile.

    Raises:
        InputError: it says neither yes nor no.
    """
    said = os.environ.get(FROZEN, "").strip().lower()
    if said in ("", "0", "false", "no", "off"):
        return False
    if said in ("1", "true", "yes", "on"):
        return True
    raise InputError("neither yes nor no", where=f"the environment's {FROZEN}", expected="1 or 0", found=repr(said))


def find_lockfile() -> Path | None:
    """The lockfile that the environment names, else the nearest in this folder and those above."""
    named = os.environ.get(LOCKFILE)
    if named:
        return Path(os.path.abspath(os.path.expanduser(named)))
    here = Path.cwd()
    return next((folder / FILE for folder in (here, *here.parents) if (folder / FILE).is_file()), None)


def pinned(name: str, revision: str | None) -> str | None:
    """The revision to read a repository at: in a frozen run the commit that is locked.

    Raises:
        FrozenError: the repository is not locked, or not at this revision.
    """
    lock = lock_in_force()
    return revision if lock is None else lock.repository(name, revision).commit


def check_in_force(source: Source, filename: str, path: Path | None) -> None:
    """Raise :class:`FrozenError` if a lock is in force and holds another file, or none."""
    lock = lock_in_force()
    if lock is not None:
        lock.check(source, filename, path)


def merged(recorders: Iterable[Recorder]) -> Recorder:
    """What several runs used."""
    whole = Recorder()
    for recorder in recorders:
        for key, files in recorder.sources.items():
            whole.sources.setdefault(key, {}).update(files)
    return whole


def _note_use(source: Source, filename: str, path: Path | None) -> None:
    from omniform.hub.cache import touch

    if path is not None and source.folder is None:
        touch(path)


watch(check_in_force)
watch(_note_use)
if os.environ.get(RECORD):
    record_to(Path(os.environ[RECORD]))
