"""Packed matrices kept in files: mapped again, bit for bit, made anew where an entry is not what was kept."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from omniform.native import cache
from omniform.native.cache import Store, packed
from omniform.native.library import library
from omniform.native.matrix import Matrix
from omniform.weights.origin import origin_of

pytestmark = pytest.mark.skipif(library() is None or sys.platform != "linux", reason="no native kernels here")

PACKINGS: dict[str, Callable[[Tensor], Matrix]] = {
    "floats": Matrix.pack,
    "int8": lambda w: Matrix.quantize(w, bits=8),
    "int4": lambda w: Matrix.quantize(w, bits=4),
    "minima": lambda w: Matrix.quantize(w, bits=4, minima=True),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMNIFORM_PACK_CACHE", str(tmp_path / "cache"))
    cache._say_once.cache_clear()
    return tmp_path / "cache"


def mapped(path: Path, seed: int = 0, size: tuple[int, int] = (300, 520)) -> Tensor:
    torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16).view(
        torch.uint8
    ).numpy().tofile(path)
    whole = torch.from_file(str(path), shared=False, size=size[0] * size[1], dtype=torch.bfloat16)
    return whole.view(size)


class Counted:
    """Packs, and counts how often."""

    def __init__(self, weight: Tensor, how: str = "floats") -> None:
        self.weight, self.how, self.times = weight, how, 0

    def __call__(self) -> Matrix:
        self.times += 1
        return PACKINGS[self.how](self.weight)

    def get(self) -> Matrix:
        return packed(lambda: origin_of(self.weight), self.how, self)


def entry(folder: Path) -> Path:
    (only,) = folder.iterdir()
    return only


@pytest.mark.parametrize("how", PACKINGS)
def test_the_next_start_maps_what_was_packed(folder: Path, tmp_path: Path, how: str) -> None:
    make = Counted(mapped(tmp_path / "weights"), how)
    first, again = make.get(), make.get()
    assert make.times == 1 and len(first.kept) == len(again.kept)
    x = torch.randn(5, 520)
    assert torch.equal(first.multiply(x), again.multiply(x)) and torch.equal(first.unpack(), again.unpack())
    addresses = [x.data_ptr() for x in again.kept]
    maps = Path("/proc/self/maps").read_text().splitlines()
    spans = [[int(a, 16) for a in m.split()[0].split("-")] for m in maps if m.endswith(".packed")]
    assert all(any(lo <= a < hi for lo, hi in spans) and a % 64 == 0 for a in addresses)


def test_what_differs_has_an_entry_of_its_own(folder: Path, tmp_path: Path) -> None:
    weight = mapped(tmp_path / "one")
    makes = [Counted(weight), Counted(weight, "int8"), Counted(weight[:100]), Counted(mapped(tmp_path / "two", 1))]
    for make in makes:
        make.get()
    assert [m.times for m in makes] == [1, 1, 1, 1] and len(list(folder.iterdir())) == 4
    mapped(tmp_path / "one", seed=2)  # the file is another now
    changed = Counted(torch.from_file(str(tmp_path / "one"), size=300 * 520, dtype=torch.bfloat16).view(300, 520))
    assert torch.equal(changed.get().unpack(), changed.weight) and changed.times == 1


def test_numbers_that_were_changed_are_no_files(folder: Path, tmp_path: Path) -> None:
    make = Counted(mapped(tmp_path / "weights"))
    make.get()
    make.weight.data.view(torch.int16)[7, 9].add_(1)
    assert origin_of(make.weight) is None
    assert torch.equal(make.get().unpack(), make.weight) and make.times == 2
    assert origin_of(torch.randn(64, 64)) is None


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def turn(at: Callable[[int], int]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(at(path.stat().st_size))
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 4]))

    return damage


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "foreign": lambda path: path.write_bytes(b"something else" * 10_000),
    "header": turn(lambda size: 200),
    "the middle": turn(lambda size: size // 2 + 77),
    "the end": turn(lambda size: size - 4097),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_entry_that_was_tampered_with_is_made_anew(folder: Path, tmp_path: Path, damage: str) -> None:
    make = Counted(mapped(tmp_path / "weights"))
    make.get()
    DAMAGES[damage](entry(folder))
    assert torch.equal(make.get().unpack(), make.weight) and make.times == 2
    assert torch.equal(make.get().unpack(), make.weight) and make.times == 2  # and kept again


def test_another_matrix_under_its_name_is_refused(folder: Path, tmp_path: Path) -> None:
    make, other = Counted(mapped(tmp_path / "one")), Counted(mapped(tmp_path / "two", 1))
    make.get()
    path = entry(folder)
    other.get()
    (swapped,) = set(folder.iterdir()) - {path}
    os.replace(swapped, path)
    assert torch.equal(make.get().unpack(), make.weight) and make.times == 2


def test_an_entry_that_was_copied_is_read_whole_and_used(folder: Path, tmp_path: Path) -> None:
    make = Counted(mapped(tmp_path / "weights"))
    make.get()
    os.utime(entry(folder))
    make.get()
    assert make.times == 1


def test_all_entries_are_verified(folder: Path, tmp_path: Path) -> None:
    make = Counted(mapped(tmp_path / "weights"))
    make.get()
    assert Store(folder).verify() == []
    path, before = entry(folder), entry(folder).stat()
    turn(lambda size: size // 2 + 77)(path)
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert Store(folder).verify() == [path.stem] and not path.exists()


def test_where_nothing_can_be_kept_it_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("OMNIFORM_PACK_CACHE", str(tmp_path / "file" / "cache"))
    cache._say_once.cache_clear()
    make = Counted(mapped(tmp_path / "weights"))
    with pytest.warns(UserWarning, match="not kept in OMNIFORM_PACK_CACHE"):
        assert torch.equal(make.get().unpack(), make.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make.get()
    assert make.times == 2


def test_a_full_disk_leaves_nothing_behind(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    make = Counted(mapped(tmp_path / "weights"))
    with pytest.warns(UserWarning, match="No space left"):
        assert torch.equal(make.get().unpack(), make.weight)
    assert list(folder.iterdir()) == []


def test_without_a_cache_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMNIFORM_PACK_CACHE", raising=False)
    make = Counted(mapped(tmp_path / "weights"))
    make.get(), make.get()
    assert make.times == 2


MANY = """
import sys, torch
from omniform.native.cache import packed
from omniform.native.matrix import Matrix
from omniform.weights.origin import origin_of
weight = torch.from_file(sys.argv[1], size=300 * 520, dtype=torch.bfloat16).view(300, 520)
for _ in range(30):
    matrix = packed(lambda: origin_of(weight), "floats", lambda: Matrix.pack(weight))
    assert torch.equal(matrix.unpack(), weight)
    import os, glob
    for path in glob.glob(sys.argv[2] + "/*.packed"):
        if torch.rand(1) < 0.3:
            try: os.unlink(path)
            except FileNotFoundError: pass
"""


def test_many_at_once(folder: Path, tmp_path: Path) -> None:
    weight = tmp_path / "weights"
    mapped(weight)
    together = [subprocess.Popen([sys.executable, "-c", MANY, str(weight), str(folder)]) for _ in range(3)]
    assert [each.wait(200) for each in together] == [0, 0, 0]
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []
