"""The file of vectors: faiss's own format, growing, searched where it lies."""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from omniform.core.errors import DependencyError, InputError, RepoError
from omniform.search import near
from omniform.search.vectors import VectorFile


def unit(count: int, width: int = 24, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_it_is_a_file_of_faiss_byte_for_byte(tmp_path: Path) -> None:
    vectors = unit(100)
    file = VectorFile(tmp_path / "v.faiss", 24)
    for start in range(0, 100, 30):
        file.add(vectors[start : start + 30])
    theirs = faiss.IndexFlatIP(24)
    theirs.add(vectors)
    faiss.write_index(theirs, str(tmp_path / "theirs.faiss"))
    assert (tmp_path / "v.faiss").read_bytes() == (tmp_path / "theirs.faiss").read_bytes()
    queries = unit(3, seed=1)
    scores, rows = VectorFile(tmp_path / "v.faiss", 24).search(queries, 7)
    expected = theirs.search(queries, 7)
    assert (rows == expected[1]).all() and np.allclose(scores, expected[0], atol=1e-6)
    exact = queries @ vectors.T
    assert (rows == (-exact).argsort(axis=1, kind="stable")[:, :7]).all()


def test_it_grows_after_it_was_searched_and_hides_what_is_dead(tmp_path: Path) -> None:
    vectors = unit(50)
    file = VectorFile(tmp_path / "v.faiss", 24)
    assert file.search(vectors[:1], 5)[1].shape == (1, 0)
    assert file.add(vectors[:20]) == range(20)
    assert file.search(vectors[10:11], 1)[1].tolist() == [[10]]
    assert file.add(vectors[20:]) == range(20, 50)
    assert file.search(vectors[40:41], 1)[1].tolist() == [[40]]
    scores, rows = file.search(vectors[40:41], 100, without=[40, 3])
    assert rows.shape == (1, 48) and not {40, 3} & set(rows[0].tolist()) and (np.diff(scores[0]) <= 0).all()
    assert np.allclose(file.all(), vectors)


def test_what_a_run_left_that_was_cut_off_is_written_over(tmp_path: Path) -> None:
    vectors = unit(40)
    path = tmp_path / "v.faiss"
    VectorFile(path, 24).add(vectors[:30])
    with path.open("ab") as more:
        more.write(b"half a vector")
    assert len(VectorFile(path, 24)) == 30
    file = VectorFile(path, 24, rows=20)  # ten of them were never noted
    assert len(file) == 20 and 25 not in file.search(vectors[25:26], 20)[1]
    file.add(vectors[30:])
    assert np.allclose(file.all(), np.concatenate([vectors[:20], vectors[30:]]))
    assert path.stat().st_size == 45 + 30 * 24 * 4
    with pytest.raises(RepoError, match="lost vectors"):
        VectorFile(path, 24, rows=31)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    file = VectorFile(tmp_path / "v.faiss", 24)
    file.add(unit(2))
    for wrong in (unit(2, 23), unit(2)[0], np.full((1, 24), np.nan, np.float32)):
        with pytest.raises(InputError, match="do not fit"):
            file.add(wrong)
    with pytest.raises(RepoError, match="24 numbers"):
        VectorFile(tmp_path / "v.faiss", 23)
    (tmp_path / "other.faiss").write_bytes(b"nothing of the kind, whatever it is, though it is long enough")
    with pytest.raises(RepoError, match="no index"):
        VectorFile(tmp_path / "other.faiss", 24)


def test_without_faiss_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = VectorFile(tmp_path / "v.faiss", 24)
    file.add(unit(2))
    real = builtins.__import__

    def absent(name: str, *args: object, **kwargs: object) -> object:
        if name == "faiss":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(DependencyError, match=r"omniform\[search\]"):
        file.search(unit(1), 1)


def clustered(count: int, width: int = 24) -> np.ndarray:
    """Vectors in heaps, as those of pictures lie."""
    heaps = unit(200, width, seed=3)
    vectors = heaps[np.arange(count) % 200] + 0.1 * unit(count, width, seed=4)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("factory", ["IVF64,SQ8", "HNSW16", "Flat"])
def test_some_of_them_are_looked_at_and_compared_exactly(
    tmp_path: Path, factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near, "LEAST", 2000)
    vectors = clustered(6000)
    exact = VectorFile(tmp_path / "v.faiss", 24)
    exact.add(vectors[:1000])
    found = near.NearFile(exact, factory)
    assert (found.search(vectors[:2], 5)[1] == exact.search(vectors[:2], 5)[1]).all() and not found.path.exists()
    for end in (5000, 6000):  # it grows, and is read again
        exact.add(vectors[len(exact) : end])
        found = near.NearFile(VectorFile(tmp_path / "v.faiss", 24), factory)
        scores, rows = found.search(vectors[-20:], 5, without=[3, 4])
        expected = exact.search(vectors[-20:], 5, without=[3, 4])
        assert np.mean([len({*a} & {*b}) / 5 for a, b in zip(rows, expected[1], strict=True)]) > 0.9
        assert np.allclose(scores[:, 0], expected[0][:, 0], atol=1e-5) and not {3, 4} & {*rows.ravel().tolist()}
        assert faiss.read_index(str(found.path)).ntotal == end
    found.path.write_bytes(b"damaged")
    assert (near.NearFile(exact, factory).search(vectors[-2:], 1)[1] == exact.search(vectors[-2:], 1)[1]).all()
    with pytest.raises(InputError, match="no such index"):
        near.NearFile(exact, "Nonsense12")


MILLION = """
import resource, sys
import numpy as np
from pathlib import Path
from omniform.search.vectors import VectorFile, library
library()
file = VectorFile(Path(sys.argv[1]), 32)
chunk = np.random.default_rng(0).standard_normal((10_000, 32)).astype(np.float32)
file.add(chunk)
file.search(chunk[:1], 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
file.extend(chunk for _ in range(99))
built = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
file.search(chunk[:2], 10)
print(len(file), built - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_million_vectors_take_no_more_memory_than_their_file(tmp_path: Path) -> None:
    """Nothing while they are written, and the pages of the file itself while it is searched."""
    done = subprocess.run(
        [sys.executable, "-c", MILLION, str(tmp_path / "v.faiss")], capture_output=True, text=True, check=True
    )
    count, built, searched = map(int, done.stdout.split())
    size = (tmp_path / "v.faiss").stat().st_size // 1024
    assert count == 1_000_000 and size == 1_000_000 * 32 * 4 // 1024
    assert built < 8_000 and searched < 1.1 * size
