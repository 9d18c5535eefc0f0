"""Which files a vocabulary was read from, so that they can be saved as they were."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from omniform.inputs.text.recipes import Recipe
from omniform.inputs.text.settings import LARGEST_FILE

Sources = dict[str, tuple[str, str]]
"""Files by their names in a folder: where each is, and the digest of what it held."""


def vocabulary_names(recipe: Recipe, files: Mapping[str, Path]) -> list[str]:
    """The files among these that a tokenizer's vocabulary is read from where there is no ``tokenizer.json``."""
    for name in ("tekken.json", "tiktoken.model"):
        if name in files:
            return [name]
    if recipe.script is not None or not recipe.files:
        return []
    present = [name for name in recipe.files if name in files]
    if recipe.files[0].endswith(".model"):
        return present[:1]
    if len(present) == len(recipe.files):
        return present
    from_merges = recipe.steps is not None and recipe.steps.from_merges is not None
    return ["merges.txt"] if from_merges and "merges.txt" in files else []


def sources_of(recipe: Recipe, files: Mapping[str, Path]) -> Sources:
    """The vocabulary's files as they are now; none of them where one cannot be read."""
    sources: Sources = {}
    for name in vocabulary_names(recipe, files):
        content = _read(files[name])
        if content is None:
            return {}
        sources[name] = (os.path.abspath(files[name]), _digest(content))
    return sources


def contents_of(sources: Sources) -> dict[str, bytes] | None:
    """What the files hold, or ``None`` where one of them is gone or no longer what it was."""
    contents = {}
    for name, (path, digest) in sources.items():
        content = _read(Path(path))
        if content is None or _digest(content) != digest:
            return None
        contents[name] = content
    return contents


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.stat().st_size <= LARGEST_FILE else None
    except OSError:
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
