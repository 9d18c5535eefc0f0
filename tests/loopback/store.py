"""Repositories on disk: what they hold at a commit, and how a commit is made.

The folder ``models/owner--name/`` holds ``repo.git`` (a bare git repository), ``lfs`` and ``settings.json``.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal

from loopback.git import Commit, Entry, Git, write_whole
from loopback.lfs import LargeFiles, Pointer

Kind = Literal["model", "dataset", "space"]
Gate = Literal["auto", "manual", False]
KINDS: Final[tuple[Kind, ...]] = ("model", "dataset", "space")

_LARGE: Final = """
7z arrow avro bin bz2 ckpt ftz gguf gz h5 joblib jpg jpeg model msgpack npy npz onnx ot parquet pb pickle pkl
png pt pth rar safetensors tar tflite tgz wasm wav xz zip zst mp3 mp4
"""
ATTRIBUTES: Final = "".join(f"*.{name} filter=lfs diff=lfs merge=lfs -text\n" for name in _LARGE.split()).encode()


class NoRevisionError(Exception):
    """No branch, tag, pull request or commit has that name."""


class NoFileError(Exception):
    """The commit has no file of that path."""


class MovedOnError(Exception):
    """The branch is not at the commit that the change was made for."""


class BadChangeError(Exception):
    """The change cannot be made at all."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a commit: ``oid`` is git's (of the pointer, where the file is a large one), ``size`` in bytes."""

    path: str
    oid: str
    size: int
    large: Pointer | None = None


@dataclass(frozen=True, slots=True)
class Add:
    path: str
    data: bytes


@dataclass(frozen=True, slots=True)
class AddLarge:
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Delete:
    path: str


@dataclass(frozen=True, slots=True)
class DeleteFolder:
    path: str


@dataclass(frozen=True, slots=True)
class Copy:
    path: str
    source: str
    revision: str | None = None


Change = Add | AddLarge | Delete | DeleteFolder | Copy


@dataclass(slots=True)
class Settings:
    """What a repository's owner can set; ``accepted`` users pass its gate."""

    private: bool = False
    gated: Gate = False
    created: float = field(default_factory=time.time)
    accepted: list[str] = field(default_factory=list)
    sdk: str | None = None


class Repository:
    """One repository."""

    def __init__(self, kind: Kind, name: str, folder: Path) -> None:
        self.kind, self.name, self.folder = kind, name, folder
        self.git, self.lfs = Git(folder / "repo.git"), LargeFiles(folder / "lfs")
        self.lock = threading.RLock()
        path = folder / "settings.json"
        self.settings = Settings(**json.loads(path.read_text())) if path.is_file() else Settings()

    @property
    def owner(self) -> str:
        return self.name.split("/")[0] if "/" in self.name else ""

    def save_settings(self) -> None:
        write_whole(self.folder / "settings.json", json.dumps(asdict(self.settings), indent=1).encode())

    # What a commit holds

    def head(self, revision: str) -> str:
        """The commit that a revision names.

        Raises:
            NoRevisionError: none.
        """
        found = self.git.resolve(revision)
        if found is None:
            raise NoRevisionError(revision)
        return found

    def _file(self, path: str, entry: Entry) -> File:
        data = self.git.read(entry.oid)
        pointer = Pointer.read(data) if len(data) < 200 else None
        return File(path, entry.oid, pointer.size if pointer else len(data), pointer)

    def file(self, commit: str, path: str) -> File:
        """Raises: NoFileError."""
        tree, parts = self.git.commit(commit).tree, path.split("/")
        for number, part in enumerate(parts):
            found = {name: (mode, oid) for mode, name, oid in self.git.children(tree)}.get(part)
            if found is None:
                break
            mode, tree = found
            if number == len(parts) - 1 and mode != "40000":
                return self._file(path, Entry(tree, mode))
            if mode != "40000":
                break
        raise NoFileError(path)

    def files(self, commit: str) -> dict[str, File]:
        entries = self.git.files(self.git.commit(commit).tree)
        return {path: self._file(path, entry) for path, entry in sorted(entries.items())}

    def folders(self, commit: str) -> dict[str, str]:
        """Paths of folders, and the ids of their trees."""
        return {path: oid for mode, path, oid in self.git.walk(self.git.commit(commit).tree) if mode == "40000"}

    def data(self, file: File) -> bytes:
        return self.lfs.path(file.large.sha256).read_bytes() if file.large else self.git.read(file.oid)

    def touched_by(self, commit: str, path: str) -> Commit:
        """The last commit, going back along first parents, that changed a file or folder."""
        last = self.git.commit(commit)
        entries = {p: oid for _, p, oid in self.git.walk(last.tree)}
        while last.parents:
            older = self.git.commit(last.parents[0])
            if {p: oid for _, p, oid in self.git.walk(older.tree)}.get(path) != entries[path]:
                break
            last = older
        return last

    def is_large(self, commit: str | None, path: str, size: int, limit: int) -> bool:
        """Whether a file of that name and size goes beside git: by .gitattributes, or by size."""
        if size == 0:
            return False
        rules = ATTRIBUTES
        if commit is not None:
            try:
                rules = self.data(self.file(commit, ".gitattributes"))
            except NoFileError:
                rules = b""
        for line in rules.decode(errors="replace").splitlines():
            pattern, _, given = line.strip().partition(" ")
            target = path if "/" in pattern else path.rsplit("/", 1)[-1]
            if "filter=lfs" in given and fnmatch.fnmatchcase(target, pattern.replace("**/", "*")):
                return True
        return size > limit

    # How a commit is made

    def commit(
        self,
        changes: Sequence[Change],
        *,
        ref: str,
        base: str | None,
        author: str,
        title: str,
        message: str = "",
        parent: str | None = None,
    ) -> str:
        """Make a commit on top of ``base`` (None: the first one) and let ``ref`` name it.

        Args:
            parent: the commit that the ref must be at, for the change to be made.

        Raises:
            MovedOnError: the ref is elsewhere.
            NoFileError: a file to delete or to copy is not there.
            BadChangeError: a path that is none, or a large file that was never uploaded.
        """
        with self.lock:
            here = self.git.ref(ref) or base
            if parent is not None and here is not None and not here.startswith(parent):
                raise MovedOnError(f"{ref} is at {here}, not at {parent}")
            files = self.git.files(self.git.commit(here).tree) if here else {}
            for change in changes:
                self._apply(change, files, here)
            tree = self.git.write_tree(files) if files else self.git.write("tree", b"")
            oid = self.git.write_commit(tree, (here,) if here else (), author, title, message)
            self.git.set_ref(ref, oid)
            return oid

    def _apply(self, change: Change, files: dict[str, Entry], here: str | None) -> None:
        parts = change.path.rstrip("/").split("/")
        if not all(parts) or any(part in (".", "..", ".git") for part in parts):
            raise BadChangeError(f"{change.path!r} is no path in a repository")
        if isinstance(change, Delete):
            if change.path not in files:
                raise NoFileError(change.path)
            del files[change.path]
        elif isinstance(change, DeleteFolder):
            inside = [path for path in files if path.startswith(change.path.rstrip("/") + "/")]
            if not inside:
                raise NoFileError(change.path)
            for path in inside:
                del files[path]
        elif isinstance(change, Copy):
            source = self.file(self.head(change.revision) if change.revision else here or "", change.source)
            files[change.path] = Entry(source.oid)
        else:
            for path in [
                path for path in files if path.startswith(change.path + "/") or change.path.startswith(path + "/")
            ]:
                del files[path]  # a file where a folder was, or the other way about
            if isinstance(change, Add):
                data = change.data
            elif self.lfs.holds(change.sha256):
                data = Pointer(change.sha256, self.lfs.size(change.sha256)).data()
            else:
                raise BadChangeError(f"{change.path}: no large file of SHA-256 {change.sha256} was uploaded")
            files[change.path] = Entry(self.git.write("blob", data))

    def merge(self, ref: str, theirs: str, author: str, title: str) -> str:
        """Merge a commit into a branch.

        Raises:
            MovedOnError: both sides changed a file, each in its own way; it is named.
        """
        with self.lock:
            ours = self.git.ref(ref)
            if ours is None:
                raise NoRevisionError(ref)
            base, left, right = (self.git.files(tree) for tree in self._three(ours, theirs))
            clash = self.conflicts(ours, theirs)
            if clash:
                raise MovedOnError("both sides changed " + ", ".join(clash))
            for path in base.keys() | right.keys():
                if right.get(path) != base.get(path):
                    left.pop(path, None)
                    if path in right:
                        left[path] = right[path]
            oid = self.git.write_commit(self.git.write_tree(left), (ours, theirs), author, title)
            self.git.set_ref(ref, oid)
            return oid

    def _three(self, ours: str, theirs: str) -> tuple[str, str, str]:
        before = {commit.oid for commit in self.git.history(ours)}
        base = next((commit.tree for commit in self.git.history(theirs) if commit.oid in before), None)
        if base is None:
            base = self.git.write("tree", b"")
        return base, self.git.commit(ours).tree, self.git.commit(theirs).tree

    def conflicts(self, ours: str, theirs: str) -> list[str]:
        """Files that both commits changed since they parted, each in its own way."""
        base, left, right = (self.git.files(tree) for tree in self._three(ours, theirs))
        return sorted(
            path
            for path in left.keys() | right.keys() | base.keys()
            if left.get(path) != base.get(path) != right.get(path) and left.get(path) != right.get(path)
        )


class Store:
    """All repositories of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self._open: dict[tuple[Kind, str], Repository] = {}
        self._moved: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "moved.json").is_file():
            self._moved = json.loads((folder / "moved.json").read_text())

    def _folder(self, kind: Kind, name: str) -> Path:
        return self.folder / f"{kind}s" / name.replace("/", "--")

    def get(self, kind: Kind, name: str) -> Repository | None:
        with self.lock:
            known = self._open.get((kind, name))
            if known is None and (self._folder(kind, name) / "settings.json").is_file():
                known = self._open[kind, name] = Repository(kind, name, self._folder(kind, name))
            return known

    def moved(self, kind: Kind, name: str) -> str | None:
        """The name that a repository of an old name has now."""
        now = self._moved.get(f"{kind}:{name}")
        return (self.moved(kind, now) or now) if now else None

    def create(self, kind: Kind, name: str, author: str, settings: Settings) -> Repository:
        """A repository with its first commit, as the Hub makes it."""
        with self.lock:
            folder = self._folder(kind, name)
            repo = Repository(kind, name, folder)
            repo.git.create()
            repo.git.write("tree", b"")
            repo.settings = settings
            repo.commit(
                [Add(".gitattributes", ATTRIBUTES)],
                ref="refs/heads/main",
                base=None,
                author=author,
                title="initial commit",
            )
            repo.save_settings()
            self._moved.pop(f"{kind}:{name}", None)
            self._open[kind, name] = repo
            return repo

    def delete(self, repo: Repository) -> None:
        with self.lock, repo.lock:
            self._open.pop((repo.kind, repo.name), None)
            (repo.folder / "settings.json").unlink()
            shutil.rmtree(repo.folder, ignore_errors=True)

    def move(self, repo: Repository, name: str) -> Repository:
        with self.lock, repo.lock:
            target = self._folder(repo.kind, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(repo.folder, target)
            self._open.pop((repo.kind, repo.name), None)
            self._moved[f"{repo.kind}:{repo.name}"] = name
            self._moved.pop(f"{repo.kind}:{name}", None)
            write_whole(self.folder / "moved.json", json.dumps(self._moved, indent=1).encode())
            found = self.get(repo.kind, name)
            assert found is not None
            return found

    def copy(self, repo: Repository, name: str) -> Repository:
        """A repository of another name that holds the same files and history, but no pull requests."""
        with self.lock, repo.lock:
            left_out = shutil.ignore_patterns("discussions.json", "pr", "incoming", ".*")
            shutil.copytree(repo.folder, self._folder(repo.kind, name), ignore=left_out)
            found = self.get(repo.kind, name)
            assert found is not None
            return found

    def all(self, kind: Kind) -> Iterator[Repository]:
        """Newest first."""
        names = [path.parent.name.replace("--", "/") for path in (self.folder / f"{kind}s").glob("*/settings.json")]
        repos = [repo for name in names if (repo := self.get(kind, name))]
        yield from sorted(repos, key=lambda repo: (-repo.settings.created, repo.name))
