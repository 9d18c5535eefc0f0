"""Answers that come piece by piece, as server-sent events."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from omniform.serve.accounts import refused_with
from omniform.serve.errors import api_error

_written = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Events = AsyncIterator[Mapping[str, object]]
"""What a stream tells, event after event."""


def sent(events: Events, stack: contextlib.AsyncExitStack, headers: Mapping[str, str]) -> StreamingResponse:
    """Events as an answer.

    Args:
        stack: what the events need; left when they end, or when the client is gone.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    async def lines() -> AsyncGenerator[bytes, None]:
        try:
            async for event in events:
                yield event_of(event)
        except Exception as error:  # the status is sent: what goes wrong now is told in the stream
            told = api_error(error)
            refused_with(told.code)
            yield event_of(told.body())
        yield b"data: [DONE]\n\n"

    return Stream(lines(), stack, {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers})


class Stream(StreamingResponse):
    """Events on their way to a client.

    Args:
        lines: the events.
        stack: what they need; left when the last is sent, and also when none is: nobody else knows that the client went
            away before the first.
        headers: of the answer.
    """

    def __init__(
        self, lines: AsyncGenerator[bytes, None], stack: contextlib.AsyncExitStack, headers: Mapping[str, str]
    ) -> None:
        super().__init__(lines, media_type="text/event-stream", headers=headers)
        self._lines, self._stack = lines, stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        async with self._stack:
            try:
                await super().__call__(scope, receive, send)
            finally:
                await self._lines.aclose()


def event_of(told: Mapping[str, object]) -> bytes:
    """One event."""
    kind = told.get("type")
    head = f"event: {kind}\n".encode() if isinstance(kind, str) else b""  # what is told in typed events names them
    return head + b"data: " + _written(told).encode("utf-8", "replace") + b"\n\n"
