"""Who wants to know of every file that a load reads: a lockfile's recorder, a frozen lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omniform.hub.files import Source

Watcher = Callable[["Source", str, Path | None], None]
"""Is told the source, the file's name below its subfolder, and where the file lies; None where it was only peeked into.

What it raises stops the load.
"""

_WATCHERS: list[Watcher] = []


def used(source: Source, filename: str, path: Path | None) -> None:
    """Tell whoever watches that a file is handed out; nobody does by default."""
    for watcher in _WATCHERS:
        watcher(source, filename, path)


def watch(watcher: Watcher) -> None:
    """Have every file told to ``watcher`` from here on."""
    _WATCHERS.append(watcher)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Have every file told to ``watcher`` for as long as this lasts, whichever thread asks for it."""
    _WATCHERS.append(watcher)
    try:
        yield
    finally:
        _WATCHERS.remove(watcher)
