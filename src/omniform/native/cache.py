"""Packed matrices kept in files, so that the next start maps them and packs nothing: ``OMNIFORM_PACK_CACHE=folder``.

An entry is named by a digest of where the matrix came from (the mapped file's blob digest, or its path, size, inode
and time of change; place, shape and dtype within it) and of how it was packed. Numbers that were changed since they
were mapped are nobody's file any more, and are not looked up.

What is checked at every start costs no reading: the header's digest, the file's size and owner, 64 pages out of all,
and the time of change, which is set to one that the contents decide: whoever writes to an entry changes it. An entry
of another time is read whole and compared with its digest. What does not agree is made anew. Somebody who may write
to the folder as its owner, and means harm, is not kept from it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from omniform.native import abi
from omniform.native.library import Library, library
from omniform.native.matrix import Matrix

MAGIC = b"omniform packed 1\n"
PAGE = 4096
SAMPLES = 64
"""Pages of an entry that are looked at whenever it is opened."""

FIELDS = ("codes", "scales", "minima", "table")
NUMBERS = ("outs", "ins", "group", "kind", "scale_kind")


def packed(origin: Callable[[], str | None], how: str, make: Callable[[], Matrix]) -> Matrix:
    """A packed matrix: mapped from the cache where it is there, else made, and kept for the next time.

    Args:
        origin: which numbers of which file it is packed from; None where they are no file's. Asked where there is a
            cache.
        how: what ``make`` does, in words that name everything which the result depends on.
        make: packs it.
    """
    folder = os.environ.get("OMNIFORM_PACK_CACHE", "")
    source = origin() if folder else None
    if source is None:
        return make()
    store = Store(Path(folder).expanduser())
    name = hashlib.sha256(repr((source, how, abi.VERSION)).encode()).hexdigest()
    found = store.find(name)
    if found is None:
        found = make()
        store.keep(name, found)
    return found


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of packed matrices, which several processes may use at once.

    Attributes:
        folder: made when something is first kept.
    """

    folder: Path

    def find(self, name: str) -> Matrix | None:
        """The matrix of this name; None where there is none, or it is not what was kept."""
        try:
            return self._opened(name)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError):
            return None

    def keep(self, name: str, matrix: Matrix) -> None:
        """Keep a matrix; where that cannot be done (a full disk, a folder that is read-only), say so once."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(prefix=".", dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    mark = _write(file.fileno(), name, matrix)
                os.utime(temporary, ns=(mark, mark))
                os.replace(temporary, self._path(name))
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as wrong:
            _say_once(f"packed matrices are not kept in OMNIFORM_PACK_CACHE={self.folder}: {wrong}")

    def verify(self) -> list[str]:
        """Read every entry whole, and remove those that are not what was kept; their names."""
        wrong = []
        for path in sorted(self.folder.glob("*.packed")):
            try:
                good = _digest(path) == _header(path, path.stem)["digest"]
            except (OSError, ValueError, KeyError, TypeError):
                good = False
            if not good:
                path.unlink(missing_ok=True)
                wrong.append(path.stem)
        return wrong

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.packed"

    def _opened(self, name: str) -> Matrix | None:
        by = library()
        if by is None:
            return None
        # By one handle from here on: another process may put another file in its place, or remove it.
        file = os.open(self._path(name), os.O_RDONLY)
        try:
            return _checked(Path(f"/proc/self/fd/{file}"), name, by)
        finally:
            os.close(file)


def _checked(path: Path, name: str, by: Library) -> Matrix | None:
    """The matrix in an open file, mapped; None where it is not what was kept."""
    header, now = _header(path, name), path.stat()
    if now.st_size != header["size"] or now.st_uid not in (os.getuid(), 0) or _sampled(path) != header["sample"]:
        return None
    mark = _mark(header["digest"])
    if now.st_mtime_ns != mark:
        if _digest(path) != header["digest"]:
            return None
        with contextlib.suppress(OSError):
            os.utime(path, ns=(mark, mark))
    whole = torch.from_file(str(path), shared=False, size=now.st_size, dtype=torch.uint8)
    parts = {field: whole[at : at + size] for field, (at, size) in header["parts"].items()}
    c = abi.PackedMatrix(**{field: header[field] for field in NUMBERS})
    for field, part in parts.items():
        setattr(c, field, part.data_ptr())
    return Matrix(c, tuple(parts.values()), by)


def _write(file: int, name: str, matrix: Matrix) -> int:
    """Write an entry to an open file, and its header last; the time it is to have."""
    held = {x.data_ptr(): x for x in matrix.kept}
    parts, at = {}, PAGE
    for field in FIELDS:
        part = held.get(getattr(matrix.c, field) or 0)
        if part is None:
            continue
        data = part.view(torch.uint8)
        _pwrite(file, (ctypes.c_ubyte * data.nbytes).from_address(data.data_ptr()), at)
        parts[field] = (at, part.nbytes)
        at += -(-part.nbytes // PAGE) * PAGE
    os.ftruncate(file, at)
    path = Path(f"/proc/self/fd/{file}")
    digest = _digest(path)
    header = {"name": name, "size": at, "parts": parts, "sample": _sampled(path), "digest": digest}
    header |= {field: int(getattr(matrix.c, field)) for field in NUMBERS}
    text = json.dumps(header).encode()
    whole = MAGIC + hashlib.sha256(text).hexdigest().encode() + b"\n" + text + b"\n"
    assert len(whole) <= PAGE
    _pwrite(file, whole, 0)
    os.fsync(file)
    return _mark(digest)


def _pwrite(file: int, given: bytes | ctypes.Array[ctypes.c_ubyte], at: int) -> None:
    data, done = memoryview(given).cast("B"), 0
    while done < len(data):
        done += os.pwrite(file, data[done : done + 2**26], at + done)


def _header(path: Path, name: str) -> dict[str, Any]:
    """What an entry says of itself.

    Raises:
        ValueError: it is none, or another's.
    """
    with path.open("rb") as file:
        first = file.read(PAGE)
    magic, digest, text = first[: len(MAGIC)], first[len(MAGIC) :][:64], first[len(MAGIC) + 65 :].split(b"\n")[0]
    if magic != MAGIC or hashlib.sha256(text).hexdigest().encode() != digest:
        raise ValueError("no entry")
    header: dict[str, Any] = json.loads(text)
    if header["name"] != name:
        raise ValueError("another's entry")
    return header


def _mark(digest: str) -> int:
    """The time of change, in nanoseconds, that an entry of this digest has: some second of the year 2001."""
    return 978_307_200 * 10**9 + int(digest[:12], 16) % (365 * 86_400) * 10**9


def _sampled(path: Path) -> str:
    """Of a few pages behind the header, evenly spread, the last among them."""
    with path.open("rb") as file:
        pages = os.fstat(file.fileno()).st_size // PAGE
        found = hashlib.blake2b(digest_size=16)
        for n in range(SAMPLES):
            file.seek((1 + (pages - 2) * n // (SAMPLES - 1)) * PAGE)
            found.update(file.read(PAGE))
    return found.hexdigest()


def _digest(path: Path) -> str:
    """Of everything behind the header."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(PAGE)
        while some := file.read(2**22):
            found.update(some)
    return found.hexdigest()


@cache
def _say_once(what: str) -> None:
    warnings.warn(what, stacklevel=4)
