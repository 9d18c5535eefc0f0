"""Who may ask now: so many requests at once, the others in turn by key, and no more waiting than there is patience."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from omniform.serve.errors import APIError

OLDEST: Final = 8
"""Every so many turns it is that of whoever has waited longest, so that no priority keeps anybody waiting for ever."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A request that waits.

    Attributes:
        rank: its key's priority before other keys.
        own: its own among the requests of its key.
        number: the how manieth that came.
        turn: is done when its turn has come.
    """

    rank: int
    own: int
    number: int
    turn: asyncio.Future[None]


class Gate:
    """Lets requests in, as many as may run at once.

    Those that wait are taken in turn, one of every key, the keys of a higher priority first. Where too many wait, the
    key that has most of them waiting loses its last one.

    Args:
        running: how many run at once.
        waiting: how many may wait.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._most, self._patience = running, waiting
        self.running = 0
        self._lines: OrderedDict[str, list[Waiting]] = OrderedDict()
        self._numbers = itertools.count()
        self._turns = 0
        self.closed = False
        self.refused = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(line) for line in self._lines.values())

    def close(self) -> None:
        """Let nobody in any more; those that wait are told so, that they may ask elsewhere."""
        self.closed = True
        for line in self._lines.values():
            for one in line:
                self._refuse(one, _ending())
        self._lines.clear()

    @contextlib.asynccontextmanager
    async def enter(self, key: str, rank: int = 0, own: int = 0) -> AsyncIterator[None]:
        """Wait for one's turn, and keep one's place until the block ends.

        Args:
            key: whose request it is.
            rank: the key's priority before other keys.
            own: the request's among those of its key.

        Raises:
            APIError: too many wait already, or the server is about to end.
        """
        await self._wait(key, rank, own)
        try:
            yield
        finally:
            self.running -= 1
            self._admit()

    async def _wait(self, key: str, rank: int, own: int) -> None:
        if self.closed:
            self.refused += 1
            raise _ending()
        if self.running < self._most and not self._lines:
            self.running += 1
            return
        if self.waiting >= self._patience:
            self._make_room(key)
        one = Waiting(rank, own, next(self._numbers), asyncio.get_running_loop().create_future())
        line = self._lines.setdefault(key, [])
        line.append(one)
        line.sort(key=lambda other: (-other.own, other.number))
        try:
            await one.turn
        except asyncio.CancelledError:
            if one.turn.done() and not one.turn.cancelled() and one.turn.exception() is None:
                self.running -= 1  # its turn had come: somebody else takes it
                self._admit()
            else:
                self._forget(key, one)
            raise

    def _make_room(self, key: str) -> None:
        """Send away the last one of the key with most waiting, be it the newcomer."""
        self.refused += 1
        full = APIError(429, "too many requests are waiting", code="queue_full", headers={"Retry-After": "1"})
        longest = max(self._lines, key=lambda name: len(self._lines[name]), default=key)
        if len(self._lines.get(longest, ())) <= len(self._lines.get(key, ())) + 1:
            raise full
        last = self._lines[longest][-1]
        self._forget(longest, last)
        self._refuse(last, full)

    def _refuse(self, one: Waiting, error: APIError) -> None:
        if not one.turn.done():
            one.turn.set_exception(error)

    def _admit(self) -> None:
        while self._lines and self.running < self._most:
            self._turns += 1
            names = list(self._lines)
            if self._turns % OLDEST:
                key = max(names, key=lambda name: self._lines[name][0].rank)  # the first of several
            else:
                key = min(names, key=lambda name: min(one.number for one in self._lines[name]))
            one = self._lines[key][0] if self._turns % OLDEST else min(self._lines[key], key=lambda w: w.number)
            # Whoever had a turn goes to the end of the round.
            self._lines.move_to_end(key)
            self._forget(key, one)
            if not one.turn.done():
                self.running += 1
                one.turn.set_result(None)

    def _forget(self, key: str, one: Waiting) -> None:
        line = self._lines.get(key)
        if line is not None and one in line:
            line.remove(one)
            if not line:
                del self._lines[key]


def _ending() -> APIError:
    return APIError(503, "the server is about to end", code="shutting_down", headers={"Retry-After": "10"})
