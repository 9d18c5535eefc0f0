"""What the Hub's cache on this machine holds: checkpoints that load without a download."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants

from omniform.architectures.family import Task
from omniform.core.errors import OmniformError
from omniform.hub.checkpoint import saved_class
from omniform.hub.files import locate, read_json
from omniform.hub.weights import find_weights
from omniform.models import registry

MOST = 200
"""So many repositories of a cache are looked at."""


def cached_for(tasks: set[str], cache_dir: str | None = None) -> list[str]:
    """The names of cached checkpoints whose architecture does one of these tasks, and whose weights are there."""
    return [name for name, does in cached_checkpoints(cache_dir) if tasks & {*does}]


def cached_checkpoints(cache_dir: str | None = None) -> Iterator[tuple[str, tuple[Task, ...]]]:
    """Every cached checkpoint of a known family: its Hub id, and what the architecture it was saved as does."""
    folder = Path(constants.HF_HUB_CACHE if cache_dir is None else cache_dir)
    repositories = sorted(folder.glob("models--*--*"))[:MOST] if folder.is_dir() else []
    for repository in repositories:
        for snapshot in sorted((repository / "snapshots").glob("*"), reverse=True):
            does = _does(snapshot)
            if does:
                yield repository.name.removeprefix("models--").replace("--", "/"), does
                break


def _does(snapshot: Path) -> tuple[Task, ...]:
    """What a folder's architecture does; nothing where it cannot be loaded as it is."""
    try:
        if not (snapshot / "config.json").is_file():
            return ()
        config = registry.config_of(read_json(snapshot / "config.json"))
        find_weights(locate(snapshot))
        name = saved_class(config).__name__
        return registry.family(config.model_type).architectures[name].tasks
    except (OmniformError, OSError):
        return ()
