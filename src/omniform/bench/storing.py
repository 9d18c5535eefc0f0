"""Results on their way into a database."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

from omniform.bench.results import Result


class Storing(Protocol):
    """Keeps results; :class:`omniform.bench.store.store.Store` is one."""

    def begin(self, result: Result) -> object:
        """A result is begun: should its process die, it is known that it was."""

    def finish(self, result: Result) -> object:
        """A result has ended."""


def storage(url: str) -> list[Callable[[Result], object]]:
    """What keeps results in a database.

    Raises:
        OmniformError: it cannot be opened.
    """
    opened = import_module("omniform.bench.store.store").Store.open(url)
    return [keeping(cast("Storing", opened))]


def keeping(store: Storing) -> Callable[[Result], object]:
    """A listener of :class:`~omniform.bench.benchmark.Benchmark` that keeps what it hears."""

    def hears(result: Result) -> object:
        return store.begin(result) if result.status == "running" else store.finish(result)

    return hears
