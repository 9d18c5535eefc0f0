"""Vectors in a file of faiss (https://github.com/facebookresearch/faiss): it grows at its end, and is searched where it
lies.

The file is that of a flat index (``faiss.write_index`` of an ``IndexFlatIP``), and faiss reads it as such: a head of 45
bytes, then the vectors as float32, one after another. So vectors are added by writing them behind the others, whatever
there is already, and a search maps the file instead of reading it: neither takes memory for more than a chunk of it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

from omniform.core.errors import DependencyError, InputError, RepoError

if TYPE_CHECKING:
    from types import ModuleType

Array = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

HEAD: Final = struct.Struct("<4siqqqBiQ")
"""Kind, width, vectors, two numbers that are no longer read, whether it is trained, metric, numbers that follow."""

FLAT: Final = b"IxFI"
_UNREAD: Final = 1 << 20
_INNER_PRODUCT: Final = 0

CHUNK: Final = 1 << 22
"""So many bytes are copied at once."""


class _Index(Protocol):
    ntotal: int

    def search(self, x: Array, k: int, *, params: object = None) -> tuple[Array, Rows]: ...


def library() -> ModuleType:
    """faiss.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise DependencyError(
            "searching needs the package faiss", where="search", remedy="pip install 'omniform[search]'"
        ) from error
    return faiss


class VectorFile:
    """Vectors of one width, numbered from 0 as they were added, compared by their inner products, all of them.

    Args:
        path: the file; made with the first vectors.
        width: numbers of a vector.
        rows: how many vectors of the file count; those behind them are of a run that was cut off, and are written
            over. All, by default.

    Raises:
        RepoError: this is no such file, or it holds fewer vectors.
    """

    def __init__(self, path: Path, width: int, rows: int | None = None) -> None:
        self.path, self.width = path, width
        held = self._held()
        if rows is not None and rows > held:
            raise RepoError("the index has lost vectors", where=str(path), expected=rows, found=held)
        self._rows = held if rows is None else rows
        self._index: _Index | None = None

    def __len__(self) -> int:
        return self._rows

    def _held(self) -> int:
        """How many whole vectors the file holds, by its size."""
        try:
            with self.path.open("rb") as file:
                head = file.read(HEAD.size)
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise RepoError("the index cannot be read", where=str(self.path), found=error.strerror) from None
        if len(head) < HEAD.size:
            return 0
        kind, width, *_, metric, _ = HEAD.unpack(head)
        if kind != FLAT or metric != _INNER_PRODUCT or width != self.width:
            raise RepoError(
                "this is no index of such vectors",
                where=str(self.path),
                expected=f"a flat index of faiss, {self.width} numbers a vector, by inner product",
                found=f"{kind!r}, {width} numbers" if kind == FLAT else repr(kind),
            )
        return int((size - HEAD.size) // (4 * self.width))

    def add(self, vectors: Array) -> range:
        """Write vectors behind the others; the file is whole again when this returns.

        Args:
            vectors: Shape: [n, width].

        Returns:
            Their numbers.

        Raises:
            InputError: they are of another width, or not finite.
            RepoError: the file cannot be written.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.width or not np.isfinite(vectors).all():
            raise InputError(
                "vectors do not fit the index", where=str(self.path), expected=f"finite, of shape [n, {self.width}]",
                found=f"shape {list(vectors.shape)}",
            )  # fmt: skip
        return self.extend((vectors,))

    def extend(self, chunks: Iterable[Array]) -> range:
        """The same for many, a chunk after another."""
        self._index = None
        first = self._rows
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.truncate(HEAD.size + 4 * self.width * first)
                file.seek(HEAD.size + 4 * self.width * first)
                rows = first
                for vectors in chunks:
                    file.write(np.ascontiguousarray(vectors, dtype="<f4").data)
                    rows += len(vectors)
                self._write_head(file, rows)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RepoError("the index cannot be written", where=str(self.path), found=error.strerror) from None
        self._rows = rows
        return range(first, rows)

    def _write_head(self, file: BinaryIO, rows: int) -> None:
        file.seek(0)
        file.write(HEAD.pack(FLAT, self.width, rows, _UNREAD, _UNREAD, 1, _INNER_PRODUCT, rows * self.width))

    def all(self) -> Array:
        """The vectors where they lie in the file. Shape: [rows, width]."""
        if not self._rows:
            return np.zeros((0, self.width), np.float32)
        return np.memmap(self.path, "<f4", "r", HEAD.size, (self._rows, self.width))

    def search(self, queries: Array, k: int, without: Collection[int] = ()) -> tuple[Array, Rows]:
        """The vectors that are nearest to each query: all are compared.

        Args:
            queries: Shape: [n, width].
            k: how many are wanted.
            without: numbers of vectors that do not count.

        Returns:
            Inner products, the greatest first, and the vectors' numbers. Shape: [n, m] each, m being at most k.

        Raises:
            DependencyError: faiss is not installed.
        """
        faiss = library()
        k = min(k, self._rows - len(without))
        if k < 1:
            return np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
        index = self._mapped(faiss)
        beyond = range(self._rows, index.ntotal)  # of a run that was cut off, or is going on
        params = None
        if without or beyond:
            hidden = np.array([*without, *beyond], np.int64)
            params = faiss.SearchParameters(sel=faiss.IDSelectorNot(faiss.IDSelectorBatch(hidden)))
        return index.search(np.ascontiguousarray(queries, dtype=np.float32), k, params=params)

    def _mapped(self, faiss: ModuleType) -> _Index:
        if self._index is None:
            try:
                self._index = cast(_Index, faiss.read_index(str(self.path), faiss.IO_FLAG_MMAP_IFC))
            except RuntimeError as error:
                raise RepoError(
                    "the index cannot be read", where=str(self.path), found=str(error).splitlines()[-1][:200]
                ) from None
        return self._index
