"""The checkpoints that come with the package: a small LLaVA that answers questions about drawn scenes, a small Whisper
that writes down spoken commands, and others."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from omniform.core.batch import Modality
from omniform.core.errors import RepoError

ASSETS = Path(str(files("omniform") / "assets"))
"""Where the checkpoints lie that come with the package."""

Use = Modality | Literal["search"]
"""What a checkpoint is asked about, or for."""

_DEFAULTS: Final[Mapping[Use, str]] = {
    "image": "scenes-llava",
    "audio": "commands-whisper",
    "search": "scenes-clip",
}


def bundled_checkpoints() -> list[Path]:
    """The folders of all checkpoints that come with the package, the one that answers questions first."""
    found = sorted(path.parent for path in ASSETS.glob("*/config.json"))
    return sorted(found, key=lambda folder: folder.name != "scenes-llava")


def bundled_checkpoint(modality: Use | None = None) -> Path:
    """The folder of the one that answers where nobody names a model.

    Args:
        modality: what it is asked about, or for: ``"audio"`` is written down, with ``"search"`` pictures are found by
            words, all else is answered in words.

    Raises:
        RepoError: the package was installed without it.
    """
    folder = ASSETS / _DEFAULTS.get(modality or "image", "scenes-llava")
    if not (folder / "config.json").is_file():
        raise RepoError("the bundled checkpoint is missing", where=str(folder), remedy="Pass --model.")
    return folder
