"""Makes ``folders`` importable, and keeps each tiny checkpoint for all tests of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """Plain checkpoints by name, made when they are asked for."""
    import folders

    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = folders.checkpoint(tmp_path_factory.mktemp("plain") / name, name)
        return made[name]

    return make
