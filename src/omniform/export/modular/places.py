"""Where the modules lie that a modular file names, without importing any of them."""

from __future__ import annotations

import difflib
import importlib.util
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

KINDS: Final = (
    "modeling", "modular", "configuration", "processing", "image_processing", "video_processing", "feature_extraction",
    "tokenization", "generation",
)  # fmt: skip
"""What the names of a family's files begin with."""


@dataclass(frozen=True, slots=True)
class Place:
    """A module: its dotted name, where it has one, its file, where there is one to read, and whether it is there."""

    dotted: str | None
    path: Path | None
    there: bool = True


def module_of(path: Path) -> str | None:
    """The dotted name of a file in a package; None of one that is in none."""
    parts = [] if path.name == "__init__.py" else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts) if len(parts) > 1 or path.name == "__init__.py" else None


def installed(dotted: str) -> Place:
    """An installed module. No package of it is imported: only their folders are looked through."""
    top, *rest = dotted.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ValueError, ImportError):
        spec = None
    for index in range(len(rest)):
        if spec is None or spec.submodule_search_locations is None:
            return Place(dotted, None, there=False)
        spec = PathFinder.find_spec(
            ".".join([top, *rest[: index + 1]]), list(map(str, spec.submodule_search_locations))
        )
    if spec is None:
        return Place(dotted, None, there=False)
    origin = None if spec.origin is None else Path(spec.origin)
    return Place(dotted, origin if origin is not None and origin.suffix == ".py" and origin.is_file() else None)


def beside(folder: Path, parts: Sequence[str]) -> Path | None:
    """A module in a folder, given by the parts of its name."""
    if not parts:
        init = folder / "__init__.py"
        return init if init.is_file() else None
    inner = folder.joinpath(*parts)
    for path in (inner.with_name(f"{inner.name}.py"), inner / "__init__.py"):
        if path.is_file():
            return path
    return None


def relative(path: Path, level: int, dotted: str) -> Place:
    """What ``from <level dots><dotted> import`` means in a file.

    Where nothing lies there, two and three dots are read as in a model's folder of transformers
    (``..llama.modeling_llama``, ``...cache_utils``), which is how modular files are written.
    """
    folder = path.parent
    for _ in range(level - 1):
        folder = folder.parent
    found = beside(folder, dotted.split(".") if dotted else [])
    if found is not None and (level == 1 or folder != folder.parent):
        return Place(module_of(found), found)
    if level == 1:
        return Place(None, None, there=False)
    root = "transformers.models" if level == 2 else "transformers"
    return installed(f"{root}.{dotted}" if dotted else root)


def absolute(root: Path, dotted: str) -> Place:
    """What ``from dotted import`` means for a modular file in the folder ``root``: a file beside it comes first."""
    top, *_ = dotted.split(".")
    if top not in sys.stdlib_module_names and (found := beside(root, dotted.split("."))) is not None:
        return Place(module_of(found), found)
    return installed(dotted)


def like(place: Place) -> str | None:
    """The name of a module that is there and most like one that is not; None where none is like it."""
    parts = (place.dotted or "").split(".")
    for length in range(len(parts) - 1, 0, -1):
        above = installed(".".join(parts[:length]))
        if above.there and above.path is not None and above.path.name == "__init__.py":
            names = [each.stem for each in above.path.parent.iterdir() if each.is_dir() or each.suffix == ".py"]
            close = difflib.get_close_matches(parts[length], sorted(names), n=1, cutoff=0.6)
            return f"Did you mean {'.'.join([*parts[:length], *close, *parts[length + 1 :]])}?" if close else None
    return None


def is_family(place: Place, also: Sequence[str]) -> bool:
    """Whether classes of this module are written out in the result, rather than imported by it.

    Those are the families of transformers (its ``models`` but ``auto``) and of omniform (its ``models``), files that
    are no installed library, files of a library that are named as a family's are, and what ``also`` names.
    """
    dotted, path = place.dotted, place.path
    if path is None:
        return False
    name = dotted or path.stem
    if any(name == each or name.startswith(f"{each}.") for each in also):
        return True
    parts = name.split(".")
    if parts[0] in ("transformers", "omniform"):
        return parts[1:2] == ["models"] and len(parts) > 2 and parts[2] not in ("auto", "index", "registry")
    if parts[0] in sys.stdlib_module_names:
        return False
    return not _is_library(path) or path.stem in [f"{kind}_{path.parent.name}" for kind in KINDS]


def _is_library(path: Path) -> bool:
    return any(part in ("site-packages", "dist-packages") for part in path.parts) or any(
        Path(sysconfig.get_path(kind)).resolve() in path.resolve().parents for kind in ("stdlib", "platstdlib")
    )
