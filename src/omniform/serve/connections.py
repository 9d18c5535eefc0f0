"""Connections of HTTP that wait for nobody's heads for ever, and say in the API's words what no HTTP is."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from omniform.serve.bounds import ABORT
from omniform.serve.errors import APIError

HEAD_SECONDS: Final = 20.0
"""In which the head of a request must have come, from its first byte or the connection's beginning on."""

MOST: Final = 4096
"""Connections at once."""

HEAD_BYTES: Final = 64 << 10
"""Of a request's head at most."""


class Connection(H11Protocol):
    """A connection of a client.

    uvicorn waits for a body as long as the application does, but for a head for ever.
    """

    head_seconds = HEAD_SECONDS
    _idle_since = 0.0
    _late: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, most: int = MOST, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most = most

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        if len(self.connections) > self._most and not self._make_room():
            self._refuse(
                APIError(503, "too many connections", code="too_many_connections", headers={"Retry-After": "5"})
            )
            return
        self.app_state = {**self.app_state, ABORT: transport.abort}
        self._expect()

    def data_received(self, data: bytes) -> None:
        """A client has said something."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._expect()
        else:
            self._calm()

    def connection_lost(self, exc: Exception | None) -> None:
        """A client has gone."""
        self._calm()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """An answer is whole; what comes next has uvicorn's patience until it begins, and then ours."""
        super().on_response_complete()
        self._idle_since = self.loop.time()

    def _make_room(self) -> bool:
        """Close the connection of those that ask nothing which has done so for the longest; whether there is one."""
        idle = (one for one in self.connections if isinstance(one, Connection) and one is not self and one.idle)
        longest = min(idle, key=lambda one: one._idle_since, default=None)
        if longest is not None:
            self.connections.discard(longest)
            longest.transport.abort()
        return longest is not None

    @property
    def idle(self) -> bool:
        """Whether nothing is asked on it, or not yet."""
        return self.cycle is None or self.cycle.response_complete

    def _expect(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self.head_seconds, self._give_up)

    def _calm(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if not self.transport.is_closing():
            self._refuse(APIError(408, "the head of the request did not come in time", code="request_timeout"))

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        status = getattr(sys.exc_info()[1], "error_status_hint", 400)
        self._calm()
        self._refuse(APIError(status if status in (400, 414, 431, 501) else 400, msg, code="invalid_http"))

    def _refuse(self, error: APIError) -> None:
        body = json.dumps(error.body()).encode()
        more = [(name.encode(), value.encode()) for name, value in error.headers.items()]
        headers = [*more, (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
                   (b"connection", b"close")]  # fmt: skip
        try:
            for event in (
                h11.Response(status_code=error.status, headers=headers), h11.Data(data=body), h11.EndOfMessage()
            ):  # fmt: skip
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # in the midst of an answer there is nothing to be said
            self.transport.abort()
            return
        self.transport.close()
