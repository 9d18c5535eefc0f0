"""How far a job has come, on stderr: a bar at a terminal, else a line now and then."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final

EVERY: Final = 10.0
"""Seconds between two lines."""


class Progress:
    """Counts records and tokens of all workers.

    Args:
        records: how many there are.
        done: how many were done before.
    """

    def __init__(self, records: int, done: int) -> None:
        self.records, self.before = records, done
        self.done, self.tokens = done, 0
        self._lock = threading.Lock()
        self._started = time.monotonic()

    def count(self, records: int, tokens: int) -> None:
        """So many more. What is begun again is counted again, and no more than there is."""
        with self._lock:
            self.done = min(self.done + records, self.records)
            self.tokens += tokens

    def told(self) -> str:
        """Both in a line, how fast, and how long it may take yet."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = (self.done - self.before) / seconds
        left = f", {_clock((self.records - self.done) / rate)} left" if rate > 0 and self.done < self.records else ""
        tokens = f", {self.tokens / seconds:.0f} tokens/s" if self.tokens else ""
        return f"{self.done} of {self.records} records, {rate:.1f} records/s{tokens}{left}"

    def say(self, text: str) -> None:
        """A sentence beside it."""
        print(f"omniform: {text}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show it for as long as the block goes on."""
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,), daemon=True, name="progress")
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _watch(self, over: threading.Event) -> None:
        if sys.stderr.isatty():
            with contextlib.suppress(ImportError):
                self._bar(over)
                return
        while not over.wait(EVERY):
            self.say(self.told())

    def _bar(self, over: threading.Event) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = BarColumn(), TextColumn("{task.description}")
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            shown = bar.add_task(self.told(), total=self.records, completed=self.done)
            while not over.wait(0.25):
                bar.update(shown, completed=self.done, description=self.told())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
