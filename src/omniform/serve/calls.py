"""Requests on their way to another process that answers them, and what is known of its answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, MutableMapping
from typing import Final, cast

from starlette.requests import Request

from omniform.serve.ray_routes import Call, beginning_of, goes_on
from omniform.serve.wire import body_of

Message = MutableMapping[str, object]
"""As ASGI has them."""

UNKNOWN: Final = ("response_not_found", "previous_response_not_found")
"""What a replica says that keeps no such response; another may."""

LONG: Final = 1 << 16
"""Bytes of a body beyond which it is read in a thread."""


async def call_of(request: Request, limit: int) -> Call:
    """A request with its body.

    Raises:
        APIError: it is too large, or did not come whole.
    """
    body = await body_of(request, limit)
    # Where the application has a route of its own, that is no part of the server's addresses.
    path = str(request.scope["path"]).removeprefix(str(request.scope.get("root_path", ""))) or "/"
    return Call(
        method=request.method,
        path=path,
        query=cast(bytes, request.scope.get("query_string", b"")),
        headers=tuple((bytes(name), bytes(value)) for name, value in request.scope["headers"]),
        body=body,
        client=request.client.host if request.client is not None else "",
        key=beginning_of(body) if len(body) < LONG else await asyncio.to_thread(beginning_of, body),
        kept=goes_on(path, body),
    )


def scope_of(call: Call) -> Message:
    """A request as ASGI has it."""
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http",
        "method": call.method, "path": call.path, "raw_path": call.path.encode(), "root_path": "",
        "query_string": call.query, "headers": [*call.headers], "client": (call.client, 0), "server": ("omniform", 80),
        "state": {},
    }  # fmt: skip


def headers_of(first: Message) -> Mapping[bytes, bytes]:
    """The headers with which an answer begins; of those that come several times the last."""
    return dict(cast("list[tuple[bytes, bytes]]", first["headers"]))


def is_stream(first: Message) -> bool:
    """Whether an answer is one of events."""
    return headers_of(first).get(b"content-type", b"").startswith(b"text/event-stream")


def is_unknown(first: Message, body: Message) -> bool:
    """Whether a replica says that it keeps no such response."""
    if first["status"] != 404:
        return False
    with contextlib.suppress(ValueError, TypeError, LookupError):
        code = json.loads(cast(bytes, body["body"]))["error"]["code"]
        return code in UNKNOWN
    return False
