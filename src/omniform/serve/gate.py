"""Who may ask now: so many requests at once, the others in turn by key, and no more waiting than there is patience."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator

from omniform.serve.errors import APIError


class Gate:
    """Lets requests in, as many as may run at once; those that wait are taken in turn, one of every key.

    Args:
        running: how many run at once.
        waiting: how many may wait.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._most, self._patience = running, waiting
        self.running = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self.closed = False
        self.refused = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(line) for line in self._waiting.values())

    @contextlib.asynccontextmanager
    async def enter(self, key: str) -> AsyncIterator[None]:
        """Wait for one's turn, and keep one's place until the block ends.

        Args:
            key: whose request it is.

        Raises:
            APIError: too many wait already, or the server is about to end.
        """
        await self._wait(key)
        try:
            yield
        finally:
            self.running -= 1
            self._admit()

    async def _wait(self, key: str) -> None:
        if self.closed:
            self.refused += 1
            raise APIError(503, "the server is about to end", code="shutting_down", headers={"Retry-After": "10"})
        if self.running < self._most and not self._waiting:
            self.running += 1
            return
        if self.waiting >= self._patience:
            self.refused += 1
            raise APIError(429, "too many requests are waiting", code="queue_full", headers={"Retry-After": "1"})
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn had come: somebody else takes it
                self.running -= 1
                self._admit()
            else:
                self._forget(key, turn)
            raise

    def _admit(self) -> None:
        while self._waiting and self.running < self._most:
            key, line = next(iter(self._waiting.items()))
            turn = line.popleft()
            # Whoever had a turn goes to the end of the round.
            self._waiting.move_to_end(key)
            if not line:
                del self._waiting[key]
            if not turn.done():
                self.running += 1
                turn.set_result(None)

    def _forget(self, key: str, turn: asyncio.Future[None]) -> None:
        line = self._waiting.get(key)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._waiting[key]
