"""What the door does with requests: some it answers itself, the others go to a process behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import replace
from typing import Final, cast

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from omniform.serve.accounts import Account, account_of, noted, refused_with
from omniform.serve.bounds import ABORT
from omniform.serve.calls import UNKNOWN, Message, call_of, is_stream, is_unknown
from omniform.serve.copies.crew import Copies, Copy, GoneError
from omniform.serve.desk import Desk, key_of
from omniform.serve.errors import APIError
from omniform.serve.metrics import CONTENT_TYPE
from omniform.serve.ray_routes import Call
from omniform.serve.shelf import Shelf
from omniform.serve.streams import event_of

log = logging.getLogger("omniform.serve")

TRIES: Final = 4
"""How often a request is tried whose process dies, as long as nothing of an answer was sent: it may be the reason."""

PATIENCE: Final = 60.0
"""Seconds that a request waits for a process that lives."""

PAUSE: Final = 0.01
"""Seconds until the second try; twice as long until each next one."""

OWN: Final = ("/", "/docs", "/openapi.json", "/health", "/ready")
OWN_BELOW: Final = ("/page/", "/v1/models")
"""What the door answers itself, by addresses and their beginnings."""

ASKED: Final = ("door", "model", "reason", "first_token_seconds", "prompt_tokens", "cached_tokens", "generated_tokens")
"""What a process knows of a request, and its door does not."""


class Elsewhere(Shelf):
    """Models that lie in other processes.

    Args:
        copies: these.
    """

    def __init__(self, copies: Copies) -> None:
        super().__init__(copies.config)
        self._copies = copies

    async def reload(self, name: str) -> None:
        """See :class:`Shelf`; one process after another, so that there are always others."""
        source, _ = self.named(name)
        for one in [one for one in self._copies.all if one.lives]:
            try:
                status, _ = await self._copies.whole(one, "POST", f"/v1/models/{source.name}/reload")
            except GoneError:
                continue  # it is started again, and loads then
            if status != 200:
                raise APIError(
                    503, f"the model {name!r} cannot be loaded; the server's log says why", code="model_unusable"
                )

    async def reload_all(self) -> None:
        """See :class:`Shelf`."""
        for name in {one["name"] for told in await engines(self._copies) for one in told if one["loaded"]}:
            with contextlib.suppress(APIError):  # said in the log; the old one stays
                await self.reload(str(name))


class Door:
    """Hands requests to the processes that have their beginnings.

    Args:
        app: what answers what no model is needed for.
        desk: the server's state.
        copies: the processes.
    """

    def __init__(self, app: ASGIApp, desk: Desk, copies: Copies) -> None:
        self._app, self._desk, self._copies = app, desk, copies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        path = scope.get("path", "")
        if scope["type"] != "http" or path in OWN or path.startswith(OWN_BELOW):
            self._desk.ready = self._copies.ready
            await self._app(scope, receive, send)
            return
        if path in ("/metrics", "/engine") and scope["method"] == "GET":
            told = await (self._metrics() if path == "/metrics" else self._engine())
            await told(scope, receive, send)
            return
        request = Request(scope, receive)
        call = await call_of(request, int(self._desk.config.limits.upload_bytes))
        if call.method in ("GET", "HEAD"):
            await self._answer(call, scope, send)
            return
        rank = scope.get("omniform.priority", 0)
        async with self._desk.gate.enter(key_of(request), rank, priority_of(call.body)):
            await self._answer(call, scope, send)

    async def _answer(self, call: Call, scope: Scope, send: Send) -> None:
        """Try one process after another, until one has begun to answer."""
        failed: list[Copy] = []
        until = time.monotonic() + PATIENCE
        while len(failed) < TRIES and time.monotonic() < until:
            one = self._copies.choice(call, failed)
            if one is None:
                await asyncio.sleep(0.05)
                continue
            messages = self._asked(one, call, scope)
            async with contextlib.aclosing(messages):
                try:
                    first, body = await anext(messages), await anext(messages)  # only with a body is anything sent
                except (GoneError, StopAsyncIteration) as error:
                    log.warning("%s: a request goes to another", error)
                    failed.append(one)
                    await asyncio.sleep(PAUSE * 2 ** len(failed))  # until it is known to be gone
                    continue
                if call.kept and is_unknown(first, body):
                    call = replace(call, asked=(*call.asked, one.name))
                    if len(call.asked) < self._copies.count:
                        continue
                    refused_with(UNKNOWN[0])
                await self._hand_on(first, body, messages, scope, send)
                return
        raise APIError(503, "no process lives long enough to answer", code="no_replica", headers={"Retry-After": "5"})

    def _asked(self, one: Copy, call: Call, scope: Scope) -> AsyncGenerator[Message, None]:
        account = account_of(scope)
        more = {"key": scope.get("omniform.key"), "rank": scope.get("omniform.priority", 0)}
        if account is not None:
            named = tuple(pair for pair in call.headers if pair[0] not in (b"x-request-id", b"authorization"))
            call = replace(call, headers=(*named, (b"x-request-id", account.ident.encode())))
        return self._copies.ask(one, call, more, lambda told: _put(account, told))

    async def _hand_on(
        self, first: Message, body: Message, messages: AsyncGenerator[Message, None], scope: Scope, send: Send
    ) -> None:
        """Send an answer that has begun."""
        await send(first)
        try:
            while body.get("more_body"):
                await send(body)
                body = await anext(messages)
            with contextlib.suppress(GoneError):
                async for _ in messages:  # what it cost is known before the client sees its end
                    pass
            await send(body)
        except (GoneError, StopAsyncIteration) as error:
            log.warning("%s: in the midst of an answer", error)
            gone = noted(scope, APIError(503, "the process that wrote this answer is gone", code="replica_gone"))
            if is_stream(first):
                await send({"type": "http.response.body", "body": event_of(gone.body()), "more_body": False})
                return
            abort = scope.get("state", {}).get(ABORT)  # what is not whole must not look so
            if abort is None:
                raise gone from error
            abort()
            await asyncio.sleep(0)

    async def _engine(self) -> Response:
        """What all engines do, added up."""
        gate = {"running": self._desk.gate.running, "waiting": self._desk.gate.waiting}
        models = [added(several) for several in zip(*await engines(self._copies), strict=True)]
        if not models:
            models = [{"name": one.name, "loaded": False} for one in self._desk.shelf.sources]
        copies = [
            {"process": one.name, "ready": one.ready, "running": one.running, "starts": one.starts}
            for one in self._copies.all
        ]
        return JSONResponse({"now": time.monotonic(), "gate": gate, "models": models, "processes": copies})

    async def _metrics(self) -> Response:
        """What the door counts, and what the processes do, each under its name."""
        told = {"door": self._desk.metrics.text().decode()}
        for name, (status, text) in (await self._copies.each("GET", "/metrics")).items():
            if status == 200:
                told[name] = text.decode()
        return Response(together(told), media_type=CONTENT_TYPE)


def _put(account: Account | None, told: Mapping[str, object]) -> None:
    """Put down to a request's account what a process says of it."""
    if account is None or told.get("reason") in UNKNOWN:  # others are asked as well
        return
    tokens = sum(cast(int, told[name]) for name in ("prompt_tokens", "generated_tokens"))
    account.elsewhere = {name: told[name] for name in ASKED if told.get(name) is not None}
    model, reason = told.get("model"), told.get("reason")
    account.model = account.model or (model if isinstance(model, str) else None)
    account.reason = account.reason or (reason if isinstance(reason, str) else None)
    if account.closed:
        for call in account.over:
            call(tokens)
    else:
        account.spent += tokens


def priority_of(body: bytes) -> int:
    """The priority that a request gives itself among those of its key."""
    if b'"priority"' not in body:
        return 0
    try:
        held = json.loads(body)
    except (ValueError, RecursionError):
        return 0
    found = held.get("priority", 0) if isinstance(held, dict) else 0
    return max(-100, min(found, 100)) if isinstance(found, int) and not isinstance(found, bool) else 0


async def engines(copies: Copies) -> list[list[dict[str, object]]]:
    """What each process says of its models."""
    found = await copies.each("GET", "/engine")
    return [json.loads(text)["models"] for status, text in found.values() if status == 200]


def added(several: tuple[dict[str, object], ...]) -> dict[str, object]:
    """What is known of a model in several processes: its engines' counts are sums."""
    whole = next((one for one in several if one["loaded"]), several[0])
    counts = [one["engine"] for one in several if "engine" in one]
    return {**whole, "engine": _sum(counts)} if counts else whole


def _sum(several: list[object]) -> object:
    first = several[0]
    if isinstance(first, dict):
        kept = [one for one in several if isinstance(one, dict)]
        return {name: _sum([one[name] for one in kept if name in one]) for name in first}
    if isinstance(first, (int, float)) and not isinstance(first, bool):
        return sum(one for one in several if isinstance(one, (int, float)))
    return first


class _Labelled(Collector):
    def __init__(self, told: Mapping[str, str]) -> None:
        self._told = told

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        found: dict[str, Metric] = {}
        for name, text in self._told.items():
            for family in text_string_to_metric_families(text):
                whole = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                whole.samples += [one._replace(labels={**one.labels, "process": name}) for one in family.samples]
        yield from found.values()


def together(told: Mapping[str, str]) -> bytes:
    """Texts for Prometheus as one, in which each sample says where it comes from.

    Args:
        told: by the names of the processes.
    """
    registry = CollectorRegistry()
    registry.register(_Labelled(told))
    return generate_latest(registry)
