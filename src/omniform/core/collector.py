"""Python's garbage collector, paused where everything that is made is kept.

Importing modules and building models make many objects and no garbage. The collector counts objects: it would walk
through all of torch's, which takes a tenth of a second, to find nothing.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_pauses = 0
_was_on = False


@contextmanager
def paused() -> Iterator[None]:
    """Collect nothing meanwhile, in the whole process: for work that drops no cycles; in any thread, nested or not.

    Whoever turned the collector off finds it off afterwards.
    """
    global _pauses, _was_on
    with _lock:
        if not _pauses:
            _was_on = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _lock:
            _pauses -= 1
            if not _pauses and _was_on:
                gc.enable()
