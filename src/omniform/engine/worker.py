"""The thread in the background that steps for an engine as long as there is work."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Final

from omniform.core.background import Background

LINGERS: Final = 5.0
"""Seconds that a thread without work waits for more. One that had to be started for every request would cost it
milliseconds: of the start, and of the threads that OpenMP gives to every thread that computes."""


class Worker:
    """Starts a thread when there is work, which ends some seconds after there is none.

    While it waits, the thread keeps nothing alive of those who have it work.

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
        self._closing = False
        self._bell = threading.Condition()
        self._thread: Background | None = None
        self._last = self._at_its_end()
        _ALL.add(self)

    def forked(self) -> None:
        """Have no thread any more, in a process that was forked: there is none there to give back what it holds."""
        self._last.detach()
        self._bell, self._thread = threading.Condition(), None
        self._last = self._at_its_end()

    def _at_its_end(self) -> weakref.finalize[[threading.Condition], Worker]:
        last = weakref.finalize(self, _ring, self._bell)
        last.atexit = False
        return last

    def wake(self) -> None:
        """Have a thread work, if there is work."""
        with self._bell:
            if not self._has_work():
                return
            if self._thread is not None:
                self._bell.notify()
                return
            own = weakref.ref(self)
            self._thread = Background(partial(_work, own, self._bell), partial(_give_up, own), "omniform-engine")

    def stop(self) -> None:
        """Wait for the thread to end after its present step."""
        with self._bell:
            thread, self._closing = self._thread, True
            self._bell.notify()
        if thread is not None:
            thread.join()

    def go_on(self) -> None:
        """Work again after a stop, if there is work."""
        self._closing = False
        self.wake()

    def turn(self) -> None:
        """Do some of the work; what it raises goes to those who wait for it."""
        try:
            self._step()
        except BaseException as error:  # a bug of ours must not leave anybody waiting for ever
            self._abandon(error)

    def goes_on(self) -> bool:
        """Whether there is more to do for now."""
        return not self._closing and self._has_work()

    def ends(self, *, idle: bool) -> bool:
        """Whether the thread is to end now, which is then forgotten: whoever submits later starts another."""
        if self._closing or (idle and not self._has_work()):
            self._thread = None
            return True
        return False

    def give_up(self) -> None:
        """Give up what is left."""
        self._close()


def _work(own: weakref.ref[Worker], bell: threading.Condition) -> None:
    """Step until nothing is left, and for some time be there for more."""
    while (worker := own()) is not None:
        worker.turn()
        with bell:
            if worker.goes_on():
                continue
            if worker.ends(idle=False):
                return
            del worker
            if own() is not None:
                bell.wait(LINGERS)
            if (worker := own()) is None or worker.ends(idle=True):
                return


def _give_up(own: weakref.ref[Worker]) -> None:
    if (worker := own()) is not None:
        worker.give_up()


def _ring(bell: threading.Condition) -> None:
    """Tell a thread that waits that nobody needs it any more."""
    with bell:
        bell.notify()


_ALL: weakref.WeakSet[Worker] = weakref.WeakSet()


def _forked() -> None:
    for worker in list(_ALL):
        worker.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
