"""What a contender's process is told to do. Like all of its modules, this one needs nothing but Python."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Clock = Literal["wall", "cpu"]


class RefusedError(Exception):
    """What a contender cannot do, in a sentence."""


def die_with_parent() -> None:
    """On Linux, be killed when whoever started this process is gone."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@dataclass(slots=True, kw_only=True)
class Job:
    """A contender's work.

    Attributes:
        scenario: its parameters by name, ``kind`` among them.
        backend: its options by name, ``kind`` among them.
        model: a folder, a file, or a Hub id.
        threads: that may compute.
        clock: what a second is: one on the wall, or one that a processor worked for the process.
        sources: files of scenarios of one's own.
    """

    scenario: Mapping[str, Any]
    backend: Mapping[str, Any]
    model: str
    threads: int = 1
    clock: Clock = "wall"
    sources: list[str] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def now(self) -> float:
        """Seconds by the job's clock."""
        return time.perf_counter() if self.clock == "wall" else time.process_time()
