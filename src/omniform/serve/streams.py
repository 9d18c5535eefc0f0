"""Answers that come piece by piece, as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping

from starlette.responses import StreamingResponse

from omniform.serve.errors import api_error

Events = AsyncIterator[Mapping[str, object]]
"""What a stream tells, event after event."""


def sent(
    events: Events, stack: contextlib.AsyncExitStack, headers: Mapping[str, str], seconds: float
) -> StreamingResponse:
    """Events as an answer.

    Args:
        stack: what the events need; left when they end, or when the client is gone.
        seconds: that they may take.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    async def lines() -> AsyncIterator[bytes]:
        async with stack:
            try:
                async with asyncio.timeout(seconds):
                    async for event in events:
                        yield event_of(event)
            except Exception as error:  # the status is sent: what goes wrong now is told in the stream
                yield event_of(api_error(error).body())
            yield b"data: [DONE]\n\n"

    return StreamingResponse(
        lines(),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers},
    )


def event_of(told: Mapping[str, object]) -> bytes:
    """One event."""
    return b"data: " + json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"
