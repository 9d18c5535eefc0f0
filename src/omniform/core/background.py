"""Threads that work beside the caller and are ended, not killed, when the interpreter ends.

A daemon thread that comes back from native code while the interpreter goes down is unwound by force, which the C++
under torch answers with ``std::terminate``: an abort in place of the program's exit code. A plain thread would instead
hold the program until its work is done. These threads are asked to stop, and waited for.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable

_STARTED: weakref.WeakSet[Background] = weakref.WeakSet()


class Background(threading.Thread):
    """A thread that is started at once, and stopped when the interpreter ends.

    Args:
        work: what runs in the thread.
        stop: called in another thread, once; it makes ``work`` come to its end soon.
    """

    def __init__(self, work: Callable[[], None], stop: Callable[[], None], name: str) -> None:
        super().__init__(target=work, name=name, daemon=True)
        self._ask_to_stop = stop
        _STARTED.add(self)
        self.start()

    def end(self) -> None:
        """Ask the work to stop and wait until it has. In a forked process, which has no such thread, does nothing."""
        if self.is_alive():
            self._ask_to_stop()
            self.join()


@atexit.register
def _end_all() -> None:
    for thread in list(_STARTED):
        thread.end()
