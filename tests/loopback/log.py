"""What was asked of the Hub, request by request."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Asked:
    """One request and what became of it. ``sent`` and ``received``: bytes of the bodies, as they went over the wire."""

    method: str
    path: str
    host: str
    raw: str = ""
    range: str | None = None
    agent: str = ""
    token: str | None = None
    status: int = 0
    sent: int = 0
    received: int = 0
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        where = f" [{self.range}]" if self.range else ""
        return f"{self.method} {self.path}{where} -> {self.status}, {self.sent} bytes"


Match = str | Callable[[Asked], bool]


def matches(match: Match, asked: Asked) -> bool:
    """Whether a request is meant: by a function, a method, a pattern of paths (``*`` and ``?``), or method and pattern.

    ``"HEAD"``, ``"*/resolve/*/config.json"`` and ``"GET /cdn/*"`` are all matches.
    """
    if not isinstance(match, str):
        return match(asked)
    method, _, pattern = match.rpartition(" ")
    if not method and pattern.isalpha() and pattern.isupper():
        method, pattern = pattern, "*"
    return (not method or method == asked.method) and fnmatch.fnmatchcase(asked.path, pattern)


_ASIDE = ("/api/agent-harnesses", "/api/telemetry", "/v1/telemetry")


class Log:
    """The requests of a while, in their order. What the client asks for itself, once a day, stands in ``aside``."""

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.aside: list[Asked] = []
        self._lock = threading.Lock()
        self._watching: list[Log] = []

    def add(self, asked: Asked) -> None:
        with self._lock:
            if asked.path.startswith(_ASIDE):
                self.aside.append(asked)
                return
            self.requests.append(asked)
            for log in self._watching:
                log.requests.append(asked)

    def of(self, match: Match = "*") -> list[Asked]:
        return [asked for asked in list(self.requests) if matches(match, asked)]

    def count(self, match: Match = "*") -> int:
        return len(self.of(match))

    def sent(self, match: Match = "*") -> int:
        """Bytes of answers' bodies."""
        return sum(asked.sent for asked in self.of(match))

    def received(self, match: Match = "*") -> int:
        """Bytes of requests' bodies."""
        return sum(asked.received for asked in self.of(match))

    def paths(self, match: Match = "*") -> list[str]:
        return [asked.path for asked in self.of(match)]

    def clear(self) -> None:
        with self._lock:
            self.requests.clear()

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[Asked]:
        return iter(list(self.requests))

    def __str__(self) -> str:
        return "\n".join(str(asked) for asked in self.requests) or "no requests"

    @contextmanager
    def watch(self) -> Iterator[Log]:
        """A log of the requests of a block only."""
        log = Log()
        with self._lock:
            self._watching.append(log)
        try:
            yield log
        finally:
            with self._lock:
                self._watching = [other for other in self._watching if other is not log]
