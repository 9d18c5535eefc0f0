"""The thread in the background that steps for an engine as long as there is work."""

from __future__ import annotations

import threading
from collections.abc import Callable

from omniform.core.background import Background


class Worker:
    """Starts a thread when there is work, which ends when there is none.

    Args:
        step: does some of it.
        has_work: whether there is any.
        abandon: called with what ``step`` raised, for those who wait.
        close: gives everything up; asked when the interpreter ends.
    """

    def __init__(
        self,
        step: Callable[[], object],
        has_work: Callable[[], bool],
        abandon: Callable[[BaseException], None],
        close: Callable[[], None],
    ) -> None:
        self._step = step
        self._has_work = has_work
        self._abandon = abandon
        self._close = close
        self._lock = threading.Lock()
        self._thread: Background | None = None
        self._closing = False

    def wake(self) -> None:
        """Have a thread work, if there is work."""
        with self._lock:
            if self._thread is None and self._has_work():
                self._thread = Background(self._work, self._close, "omniform-engine")

    def stop(self) -> None:
        """Wait for the thread to end after its present step."""
        with self._lock:
            thread, self._closing = self._thread, True
        if thread is not None:
            thread.join()

    def go_on(self) -> None:
        """Work again after a stop, if there is work."""
        self._closing = False
        self.wake()

    def _work(self) -> None:
        """Step until nothing is left; whoever submits afterwards starts another thread."""
        while True:
            try:
                self._step()
            except BaseException as error:  # a bug of ours must not leave anybody waiting for ever
                self._abandon(error)
            with self._lock:
                if self._closing or not self._has_work():
                    self._thread = None
                    return
