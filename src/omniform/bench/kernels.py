"""The native kernels of a commit: those that this processor runs, compiled once for all commits that share them.

A build hook compiles every variant there is, which takes minutes, and a measurement runs one. Any commit's
``native/build.py`` compiles a variant by its name, and any commit's hook compiles none where ``CXX`` is ``false``:
so the variant is compiled apart, and laid into what was installed. Kernels are kept by git's own hash of ``native/``,
so that a commit that changes no kernel compiles nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from omniform.bench.building import BuildError, Building
from omniform.native.cpu import NEEDS, Cpu, features

LIB: Final = Path("omniform", "native", "lib")
"""Where kernels lie in what is installed."""

NO_COMPILER: Final[Mapping[str, str]] = {"CXX": "false"}
"""What a build hook takes for the lack of a compiler."""

CHECK: Final = (
    "import sys, warnings\n"
    "warnings.simplefilter('ignore')\n"
    "from omniform.native.library import library, why_not\n"
    "found = library()\n"
    "sys.exit(None if found is not None else why_not())\n"
)


def fitting(forced: str = "") -> tuple[str, ...]:
    """The variants that are needed here: the best that this processor runs, and one that is asked for by name.

    None where this omniform has no kernels and so cannot ask the processor.

    Args:
        forced: of ``OMNIFORM_CPU``.
    """
    try:
        able = features()
    except OSError:
        able = Cpu(0)
    best = next((name for name, needs in NEEDS.items() if able and needs & able == needs), None)
    return tuple(dict.fromkeys(name for name in (best, forced) if name in NEEDS))


def kernels(
    source: Path, tree: str, variants: tuple[str, ...], kept: Path, building: Building, say: Callable[[str], object]
) -> Path | None:
    """A folder with the compiled variants of a checkout; None where it has none, or none that compiles.

    Args:
        source: the checkout.
        tree: git's hash of its ``native/``.
        variants: names.
        kept: where they are kept, by what they are made of.
        building: runs what compiles.
        say: told what is going on.

    Raises:
        OSError: they cannot be kept.
    """
    script = source / "native" / "build.py"
    if not variants or not tree or not script.is_file() or not (source / "src" / "omniform" / "native").is_dir():
        return None
    compiler = os.environ.get("CXX", "")
    mark = hashlib.sha256("\n".join([tree, compiler, *variants]).encode()).hexdigest()[:24]
    folder = kept / mark
    if folder.is_dir():
        return folder
    say(f"compiling kernels ({', '.join(variants)})")
    try:
        building.run([sys.executable, str(script), *variants])
    except BuildError:
        return None  # the hook says what does not compile, and leaves it out
    made = source / "src" / LIB
    if not all(any(made.glob(f"omniform_{name}.*")) for name in (*variants, "cpu")):
        return None
    kept.mkdir(parents=True, exist_ok=True)
    unfinished = kept / f"{mark}.{os.getpid()}"
    try:
        unfinished.mkdir()
        for file in made.glob("omniform_*.*"):
            shutil.copyfile(file, unfinished / file.name)
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def lay(folder: Path, packages: Path) -> None:
    """Put kernels where what is installed looks for them."""
    target = packages / LIB
    target.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        shutil.copyfile(file, target / file.name)
