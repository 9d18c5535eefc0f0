"""Compile the kernels: ``python native/build.py [variant ...]``, or from the build hook.

Every variant is one compile of the same sources with other flags, into a shared object of its own beside
``src/omniform/native``. Which one is used is chosen where it runs. What fails to compile is left out: another variant,
or torch, does its work. Objects are kept in ``build/native`` by what they are made of, so that a changed kernel
compiles alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "src" / "omniform" / "native" / "lib"
OBJECTS = HERE.parent / "build" / "native"
STAMP = "built.json"

Job = Callable[[], "str | None"]

COMMON = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-rtti",
    "-ffp-contract=off",  # a product and a sum are joined where the source says so, and nowhere else
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
    "-Wno-maybe-uninitialized",  # gcc's own headers of AVX-512
    "-Wno-unknown-warning-option",  # which clang does not know
)
LINUX = ("-static-libstdc++", "-static-libgcc", "-pthread", "-Wl,--exclude-libs,ALL")
"""How a shared object is linked: with a C++ runtime of its own, that nobody else in the process sees."""
CPU = ("-x", "c", "-O2", "-fPIC", "-shared", "-fvisibility=hidden")
"""A C file for the C++ compiler, without any flags of a variant: it runs before the choice is made."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One set of instructions.

    Attributes:
        name: what the shared object is called by, and ``OMNIFORM_CPU`` names.
        flags: the compiler's.
    """

    name: str
    flags: tuple[str, ...]


V4 = ("-march=x86-64-v4", "-mprefer-vector-width=512")
V4_BF16 = (*V4, "-mavx512vnni", "-mavx512bf16")
X86 = (
    Variant("v3", ("-march=x86-64-v3", "-mtune=haswell")),
    Variant("v3-vnni", ("-march=x86-64-v3", "-mavxvnni", "-mtune=alderlake")),
    Variant("v4", (*V4, "-mtune=skylake-avx512")),
    Variant("v4-bf16", (*V4_BF16, "-mtune=icelake-server")),
    Variant("amx", (*V4_BF16, "-mamx-tile", "-mamx-bf16", "-mtune=sapphirerapids")),
)
ARM = (
    Variant("neon", ("-march=armv8-a",)),
    Variant("neon-bf16", ("-march=armv8.2-a+dotprod+i8mm+bf16",)),
)


def variants(machine: str) -> tuple[Variant, ...]:
    """The variants of a kind of processor, the least first; none of one that has no kernels."""
    return {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}.get(machine.lower(), ())


def compiler() -> list[str] | None:
    """The system's C++ compiler, as ``CXX`` says (``CXX=false`` for none) or the first there is."""
    said = os.environ.get("CXX")
    for name in ("c++", "g++", "clang++") if said is None else (said,):
        words = shlex.split(name)
        if words and words != ["false"] and shutil.which(words[0]):
            return words
    return None


def _suffix() -> str:
    return ".dylib" if sys.platform == "darwin" else ".so"


def object_name(name: str) -> str:
    """The file of a variant, or of ``cpu``, which asks the processor."""
    return f"omniform_{name}{_suffix()}"


def sources() -> list[Path]:
    """What every variant is compiled from."""
    return sorted(HERE.glob("*.cpp"))


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _headers() -> list[bytes]:
    return [p.read_bytes() for p in sorted(HERE.iterdir()) if p.suffix in {".h", ".hpp"}]


def _version(command: Sequence[str]) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout


def _run(command: Sequence[str], target: Path) -> str | None:
    """Compile one file and put it in its place whole; what went wrong, if something did."""
    made = target.with_name(f".{target.name}.{os.getpid()}")
    done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
    if done.returncode:
        made.unlink(missing_ok=True)
        return done.stderr.strip()[-4000:] or f"{command[0]} ended with {done.returncode}"
    os.replace(made, target)
    return None


def _variant(command: list[str], variant: Variant, target: Path, made_by: str, pool: ThreadPoolExecutor) -> Job:
    """Begin to compile a variant; what is called for its end says what went wrong."""
    flags = [*COMMON, *variant.flags, f'-DOF_VARIANT="{variant.name}"']
    folder = OBJECTS / variant.name
    folder.mkdir(parents=True, exist_ok=True)
    headers = _headers()
    objects = {
        source: folder / f"{source.stem}-{_digest(made_by, flags, headers, source.read_bytes())[:20]}.o"
        for source in sources()
    }
    for old in set(folder.glob("*.o")) - set(objects.values()):
        old.unlink(missing_ok=True)
    begun = [
        pool.submit(_run, [*command, *flags, "-c", str(source)], made)
        for source, made in objects.items()
        if not made.is_file()
    ]

    def end() -> str | None:
        wrong = next((said for said in [job.result() for job in begun] if said is not None), None)
        if wrong is not None:
            return wrong
        linked = [*command, "-shared", *map(str, objects.values()), *(() if sys.platform == "darwin" else LINUX)]
        return _run(linked, target / object_name(variant.name))

    return end


def build(names: Sequence[str] = (), *, target: Path = TARGET, machine: str | None = None) -> dict[str, str | None]:
    """Compile every variant of this machine's kind, or the named ones; at once where nothing has changed since.

    Returns:
        Each variant, and ``cpu``, and what the compiler said if it failed; nothing at all where there is no compiler
        or no kernels for such a processor.
    """
    command, chosen = compiler(), variants(machine or platform.machine())
    if command is None or not chosen:
        return {}
    target.mkdir(parents=True, exist_ok=True)
    made_by = _version(command)
    now = _digest(command, made_by, Path(__file__).read_bytes(), _headers(), [p.read_bytes() for p in sources()])
    wanted = [v for v in chosen if not names or v.name in names]
    built = _built(target, now)
    if built is not None and all(v.name in built for v in wanted):
        return {name: wrong for name, wrong in built.items() if not names or name in names}
    (target / STAMP).unlink(missing_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ends = {v.name: _variant(command, v, target, made_by, pool) for v in wanted}
        said = {"cpu": _run([*command, *CPU, str(HERE / "cpu.c")], target / object_name("cpu"))}
        said |= {name: end() for name, end in ends.items()}
    for name, wrong in said.items():
        if wrong is not None:
            (target / object_name(name)).unlink(missing_ok=True)
    if not names:
        (target / STAMP).write_text(json.dumps({"digest": now, "said": said}))
    return said


def _built(target: Path, digest: str) -> dict[str, str | None] | None:
    """What the last build of the same sources and compiler said; None where there was none, or files are gone."""
    try:
        stamp = json.loads((target / STAMP).read_text())
        said: dict[str, str | None] = stamp["said"]
        there = all((target / object_name(name)).is_file() for name, wrong in said.items() if wrong is None)
        return said if stamp["digest"] == digest and there else None
    except (OSError, ValueError, KeyError):
        return None


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
