"""How long and how large a request may be, and that nothing is computed for those who are gone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final, cast

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omniform.serve.accounts import GONE, SHOWN, account_of, noted
from omniform.serve.config import Limits
from omniform.serve.desk import Desk
from omniform.serve.errors import APIError
from omniform.serve.streams import event_of

DRAINED_BYTES: Final = 256 << 20
DRAINED_SECONDS: Final = 10.0
"""How much of what is not wanted is read, and for how long: a client that still writes does not see its answer."""

ABORT: Final = "omniform.abort"
"""Under this name a request's state holds what cuts its connection off."""


class GoneError(OSError):
    """The client reads no more."""


class Bounds:
    """Holds every request to the limits, whatever its door does.

    Args:
        app: what answers.
        desk: the server's state.
    """

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self._app, self._desk = app, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request within its limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limits = self._desk.config.limits
        line = Line(scope, receive, send, self._desk)
        try:
            check_head(scope, limits)
        except APIError as error:
            await noted(scope, error).response()(scope, line.receive, line.send)
            return
        await line.answered_by(self._app, limits.seconds)


class Line:
    """A request's way to its client and back.

    Args:
        scope: of the request.
        receive: what comes from the client.
        send: what goes to it.
        desk: the server's state.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, desk: Desk) -> None:
        self._scope, self._receive, self._send, self._desk = scope, receive, send, desk
        limits = self._limits = desk.config.limits
        self._most = limits.upload_bytes if _is_upload(scope) else limits.body_bytes
        self._until = time.monotonic() + limits.body_seconds
        self._size = 0
        self._whole = False
        self._gone = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._running: asyncio.Future[None] | None = None
        self._why: APIError | None = None
        self._begun = self._streams = self._ended = False
        self._refused: APIError | None = None
        self._since: float | None = None
        self._sender: asyncio.Task[object] | None = None
        self._looks: asyncio.TimerHandle | None = None
        self._stuck = False

    async def answered_by(self, app: ASGIApp, seconds: float) -> None:
        """Have an application answer, unless the client goes, or the time is over before."""
        loop = asyncio.get_running_loop()
        call = cast("Callable[[Scope, Receive, Send], asyncio.Future[None]]", app)
        running = self._running = asyncio.ensure_future(call(self._scope, self.receive, self.send))
        late = APIError(504, "the answer took longer than this server waits", code="timeout")
        timer = loop.call_later(seconds, self.end, late)
        self._desk.lines.add(self)
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError:  # by whoever serves: it ends
            running.cancel()
            await asyncio.wait({running})
            raise
        finally:
            timer.cancel()
            if self._looks is not None:
                self._looks.cancel()
                self._looks = None
            self._desk.lines.discard(self)
            self._desk.incoming -= self._size
            if self._watching is not None:
                self._watching.cancel()
        error = asyncio.CancelledError() if running.cancelled() else running.exception()
        if self._why is not None:
            await self._end(self._why)
        elif error is not None:
            raise error

    def end(self, why: APIError) -> None:
        """Stop what is computed, and tell the client why."""
        if self._why is None and self._running is not None and not self._running.done():
            self._why = why
            self._running.cancel()

    async def _end(self, why: APIError) -> None:
        noted(self._scope, why)
        account = account_of(self._scope)
        if why.status == GONE:
            if account is not None:
                account.status = account.status or GONE
            if not self._begun:  # nobody reads it, but whoever serves wants an answer to be begun
                with contextlib.suppress(OSError):
                    await why.response()(self._scope, self.receive, self._send)
                return
            self._cut()
        elif not self._begun:
            await why.response()(self._scope, self.receive, self.send)
        elif self._streams:
            await self.send({"type": "http.response.body", "body": event_of(why.body()), "more_body": False})
        else:
            self._cut()

    def _cut(self) -> None:
        """End the connection where it is: what is not whole must not look so."""
        abort = self._scope.get("state", {}).get(ABORT)
        if abort is not None:
            abort()

    # -- from the client -----------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """What comes next from the client.

        Raises:
            APIError: it is too much, or comes too slowly.
        """
        if self._whole:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout(self._until - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            raise self._refuse(
                APIError(408, "the request did not come whole in time", code="request_timeout")
            ) from None
        if message["type"] == "http.request":
            self._count(message.get("body", b""))
            if not message.get("more_body", False):
                self._whole = True
                self._watching = asyncio.create_task(self._watch())
        else:
            self._whole = True
            self._gone.set()
        return message

    def _count(self, piece: bytes) -> None:
        self._size += len(piece)
        self._desk.incoming += len(piece)
        if self._size > self._most:
            raise self._refuse(too_large(self._most))
        if self._desk.incoming > self._limits.incoming_bytes:
            raise self._refuse(
                APIError(
                    429, "too much is being sent to this server", code="too_much_at_once", headers={"Retry-After": "2"}
                )
            )
        account = account_of(self._scope)
        if account is not None and account.body is not None and len(account.body) < SHOWN:
            account.body += piece[: SHOWN - len(account.body)]

    def _refuse(self, error: APIError) -> APIError:
        self._refused = error
        return error

    async def _watch(self) -> None:
        """Stop what is computed when the client goes away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()
        if not self._ended:  # whoever serves says so too when an answer is whole
            self.end(APIError(GONE, "the client went away", code="client_closed_request"))

    # -- to the client -------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Send a piece of the answer.

        Raises:
            GoneError: the client does not take it.
        """
        if message["type"] == "http.response.start":
            self._begun = True
            headers = MutableHeaders(scope=message)
            self._streams = headers.get("content-type", "").startswith("text/event-stream")
            if not self._whole and self._has_body():
                headers["connection"] = "close"
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last and not self._whole and self._has_body():
            await self._sent({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        self._ended = self._ended or last
        await self._sent(message)

    async def _sent(self, message: Message) -> None:
        # One timer looks after all writes of an answer: one for each would cost more than the writes do.
        self._since, self._sender = time.monotonic(), asyncio.current_task()
        if self._looks is None:
            self._looks = asyncio.get_running_loop().call_later(self._limits.write_seconds, self._look)
        try:
            await self._send(message)
        except asyncio.CancelledError:
            if not self._stuck or self._sender is None:
                raise
            self._sender.uncancel()
        finally:
            self._since = None
        if self._stuck:
            raise GoneError("the client does not read its answer")

    def _look(self) -> None:
        """Give a client up that has not taken a piece for too long."""
        self._looks = None
        if self._since is None or self._sender is None:
            return  # the next write has it look again
        left = self._since + self._limits.write_seconds - time.monotonic()
        if left > 0:
            self._looks = asyncio.get_running_loop().call_later(left, self._look)
            return
        self._stuck = True
        if self._why is None:
            self._why = APIError(GONE, "the client does not read its answer", code="client_too_slow")
        self._cut()
        self._sender.cancel()

    def _has_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
            for name, value in self._scope["headers"]
        )

    async def _drain(self) -> None:
        """Read what is still sent, that the client may come to read."""
        left = DRAINED_BYTES
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(DRAINED_SECONDS):
                while left > 0:
                    message = await self._receive()
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        break
                    left -= len(message.get("body", b""))


def check_head(scope: Scope, limits: Limits) -> None:
    """Look at what is known before a body comes.

    Raises:
        APIError: there are too many headers, or the body is going to be too large.
    """
    headers = scope["headers"]
    if len(headers) > limits.headers or sum(len(name) + len(value) for name, value in headers) > limits.header_bytes:
        said = f"at most {limits.headers} headers of {limits.header_bytes} bytes together here"
        raise APIError(431, said, code="too_many_headers")
    names = {name for name, _ in headers}
    if b"content-length" in names and b"transfer-encoding" in names:  # whoever stands before us may read the other one
        raise APIError(400, "a request has one length", code="invalid_http", headers={"Connection": "close"})
    if len(scope.get("raw_path") or b"") + len(scope.get("query_string", b"")) > limits.address_bytes:
        raise APIError(414, f"an address has at most {limits.address_bytes} bytes here", code="address_too_long")
    most = limits.upload_bytes if _is_upload(scope) else limits.body_bytes
    told = next((value for name, value in headers if name == b"content-length"), b"")
    if told.isdigit() and int(told[:20]) > most:
        raise too_large(most)


def too_large(most: int) -> APIError:
    """What a client is told whose request is too large."""
    return APIError(413, f"the request is larger than {most} bytes", code="request_too_large")


def _is_upload(scope: Scope) -> bool:
    """Whether files come, rather than JSON."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return bool(
        kind.lower().startswith((b"multipart/form-data", b"audio/", b"video/", b"image/", b"application/octet"))
    )
