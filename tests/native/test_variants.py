"""Which compiled variant is used, what is said where none is, and that no variant runs anything before it is chosen."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from omniform.native import cpu
from omniform.native import library as chooser
from omniform.native.cpu import NEEDS, features, path_of

REAL = cpu.LIB
COMPILED = [name for name in (*NEEDS, "cpu") if path_of(name).is_file()]
pytestmark = pytest.mark.skipif(not COMPILED, reason="no native kernels here")
ABLE = features() if COMPILED else cpu.Cpu(0)
RUNS = [name for name in COMPILED if name != "cpu" and NEEDS[name] & ABLE == NEEDS[name]]


@pytest.fixture
def lib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of compiled variants of the test's own; nothing was found yet."""
    shutil.copytree(REAL, tmp_path / "lib")
    monkeypatch.setattr(cpu, "LIB", tmp_path / "lib")
    monkeypatch.delenv("OMNIFORM_CPU", raising=False)
    monkeypatch.delenv("OMNIFORM_NATIVE", raising=False)
    chooser._find.cache_clear()
    yield tmp_path / "lib"
    chooser._find.cache_clear()


def said() -> list[str]:
    """What is warned of when the library is looked for, three times."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for _ in range(3):
            chooser.library()
    return [str(each.message) for each in heard]


def test_the_best_is_chosen_without_a_word(lib: Path) -> None:
    assert said() == []
    found = chooser.library()
    assert found is not None and found.variant == RUNS[0] and found.c.of_variant().decode() == RUNS[0]


@pytest.mark.parametrize("name", RUNS)
def test_a_variant_is_forced(lib: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("OMNIFORM_CPU", name)
    found = chooser.library()
    assert found is not None and found.variant == name


@pytest.mark.parametrize("name", ("v9", *(name for name in NEEDS if NEEDS[name] & ~ABLE)))
def test_a_variant_that_cannot_run_is_no_other(lib: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("OMNIFORM_CPU", name)
    (only,) = said()
    assert name in only and "torch computes instead" in only and chooser.library() is None


def test_kernels_are_turned_off(lib: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIFORM_NATIVE", "0")
    assert said() == [] and chooser.library() is None and "OMNIFORM_NATIVE=0" in chooser.why_not()


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    path.unlink()
    if how == "foreign":
        shutil.copy(path_of("cpu"), path)  # a good library, without our functions
    else:
        path.write_bytes({"cut": whole[: len(whole) // 3], "empty": b"", "text": b"#!/bin/sh\n"}[how])


@pytest.mark.parametrize("how", ("cut", "empty", "text", "foreign"))
def test_damaged_libraries_are_said_once_and_torch_computes(lib: Path, how: str) -> None:
    for name in RUNS:
        damage(path_of(name), how)
    heard = said()
    assert len(heard) == len(RUNS) and all("damaged or foreign" in each and "reinstall" in each for each in heard)
    assert chooser.library() is None and chooser.why_not()


@pytest.mark.parametrize("how", ("cut", "empty", "text"))
def test_a_damaged_object_that_asks_the_processor(lib: Path, how: str) -> None:
    damage(path_of("cpu"), how)
    (only,) = said()
    assert "cannot be loaded" in only and chooser.library() is None


def test_nothing_was_compiled(lib: Path) -> None:
    shutil.rmtree(lib)
    (only,) = said()
    assert "several times as fast" in only
    assert chooser.library() is None and "without native kernels" in chooser.why_not()


def tool(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", [name for name in COMPILED if name != "cpu"])
def test_nothing_runs_when_a_variant_is_loaded(name: str) -> None:
    """What the C++ runtime begins with was compiled for every machine, as it came with the compiler."""
    started = [line.split()[-1] for line in tool("nm", str(path_of(name))).splitlines() if "_GLOBAL__sub_I" in line]
    assert [each for each in started if Path(each.removeprefix("_GLOBAL__sub_I_")).stem not in RUNTIME] == []


RUNTIME = (
    "eh_alloc",
    "system_error",
    "locale_inst",
    "ios_init",
    "functexcept",
    "future",
    "thread",
    "condition_variable",
)


def test_what_asks_the_processor_needs_no_wide_registers() -> None:
    code = tool("objdump", "-d", "--no-show-raw-insn", str(path_of("cpu")))
    assert "<of_cpu_features>" in code
    assert [line for line in code.splitlines() if "%ymm" in line or "%zmm" in line or "\tv" in line] == []
