"""Time and memory of this process, and processes that keep its neighbours' cores busy."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .workloads import Clock


def now(clock: Clock) -> float:
    """Seconds on the wall's clock; or those that processors have worked for this process, all its threads together.

    The latter are the same on a busy machine as on a quiet one, but for what strangers do to caches and memory.
    """
    return time.perf_counter() if clock == "wall" else time.process_time()


def peak_memory() -> float:
    """Most bytes of host memory that this process ever held, mapped files included; on Linux."""
    return _status("VmHWM:")


def resident_memory() -> float:
    """Bytes of host memory that this process holds now, mapped files included; on Linux."""
    return _status("VmRSS:")


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return 1024.0 * int(line.split()[1])
    return float("nan")


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that do nothing but keep a core busy, with an ordinary priority, for as long as this lasts."""
    busy = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
        for process in busy:
            process.wait()
