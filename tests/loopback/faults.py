"""What goes wrong, on demand: ``hub.faults.add("GET /cdn/*", cut=1000, times=1)``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

from loopback.log import Asked, Match, matches


@dataclass(slots=True)
class Fault:
    """One fault, done to the first ``times`` requests that match (None: to all), after ``skip`` that it lets through.

    Args:
        status: answer with this status instead.
        code: the Hub's ``X-Error-Code`` of that answer.
        error: its text.
        headers: sent with the answer, whatever it is (``Retry-After``).
        cut: close the connection after so many bytes of the answer's body.
        drop: close it without any answer.
        cut_upload: close it after so many bytes of the request's body have come.
        delay: seconds to wait before answering.
        stall: (bytes, seconds): stop for so long after so many bytes of the answer's body.
        wrong: change the bytes of the answer's body, not their number.
        short: send a body that is so many bytes long and says so, as if the file were shorter.
        no_range: as a server that knows no ranges: all is sent.
        disk_full: what is uploaded finds no room on the Hub's disk.
        before, amid, after: called before the answer is made, after half of its body, and after all of it.
    """

    match: Match
    times: int | None = None
    skip: int = 0
    status: int | None = None
    code: str | None = None
    error: str = "made up for a test"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    drop: bool = False
    cut_upload: int | None = None
    delay: float = 0.0
    stall: tuple[int, float] | None = None
    wrong: bool = False
    short: int | None = None
    no_range: bool = False
    disk_full: bool = False
    before: Callable[[], object] | None = None
    amid: Callable[[], object] | None = None
    after: Callable[[], object] | None = None
    done: int = field(default=0, init=False)

    @property
    def over(self) -> bool:
        return self.times is not None and self.done >= self.times


class Wrongs(TypedDict, total=False):
    """The keywords of a ``Fault``."""

    times: int | None
    skip: int
    status: int | None
    code: str | None
    error: str
    headers: Mapping[str, str]
    cut: int | None
    drop: bool
    cut_upload: int | None
    delay: float
    stall: tuple[int, float] | None
    wrong: bool
    short: int | None
    no_range: bool
    disk_full: bool
    before: Callable[[], object] | None
    amid: Callable[[], object] | None
    after: Callable[[], object] | None


class Faults:
    """The faults that wait for their requests."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, match: Match, **wrong: Unpack[Wrongs]) -> Fault:
        """Let requests that match go wrong (see ``Fault``)."""
        fault = Fault(match, **wrong)
        with self._lock:
            self._waiting.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    def take(self, asked: Asked) -> list[Fault]:
        """The faults that this request meets."""
        met = []
        with self._lock:
            for fault in self._waiting:
                if fault.over or not matches(fault.match, asked):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.done += 1
                met.append(fault)
            self._waiting = [fault for fault in self._waiting if not fault.over]
        return met
