"""Compile the kernels: ``python native/build.py [variant ...]``, or from the build hook.

Every variant is one compile of the same sources with other flags, into a shared object of its own beside
``src/omniform/native``. Which one is used is chosen where it runs. What fails to compile is left out: torch does
its work.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "src" / "omniform" / "native" / "lib"

COMMON = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fno-rtti",
    "-ffp-contract=off",  # a product and a sum are joined where the source says so, and nowhere else
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
    "-Wno-maybe-uninitialized",  # gcc's own headers of AVX-512
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One set of instructions.

    Attributes:
        name: what the shared object is called by, and ``OMNIFORM_CPU`` names.
        flags: the compiler's.
    """

    name: str
    flags: tuple[str, ...]


X86 = (
    Variant("v3", ("-march=x86-64-v3", "-mtune=haswell")),
    Variant("v3-vnni", ("-march=x86-64-v3", "-mavxvnni", "-mtune=alderlake")),
    Variant("v4", ("-march=x86-64-v4", "-mtune=skylake-avx512", "-mprefer-vector-width=512")),
    Variant(
        "v4-bf16",
        ("-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16", "-mtune=icelake-server", "-mprefer-vector-width=512"),
    ),
)
ARM = (
    Variant("neon", ("-march=armv8-a",)),
    Variant("neon-bf16", ("-march=armv8.2-a+dotprod+i8mm+bf16",)),
)


def variants(machine: str) -> tuple[Variant, ...]:
    """The variants of a kind of processor, the least first; none of one that has no kernels."""
    return {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}.get(machine.lower(), ())


def _compiler() -> list[str] | None:
    """The system's C++ compiler, as ``CXX`` says or the first there is."""
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        words = shlex.split(name)
        if words and shutil.which(words[0]):
            return words
    return None


def _suffix() -> str:
    return ".dylib" if sys.platform == "darwin" else ".so"


def digest() -> str:
    """Of the sources and flags, so that what is up to date is not compiled again."""
    found = hashlib.sha256()
    for path in sorted(HERE.iterdir()):
        if path.suffix in {".c", ".h", ".cpp", ".hpp", ".py"}:
            found.update(path.read_bytes())
    return found.hexdigest()


def _run(command: Sequence[str], target: Path) -> str | None:
    """Compile one object and put it in its place whole; what went wrong, if something did."""
    made = target.with_name(f".{target.name}.{os.getpid()}")
    done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
    if done.returncode:
        made.unlink(missing_ok=True)
        return done.stderr.strip()[-4000:] or f"{command[0]} ended with {done.returncode}"
    os.replace(made, target)
    return None


def build(names: Sequence[str] = (), *, target: Path = TARGET, machine: str | None = None) -> dict[str, str | None]:
    """Compile every variant of this machine's kind, or the named ones.

    Returns:
        Each variant, and what the compiler said if it failed; nothing at all where there is no compiler or no kernels
        for such a processor.
    """
    compiler, chosen = _compiler(), variants(machine or platform.machine())
    if compiler is None or not chosen:
        return {}
    target.mkdir(parents=True, exist_ok=True)
    stamp, now = target / "digest", digest()
    wanted = [v for v in chosen if not names or v.name in names]
    if stamp.is_file() and stamp.read_text() == now and all((target / _object(v.name)).is_file() for v in wanted):
        return dict.fromkeys((v.name for v in wanted), None)
    stamp.unlink(missing_ok=True)
    sources = [str(p) for p in sorted(HERE.glob("*.cpp"))]
    static = () if sys.platform == "darwin" else ("-static-libstdc++", "-static-libgcc", "-pthread")
    jobs: dict[str, list[str]] = {
        v.name: [*compiler, *COMMON, *v.flags, f'-DOF_VARIANT="{v.name}"', *sources, *static] for v in wanted
    }
    # A C file for the C++ compiler, without any of the flags above: it runs before the choice is made.
    jobs["cpu"] = [*compiler, "-x", "c", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", str(HERE / "cpu.c")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        told = pool.map(lambda name: _run(jobs[name], target / _object(name)), jobs)
        said = dict(zip(jobs, told, strict=True))
    if not any(said.values()) and not names:
        stamp.write_text(now)
    return said


def _object(name: str) -> str:
    return f"omniform_{name}{_suffix()}"


def main() -> None:
    """Compile, and say what became of it."""
    said = build(sys.argv[1:])
    for name, wrong in said.items():
        print(f"{name}: {'compiled' if wrong is None else wrong}")
    if not said:
        print("no C++ compiler, or no kernels for this processor: torch computes everything")
    if any(said.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
