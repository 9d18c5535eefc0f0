"""Who may come in: the door's keeper, who asks for keys and counts what each of them does."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omniform.serve.accounts import account_of, noted
from omniform.serve.desk import Desk
from omniform.serve.errors import APIError
from omniform.serve.keys import Key

OPEN: Final = frozenset({"/", "/health", "/ready", "/docs", "/openapi.json", "/favicon.ico"})
"""Addresses that need no key: they do not compute, and say nothing of anybody."""

OPEN_BELOW: Final = ("/page/", "/static/")
"""Beginnings of such addresses: the page's own files, which ask for a key themselves."""


class Keeper:
    """Asks for keys, where there are any, and refuses what a key may not, or not yet.

    Args:
        app: what answers.
        desk: the server's state.
    """

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self._app, self._desk = app, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or say why not."""
        if scope["type"] != "http" or is_open(scope):
            await self._app(scope, receive, send)
            return
        try:
            key = self._asked(scope)
            pace = None if key is None else self._desk.keys.pace(key)
            if key is None or pace is None or scope["method"] in ("GET", "HEAD") or is_admins(scope):
                pace = None
            else:
                pace.enter(key)
        except APIError as error:
            await noted(scope, error).response()(scope, receive, send)
            return
        if pace is None:
            await self._app(scope, receive, send)
            return
        account = account_of(scope)
        if account is not None:
            account.over.append(pace.charge)

        leaves = contextlib.ExitStack()
        leaves.callback(pace.leave)

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(pace.headers())
            elif not message.get("more_body", False):
                leaves.close()  # before the client can know: it may ask the next at once
            await send(message)

        with leaves:
            await self._app(scope, receive, tell)

    def _asked(self, scope: Scope) -> Key | None:
        keys = self._desk.keys
        if not keys.asked:
            if is_admins(scope) and scope["method"] != "GET" and not _is_near(scope):
                raise APIError(403, "only this machine may do this, or a key marked admin", code="not_allowed")
            return None
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, secret = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        found = keys.find(secret.strip()) if kind.lower() == b"bearer" else None
        if found is None:
            said = "this API key is not known here" if given else "an API key is needed: Authorization: Bearer KEY"
            raise APIError(401, said, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        scope["omniform.key"] = found.name
        scope["omniform.priority"] = found.priority
        account = account_of(scope)
        if account is not None:
            account.key = found.name
        if is_admins(scope) and not found.admin:
            raise APIError(403, "this API key may not do this", code="not_allowed")
        return found


def is_open(scope: Scope) -> bool:
    """Whether a request needs no key."""
    path = scope["path"]
    return path in OPEN or (path.startswith(OPEN_BELOW) and ".." not in path)


def is_admins(scope: Scope) -> bool:
    """Whether a request is for those who run the server."""
    path = scope["path"]
    return path == "/metrics" or (path.startswith("/v1/models/") and scope["method"] not in ("GET", "HEAD"))


def _is_near(scope: Scope) -> bool:
    """Whether a request comes from this machine, and from no page of elsewhere."""
    if any(name == b"origin" for name, _ in scope["headers"]):
        return False
    client = scope.get("client")
    if client is None:  # a unix socket
        return True
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return not client[0]
