"""The checkpoints that come with the package: a small LLaVA that answers questions about drawn scenes, and others."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from omniform.core.errors import RepoError

ASSETS = Path(str(files("omniform") / "assets"))
"""Where the checkpoints lie that come with the package."""


def bundled_checkpoints() -> list[Path]:
    """The folders of all checkpoints that come with the package, the one that answers questions first."""
    found = sorted(path.parent for path in ASSETS.glob("*/config.json"))
    return sorted(found, key=lambda folder: folder.name != "scenes-llava")


def bundled_checkpoint() -> Path:
    """Its folder.

    Raises:
        RepoError: the package was installed without it.
    """
    folder = ASSETS / "scenes-llava"
    if not (folder / "config.json").is_file():
        raise RepoError("the bundled checkpoint is missing", where=str(folder), remedy="Pass --model.")
    return folder
