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


def driver(folder: Path, cxx: str, flags: tuple[str, ...]) -> Path:
    """The program that runs the kernels."""
    return compiled(folder, cxx, [DRIVER / "kernels.cpp", *sorted(NATIVE.glob("*.cpp"))], flags)


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
@pytest.mark.parametrize("machine", ("v3", "plain"))
def test_kernels(tmp_path: Path, machine: str) -> None:
    """A minute and a half each, of which a run of the whole suite takes the first (``thinning.py``).

    Plain: every access of every lane is one that the sanitizers see.
    """
    if platform.machine() not in ("x86_64", "AMD64") or (machine == "v3" and not NEEDS["v3"] & features()):
        pytest.skip("another processor")
    flags = ("-O0", "-DOF_CHECKED", *MEMORY, *(("-march=x86-64-v3",) if machine == "v3" else ()))
    said = run([str(driver(tmp_path, CXX, flags))])
    assert said.splitlines() == cases(DRIVER / "kernels.cpp")


@pytest.mark.slow
@pytest.mark.parametrize("stands_in", ("TILES", "BF16_DOTS"))
def test_products_where_others_have_instructions(tmp_path: Path, stands_in: str) -> None:
    """What is made of instructions that this machine may lack: plain C++ stands in for them."""
    made = driver(tmp_path, CXX, ("-O1", "-DOF_CHECKED", f"-DOF_PLAIN_{stands_in}"))
    chosen = ["matrices of floats", "rows alone and together"]
    assert run([str(made), *chosen]).splitlines() == chosen


@pytest.mark.slow
def test_kernels_on_an_emulated_arm(tmp_path: Path) -> None:
    """Where a cross compiler and an emulator are there: it says nothing of speed."""
    if shutil.which("aarch64-linux-gnu-g++") is None or shutil.which("qemu-aarch64") is None:
        pytest.skip("no cross compiler, or no emulator")
    made = driver(tmp_path, "aarch64-linux-gnu-g++", ("-O1", "-DOF_CHECKED", "-march=armv8-a"))
    said = run(["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", str(made)])
    assert said.splitlines() == cases(DRIVER / "kernels.cpp")
