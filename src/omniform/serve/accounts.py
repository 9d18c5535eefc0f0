"""One account a request: its id, what it asked for and what it cost; for the log, the metrics and its key."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omniform.engine.handle import Handle
from omniform.serve.errors import APIError, api_error

if TYPE_CHECKING:
    from omniform.serve.desk import Desk

log = logging.getLogger("omniform.serve")
access = logging.getLogger("omniform.serve.access")

GONE: Final = 499
"""What the log says of a request whose client went away before it was answered; nobody is sent it."""

_IDENT = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ELSEWHERE: Final = "other"
SHOWN: Final = 16 << 10
"""Bytes of a request that the log shows, where it shows any."""


@dataclass(slots=True, eq=False)
class Account:
    """What a request was and cost.

    Attributes:
        ident: its id: the client's, or made here.
        method: of HTTP.
        began: when its head came, in seconds of ``time.perf_counter``.
        key: the name of its key.
        door: the address that it came to, as it is written in the routes.
        model: the model that it named.
        status: of its answer; 0 before.
        reason: why it was refused, for a program.
        fetched: bytes that were fetched for it.
        handles: of what engines do for it.
        spent: tokens that were read for it by no engine of this process.
        elsewhere: what another process says of it, which has answered.
        closed: whether it is in the log.
        over: called with the tokens of whatever was done for it.
        body: the beginning of what was asked, where the log is to show it.
    """

    ident: str
    method: str
    began: float
    key: str | None = None
    door: str = _ELSEWHERE
    model: str | None = None
    status: int = 0
    reason: str | None = None
    fetched: int = 0
    handles: list[Handle] = field(default_factory=list)
    spent: int = 0
    elsewhere: Mapping[str, object] = field(default_factory=dict)
    closed: bool = False
    over: list[Callable[[int], None]] = field(default_factory=list)
    body: bytearray | None = None

    def told(self) -> dict[str, object]:
        """A line of the log, without anybody's words."""
        whole = [one.completion for one in self.handles if one.completion is not None]
        firsts = [one.times.first for one in self.handles if one.times.first is not None]
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z",
            "id": self.ident,
            "key": self.key,
            "method": self.method,
            "door": self.door,
            "model": self.model,
            "status": self.status,
            "reason": self.reason,
            "seconds": round(time.perf_counter() - self.began, 6),
            "first_token_seconds": round(min(firsts) - self.began, 6) if firsts else None,
            "prompt_tokens": sum(one.prompt_tokens for one in whole) + self.spent,
            "cached_tokens": sum(one.cached_tokens for one in whole),
            # An answer that was given up is counted as far as it had come.
            "generated_tokens": sum(
                one.times.tokens if one.completion is None else sum(len(s.tokens) for s in one.completion.sequences)
                for one in self.handles
            ),
        }
        line |= self.elsewhere
        if self.body is not None:
            line["request"] = self.body.decode("utf-8", "replace")
        return line


CURRENT: ContextVar[Account | None] = ContextVar("account", default=None)
"""The account of the request that is being answered; threads that work for it see it, too."""


class Watch:
    """Opens an account for every request, and closes it; what fails within is told in the words of the API.

    Args:
        app: what answers.
        desk: the server's state.
    """

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self._app, self._desk = app, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        account = opened(scope)
        if self._desk.config.log_prompts:
            account.body = bytearray()

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                account.status = account.status or message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = account.ident
                headers["openai-processing-ms"] = str(round((time.perf_counter() - account.began) * 1000))
            await send(message)

        held = CURRENT.set(account)
        try:
            await self._app(scope, receive, tell)
        except Exception as error:
            if account.status:  # too late to say what it was: an answer that breaks off must not look whole
                account.reason = api_error(error).code
                raise
            refused = api_error(error)
            account.reason = refused.code
            await refused.response()(scope, receive, tell)
        finally:
            CURRENT.reset(held)
            self._close(account, scope)

    def _close(self, account: Account, scope: Scope) -> None:
        account.closed = True
        account.door = str(getattr(scope.get("route"), "path", account.elsewhere.get("door", _ELSEWHERE)))
        metrics = self._desk.metrics
        metrics.over(account.door, account.status, account.reason, time.perf_counter() - account.began)
        model = account.model or _ELSEWHERE
        for handle in account.handles:
            handle.add_done_callback(lambda one: metrics.written_by(model, one, account.began))
            for call in account.over:
                handle.add_done_callback(lambda one, call=call: call(_cost(one)))  # type: ignore[misc]
        for call in account.over:
            call(account.spent)
        access.info("%s", json.dumps(account.told(), ensure_ascii=False, separators=(",", ":")))


def opened(scope: Scope) -> Account:
    """A request's account; it lies in ``scope["omniform.account"]``."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
    ident = given if _IDENT.fullmatch(given) else f"req_{uuid.uuid4().hex}"
    account = Account(ident, scope["method"][:20], time.perf_counter())
    scope["omniform.account"] = account
    return account


def account_of(scope: Scope) -> Account | None:
    """A request's account, where somebody opened one."""
    found = scope.get("omniform.account")
    return found if isinstance(found, Account) else None


def follow(handle: Handle) -> None:
    """Put what an engine does down to the account of the request that is being answered."""
    account = CURRENT.get()
    if account is not None:
        account.handles.append(handle)


def spent(tokens: int) -> None:
    """Put tokens that were read without an engine down to the account of the request that is being answered."""
    account = CURRENT.get()
    if account is not None:
        account.spent += tokens


def refused_with(reason: str | None) -> None:
    """Say in the account of the request that is being answered why its answer is not what was asked for."""
    account = CURRENT.get()
    if account is not None:
        account.reason = reason


def noted(scope: Scope, error: APIError) -> APIError:
    """Say in a request's account why it was refused."""
    account = account_of(scope)
    if account is not None:
        account.reason = error.code
    return error


def _cost(handle: Handle) -> int:
    whole = handle.completion
    if whole is None:
        return handle.times.tokens
    return whole.prompt_tokens + sum(len(one.tokens) for one in whole.sequences)
