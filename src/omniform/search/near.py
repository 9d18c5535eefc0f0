"""A second file of faiss beside the exact one, for folders so large that comparing all vectors takes too long: it looks
at some of them, and what it finds is compared exactly."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from types import ModuleType
from typing import Final, Protocol, cast

import numpy as np

from omniform.core.errors import InputError, RepoError
from omniform.search.vectors import CHUNK, Array, Rows, VectorFile, library

LEAST: Final = 10_000
"""Fewer vectors are all compared, which is quick."""

SAMPLE: Final = 1 << 16
"""So many vectors are looked at to learn how they lie."""

GROWN: Final = 4
"""An index that has grown this many times since it learnt learns anew."""

MORE: Final = 4
"""So many times as many as are wanted are compared exactly."""


class _Index(Protocol):
    ntotal: int
    is_trained: bool

    def train(self, x: Array) -> None: ...
    def add(self, x: Array) -> None: ...
    def search(self, x: Array, k: int) -> tuple[Array, Rows]: ...


class NearFile:
    """Finds vectors that are probably the nearest, of those of an exact file.

    Args:
        exact: the vectors.
        factory: the kind of index in faiss's words (``"IVF1024,SQ8"``, ``"HNSW32"``).

    Raises:
        InputError: faiss knows no such kind.
        DependencyError: faiss is not installed.
    """

    def __init__(self, exact: VectorFile, factory: str) -> None:
        self.exact, self.factory = exact, factory
        name = re.sub(r"[^A-Za-z0-9]+", "-", factory)
        self.path = exact.path.with_name(f"{exact.path.stem}.near-{name}.faiss")
        self._index: _Index | None = None
        self._empty(library())

    def _empty(self, faiss: ModuleType) -> _Index:
        try:
            return cast(_Index, faiss.index_factory(self.exact.width, self.factory, faiss.METRIC_INNER_PRODUCT))
        except RuntimeError as error:
            raise InputError(
                "faiss makes no such index", where="near", expected='such as "IVF1024,SQ8" or "HNSW32"',
                found=f"{self.factory!r:.60}: {str(error).splitlines()[-1][:200]}",
            ) from None  # fmt: skip

    def search(self, queries: Array, k: int, without: Collection[int] = ()) -> tuple[Array, Rows]:
        """The same as :meth:`VectorFile.search`, some of the nearest perhaps left out; its scores are exact.

        The vectors that have come since the last search are taken up first, a chunk at a time.
        """
        if len(self.exact) < LEAST:
            return self.exact.search(queries, k, without)
        index = self._grown(library())
        wanted = min(MORE * k + len(without), len(self.exact))
        _, found = index.search(np.ascontiguousarray(queries, dtype=np.float32), wanted)
        hidden, vectors = np.fromiter(without, np.int64, len(without)), self.exact.all()
        scores = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        for at, (query, candidates) in enumerate(zip(queries, found, strict=True)):
            known = candidates[(candidates >= 0) & (candidates < len(self.exact)) & ~np.isin(candidates, hidden)]
            cosines = vectors[known] @ query
            best = np.argsort(-cosines, kind="stable")[:k]
            scores[at, : len(best)], rows[at, : len(best)] = cosines[best], known[best]
        return scores, rows

    def _grown(self, faiss: ModuleType) -> _Index:
        """The index, with all vectors that there are."""
        if self._index is None:
            self._index = self._kept(faiss)
        count, total = self._index.ntotal, len(self.exact)
        if count > total or GROWN * count < total:
            self._index, count = self._taught(faiss), 0
        if count == total:
            return self._index
        vectors, step = self.exact.all(), max(1, CHUNK // (4 * self.exact.width))
        for start in range(count, total, step):
            self._index.add(np.array(vectors[start : start + step]))
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            faiss.write_index(self._index, str(beside))
            os.replace(beside, self.path)
        except (RuntimeError, OSError) as error:
            beside.unlink(missing_ok=True)
            raise RepoError("the index cannot be written", where=str(self.path), found=str(error)[-200:]) from None
        return self._index

    def _kept(self, faiss: ModuleType) -> _Index:
        try:
            return self._looking(faiss, cast(_Index, faiss.read_index(str(self.path))))
        except RuntimeError:  # it is not there, or was damaged: it can be made again
            return self._empty(faiss)

    def _taught(self, faiss: ModuleType) -> _Index:
        index, vectors = self._empty(faiss), self.exact.all()
        step = max(1, len(vectors) // SAMPLE)
        try:
            index.train(np.array(vectors[::step][:SAMPLE]))
        except RuntimeError as error:
            raise InputError(
                "there are too few vectors for this kind of index", where="near", expected="fewer parts",
                found=f"{len(vectors)} vectors for {self.factory!r:.60}: {str(error).splitlines()[-1][:200]}",
            ) from None  # fmt: skip
        return self._looking(faiss, index)

    def _looking(self, faiss: ModuleType, index: _Index) -> _Index:
        """The same, told how many of its parts to look into, if it has parts."""
        parts = faiss.try_extract_index_ivf(index)
        if parts is not None:
            parts.nprobe = max(8, parts.nlist // 16)
        return index
