"""The pytest fixture: a fresh Hub for one test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loopback.hub import Hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A Hub on a free port, its folder the test's own; uploads in parts of 64 KiB. Its own mistakes fail the test."""
    with Hub(tmp_path / "loopback-hub", part=64 << 10) as found:
        yield found
    assert not found.trouble, "\n".join(found.trouble)
