"""The kernels and the pool of threads under the compilers' sanitizers, in programs of their own (``driver/``)."""

from __future__ import annotations

import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from omniform.native.cpu import NEEDS, features

ROOT = Path(__file__).resolve().parents[2]
NATIVE, DRIVER = ROOT / "native", Path(__file__).parent / "driver"
CXX = "g++"
FLAGS = ("-std=c++17", "-g1", "-ffp-contract=off", "-pthread", '-DOF_VARIANT="driver"', "-iquote", str(NATIVE))
MEMORY = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def compiled(folder: Path, cxx: str, sources: list[Path], flags: tuple[str, ...]) -> Path:
    """A program of these sources."""

    def compile_one(source: Path) -> str:
        made = folder / f"{source.stem}.o"
        run([cxx, *FLAGS, *flags, "-c", str(source), "-o", str(made)])
        return str(made)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    run([cxx, *flags, "-pthread", *objects, "-o", str(folder / "program")])
    return folder / "program"


def run(command: list[str], seconds: float = 500) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except FileNotFoundError:
        pytest.skip(f"there is no {command[0]}")
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def cases(source: Path) -> list[str]:
    """The names in a driver's table."""
    return [line.split('"')[1] for line in source.read_text().splitlines() if line.startswith('    {"')]


@pytest.mark.slow
@pytest.mark.parametrize("flags", (("-O1", *MEMORY), ("-O1", "-fsanitize=thread", "-DNOTHING_FORKS")), ids=str)
def test_threads(tmp_path: Path, flags: tuple[str, ...]) -> None:
    source = DRIVER / "threads.cpp"
    said = run([str(compiled(tmp_path, CXX, [source, NATIVE / "pool.cpp"], flags))])
    expected = cases(source)
    assert len(expected) >= 10
    if "-DNOTHING_FORKS" in flags:
        expected.remove("forks in the middle")
    assert said.splitlines() == expected


@pytest.mark.slow
@pytest.mark.parametrize("machine", ("v3", "plain", "an emulated ARM"))
def test_kernels(tmp_path: Path, machine: str) -> None:
    """A minute and a half each, of which a run of the whole suite takes the first (``thinning.py``).

    Plain: every access of every lane is one that the sanitizers see. An emulated ARM, where a cross compiler and an
    emulator are there: it says nothing of speed.
    """
    cxx, flags, before = CXX, ("-O0", "-DOF_CHECKED", *MEMORY), []
    if machine == "an emulated ARM":
        if shutil.which("aarch64-linux-gnu-g++") is None or shutil.which("qemu-aarch64") is None:
            pytest.skip("no cross compiler, or no emulator")
        cxx, flags = "aarch64-linux-gnu-g++", ("-O1", "-DOF_CHECKED", "-march=armv8-a")
        before = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
    elif platform.machine() not in ("x86_64", "AMD64") or (machine == "v3" and not NEEDS["v3"] & features()):
        pytest.skip("another processor")
    elif machine == "v3":
        flags = (*flags, "-march=x86-64-v3")
    source = DRIVER / "kernels.cpp"
    said = run([*before, str(compiled(tmp_path, cxx, [source, *sorted(NATIVE.glob("*.cpp"))], flags))])
    assert said.splitlines() == cases(source)
