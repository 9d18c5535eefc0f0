"""Results on their way into a database."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol, cast

from omniform.bench.results import Result
from omniform.core.errors import StoreError


class Storing(Protocol):
    """Keeps results; :class:`omniform.bench.store.store.Store` is one."""

    def begin(self, result: Result) -> object:
        """A result is begun: should its process die, it is known that it was."""

    def finish(self, result: Result) -> object:
        """A result has ended."""


@dataclass(slots=True)
class Keeping:
    """A listener of :class:`~omniform.bench.benchmark.Benchmark` that keeps what it hears.

    Attributes:
        store: where.
        lost: results that it refused, such as for want of room: one that was measured is not thrown away for that,
            and others go on.
        error: why, the last time.
    """

    store: Storing
    lost: list[Result] = field(default_factory=list)
    error: StoreError | None = None

    def __call__(self, result: Result) -> None:
        if result.status == "running":
            self.store.begin(result)
        else:
            self._finish(result)

    def again(self) -> None:
        """Try once more what was refused: a server may be back."""
        lost, self.lost = self.lost, []
        for one in lost:
            self._finish(one)

    def _finish(self, result: Result) -> None:
        try:
            self.store.finish(result)
        except StoreError as error:
            self.error = error
            self.lost.append(result)


def storage(url: str) -> Keeping:
    """What keeps results in a database.

    Raises:
        OmniformError: it cannot be opened.
    """
    opened = import_module("omniform.bench.store.store").Store.open(url)
    return Keeping(cast("Storing", opened))
