"""The checkpoint that comes with the package: a small LLaVA that answers questions about drawn scenes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from omniform.core.errors import RepoError


def bundled_checkpoint() -> Path:
    """Its folder.

    Raises:
        RepoError: the package was installed without it.
    """
    folder = Path(str(files("omniform") / "assets" / "scenes-llava"))
    if not (folder / "config.json").is_file():
        raise RepoError("the bundled checkpoint is missing", where=str(folder), remedy="Pass --model.")
    return folder
