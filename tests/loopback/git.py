"""A bare git repository on disk, in git's own formats: loose objects, trees, commits, refs.

``git --git-dir=FOLDER log`` reads what is written here (https://git-scm.com/docs/gitrepository-layout). Objects are
written first and a ref is moved last, by a rename, so that whoever stops in between leaves the branch as it was.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

EMPTY_TREE: Final = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
COMMIT_ID: Final = re.compile(r"[0-9a-f]{40}")
_BAD_NAME: Final = re.compile(r"\.\.|//|@\{|\.lock(/|$)|(^|/)\.|[\x00-\x20\x7f~^:?*\[\\]|^/|[/.]$")


class RefError(Exception):
    """A ref cannot be made: a bad name, or one that stands in the way of another."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a commit: its path is the key it is kept under."""

    oid: str
    mode: str = "100644"


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit as it was read: ``date`` in seconds since 1970."""

    oid: str
    tree: str
    parents: tuple[str, ...]
    author: str
    date: int
    title: str
    message: str


def object_id(kind: str, data: bytes) -> str:
    """What git calls an object: SHA-1 of its kind, its length and its bytes."""
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data).hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


class Git:
    """The objects and refs of one repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self) -> None:
        for name in ("objects", "refs/heads", "refs/tags"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "HEAD", b"ref: refs/heads/main\n")
        write_whole(self.folder / "config", b"[core]\n\trepositoryformatversion = 0\n\tbare = true\n")

    # Objects

    def write(self, kind: str, data: bytes) -> str:
        oid = object_id(kind, data)
        path = self.folder / "objects" / oid[:2] / oid[2:]
        if not path.exists():
            write_whole(path, zlib.compress(b"%s %d\0" % (kind.encode(), len(data)) + data, 1))
        return oid

    def read(self, oid: str) -> bytes:
        raw = zlib.decompress((self.folder / "objects" / oid[:2] / oid[2:]).read_bytes())
        return raw[raw.index(b"\0") + 1 :]

    def holds(self, oid: str) -> bool:
        return (self.folder / "objects" / oid[:2] / oid[2:]).exists()

    def write_tree(self, files: Mapping[str, Entry]) -> str:
        """Nested trees of the files' paths; the id of the topmost."""
        folders: dict[str, dict[str, Entry]] = {}
        rows: list[tuple[bytes, bytes]] = []
        for path, entry in files.items():
            head, slash, rest = path.partition("/")
            if slash:
                folders.setdefault(head, {})[rest] = entry
            else:
                row = f"{entry.mode} {head}".encode() + b"\0" + bytes.fromhex(entry.oid)
                rows.append((head.encode(), row))
        for name, inner in folders.items():
            row = f"40000 {name}".encode() + b"\0" + bytes.fromhex(self.write_tree(inner))
            rows.append((name.encode() + b"/", row))  # git sorts folders as if their names ended in a slash
        return self.write("tree", b"".join(row for _, row in sorted(rows)))

    def children(self, tree: str) -> list[tuple[str, str, str]]:
        """(mode, name, id) of what lies directly in a tree."""
        data, at, found = self.read(tree), 0, []
        while at < len(data):
            end = data.index(b"\0", at)
            mode, _, name = data[at:end].decode().partition(" ")
            found.append((mode, name, data[end + 1 : end + 21].hex()))
            at = end + 21
        return found

    def walk(self, tree: str, prefix: str = "") -> Iterator[tuple[str, str, str]]:
        """(mode, path, id) of everything under a tree, folders (mode ``40000``) before what they hold."""
        for mode, name, oid in self.children(tree):
            yield mode, prefix + name, oid
            if mode == "40000":
                yield from self.walk(oid, f"{prefix}{name}/")

    def files(self, tree: str) -> dict[str, Entry]:
        return {path: Entry(oid, mode) for mode, path, oid in self.walk(tree) if mode != "40000"}

    # Commits

    def write_commit(self, tree: str, parents: tuple[str, ...], author: str, title: str, message: str = "") -> str:
        """The id of a new commit; no ref knows it yet."""
        text = title + (f"\n\n{message}" if message else "") + "\n"
        who = f"{author} <{author}@users.noreply.localhost> {int(time.time())} +0000"
        lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents), f"author {who}", f"committer {who}"]
        return self.write("commit", ("\n".join(lines) + "\n\n" + text).encode())

    def commit(self, oid: str) -> Commit:
        head, _, text = self.read(oid).decode().partition("\n\n")
        tree, parents, author, date = "", [], "", 0
        for line in head.splitlines():
            key, _, value = line.partition(" ")
            if key == "tree":
                tree = value
            elif key == "parent":
                parents.append(value)
            elif key == "author":
                author, _, rest = value.partition(" <")
                date = int(rest.split("> ")[1].split()[0])
        title, _, message = text.rstrip("\n").partition("\n\n")
        return Commit(oid, tree, tuple(parents), author, date, title, message)

    def history(self, oid: str) -> Iterator[Commit]:
        """A commit and all before it: newest first, and never one before what was built on it."""
        commits: dict[str, Commit] = {}
        children: dict[str, int] = {oid: 0}
        waiting = [oid]
        while waiting:
            commit = self.commit(waiting.pop())
            commits[commit.oid] = commit
            waiting += [parent for parent in commit.parents if parent not in children]
            for parent in commit.parents:
                children[parent] = children.get(parent, 0) + 1
        ready = [oid]
        while ready:
            ready.sort(key=lambda name: commits[name].date)
            commit = commits[ready.pop()]
            yield commit
            for parent in commit.parents:
                children[parent] -= 1
                if children[parent] == 0:
                    ready.append(parent)

    # Refs

    def ref(self, name: str) -> str | None:
        """The commit that a full ref (``refs/heads/main``) names."""
        if _BAD_NAME.search(name):
            return None
        path = self.folder / name
        return path.read_text().strip() if path.is_file() else None

    def set_ref(self, name: str, oid: str) -> None:
        if _BAD_NAME.search(name):
            raise RefError(f"{name!r} is no name for a ref")
        try:
            write_whole(self.folder / name, f"{oid}\n".encode())
        except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
            raise RefError(f"{name!r} stands in the way of another ref") from error

    def delete_ref(self, name: str) -> None:
        path = self.folder / name
        path.unlink()
        while path.parent.name not in ("heads", "tags", "pr") and not any(path.parent.iterdir()):
            path = path.parent
            path.rmdir()

    def refs(self, under: str) -> dict[str, str]:
        """Short names below ``refs/heads`` (or another folder of refs) and the commits they name."""
        root = self.folder / under
        paths = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
        return {path.relative_to(root).as_posix(): path.read_text().strip() for path in paths}

    def resolve(self, revision: str) -> str | None:
        """The commit meant by a branch, a tag, a full ref, or (the beginning of) a commit's id."""
        if not revision or _BAD_NAME.search(revision):
            return None
        full = [revision] if revision.startswith("refs/") else []
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", *full):
            if found := self.ref(name):
                return found
        if not re.fullmatch(r"[0-9a-f]{7,40}", revision):
            return None
        folder = self.folder / "objects" / revision[:2]
        ids = [revision[:2] + path.name for path in folder.glob(f"{revision[2:]}*")] if folder.is_dir() else []
        commits = [oid for oid in ids if self.read_kind(oid) == "commit"]
        return commits[0] if len(commits) == 1 else None

    def read_kind(self, oid: str) -> str:
        raw = zlib.decompress((self.folder / "objects" / oid[:2] / oid[2:]).read_bytes())
        return raw[: raw.index(b" ")].decode()
