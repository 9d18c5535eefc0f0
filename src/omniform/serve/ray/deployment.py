"""Deployments of Ray Serve: replicas of the server, and the door that leads to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Final, cast

from ray import serve
from ray.exceptions import RayError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from ray.util.placement_group import get_current_placement_group
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from omniform.serve.app import create_app
from omniform.serve.calls import Message, call_of, headers_of, is_stream, is_unknown, scope_of
from omniform.serve.config import ServeConfig
from omniform.serve.errors import APIError
from omniform.serve.keys import VARIABLE
from omniform.serve.ray.ranks import Actors
from omniform.serve.ray.router import PrefixRouter
from omniform.serve.ray_routes import Call
from omniform.serve.shelf import Shelf, load_model
from omniform.serve.streams import event_of

log = logging.getLogger("omniform.serve")

TRIES: Final = 8
"""How often a request is tried, as long as nothing of an answer was sent."""

PATIENCE: Final = 0.05
"""Seconds until the second try; twice as long until each next one: a node that is gone is not known to be at once."""

NAME: Final = b"x-omniform-replica"
"""The header that says which replica has answered."""

HEAD: Final = {"node:__internal_head__": 0.001}
"""Where the door stands: beside what no cluster lives without, so that no other node's death closes it."""


class Replica:
    """A server in one process of the cluster.

    Args:
        config: its settings. Files that they name are read where the replica is.
        keys: API keys that are in no file, as the environment's ``OMNIFORM_API_KEYS`` has them: that of whoever
            deploys, which other nodes do not have.
    """

    def __init__(self, config: ServeConfig, keys: str = "") -> None:
        os.environ[VARIABLE] = keys
        self._config = config
        group = get_current_placement_group()
        shelf = None
        if group is not None and config.processes > 1:
            shelf = Shelf(config, lambda source: load_model(source, config, partial(Actors, group)))
        self._app = create_app(config, shelf)
        self._lifespan = contextlib.AsyncExitStack()
        self._begun = asyncio.Lock()
        self._alive = False

    async def _begin(self) -> None:
        async with self._begun:
            if self._alive:
                return
            await self._lifespan.enter_async_context(self._app.router.lifespan_context(self._app))
            if self._config.preload:
                shelf = self._app.state.desk.shelf
                try:
                    async with shelf.use(shelf.sources[0]):
                        pass
                except APIError as error:
                    raise RuntimeError(str(error.__cause__ or error)) from None  # what Ray can tell of it
            self._alive = True

    async def check_health(self) -> None:
        """Whether it lives; it is ready with its first model."""
        await self._begin()

    async def ask(self, call: Call) -> AsyncIterator[Message]:
        """What the server answers, message by message as ASGI has them; its name is among the headers."""
        await self._begin()
        name = serve.get_replica_context().replica_id.unique_id.encode()
        said: asyncio.Queue[Message | None] = asyncio.Queue(64)
        over = asyncio.Event()
        sent = False

        async def receive() -> Message:
            nonlocal sent
            if sent:
                await over.wait()
                return {"type": "http.disconnect"}
            sent = True
            return {"type": "http.request", "body": call.body, "more_body": False}

        async def answer() -> None:
            try:
                await self._app(scope_of(call), receive, said.put)
            except Exception:  # told to the client by now; Starlette raises it once more for the log
                log.debug("a request failed", exc_info=True)
            finally:
                await said.put(None)

        task = asyncio.create_task(answer())
        try:
            while (message := await said.get()) is not None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*cast("list[tuple[bytes, bytes]]", message["headers"]), (NAME, name)]
                yield message
        finally:  # the client may have gone: the server is told, and its engine with it
            over.set()
            task.cancel()

    async def __call__(self, request: Request) -> Response:
        """The same as an application of its own, without a door."""
        try:
            call = await call_of(request, self._config.limits.body_bytes)
        except APIError as error:
            return error.response()
        messages = self.ask(call)
        return streamed(await anext(messages), messages)


class Door:
    """Reads requests, and hands each to the replica that has its beginning.

    Args:
        replicas: a handle of :data:`OmniformDeployment`.
        body_bytes: of a request at most.
    """

    def __init__(self, replicas: DeploymentHandle, body_bytes: int) -> None:
        self._replicas = replicas.options(method_name="ask", stream=True)
        self._limit = body_bytes

    async def __call__(self, request: Request) -> Response:
        """Answer a request. A replica that dies before it has said anything is made up for by another."""
        try:
            call = await call_of(request, self._limit)
        except APIError as error:
            return error.response()
        for turn in range(TRIES):
            answer = self._replicas.remote(call)
            try:
                first, body = await anext(answer), await anext(answer)  # only with a body is anything sent
            except (RayError, StopAsyncIteration) as error:
                log.warning("a replica is gone (%s); its request goes to another", type(error).__name__)
                await asyncio.sleep(PATIENCE * 2**turn)
                call = replace(call, tries=call.tries + 1)
                continue
            except BackPressureError:
                return APIError(
                    429, "too many requests are waiting", code="queue_full", headers={"Retry-After": "1"}
                ).response()
            name = headers_of(first).get(NAME, b"").decode()
            if call.kept and name not in call.asked and is_unknown(first, body):
                call = replace(call, asked=(*call.asked, name))
                continue
            return streamed(first, _rest(answer, first, body))
        return APIError(
            503, "no replica lives long enough to answer", code="no_replica", headers={"Retry-After": "5"}
        ).response()


async def _rest(answer: object, first: Message, body: Message) -> AsyncIterator[Message]:
    """An answer's pieces, from the first one with a body. What of a stream does not come any more is told in it: its
    events are whole, each is a message; another answer that is not whole must not look so."""
    messages = cast("AsyncIterator[Message]", answer)
    try:
        yield body
        async for message in messages:
            yield message
    except RayError as error:
        log.warning("a replica is gone (%s) in the midst of an answer", type(error).__name__)
        if not is_stream(first):
            raise
        gone = APIError(503, "the replica that wrote this answer is gone", code="replica_gone")
        yield {"type": "http.response.body", "body": event_of(gone.body()), "more_body": False}
    finally:
        cancel = cast(DeploymentHandle, answer).cancel
        with contextlib.suppress(Exception):
            cancel()


def streamed(first: Message, messages: AsyncIterator[Message]) -> Response:
    """An answer that goes on as its messages come.

    Args:
        first: how it begins: ``http.response.start``.
        messages: its pieces.
    """

    async def pieces() -> AsyncIterator[bytes]:
        async with contextlib.aclosing(messages) as held:  # type: ignore[type-var]
            async for message in held:
                if message.get("body"):
                    yield cast(bytes, message["body"])

    response = StreamingResponse(pieces(), cast(int, first["status"]))
    response.raw_headers = [
        (bytes(name), bytes(value)) for name, value in cast("list[tuple[bytes, bytes]]", first["headers"])
    ]
    return response


OmniformDeployment = serve.deployment(
    name="omniform",
    max_ongoing_requests=256,
    max_constructor_retry_count=3,
    health_check_period_s=5.0,
    graceful_shutdown_timeout_s=60.0,
    request_router_config=RequestRouterConfig(request_router_class=PrefixRouter),
)(Replica)
"""Replicas of a server: ``OmniformDeployment.options(num_replicas=2).bind(config)``, for an application of one's own:
an ingress by itself, or behind :data:`OmniformDoor`, or asked through its handle
(``handle.options(stream=True).ask.remote(call)``)."""

OmniformDoor = serve.deployment(name="omniform-door", max_ongoing_requests=4096)(Door)
"""What answers HTTP: ``OmniformDoor.bind(replicas, body_bytes)``."""


def application(
    config: ServeConfig, *, replicas: int = 1, most: int | None = None, busy: float = 16.0, cores: float = 1.0,
    chips: float = 0.0, scaling: Mapping[str, float] | None = None, keys: str = "",
) -> serve.Application:  # fmt: skip
    """A server on a cluster. A replica of several processes (``config.tensor_parallel``) has a placement group, on one
    node where that has room for all of them.

    Args:
        config: its settings.
        replicas: how many there are, or at least.
        most: how many there may be where many ask; None: always ``replicas``.
        busy: requests of a replica at once, beyond which there are to be more of them.
        cores: of a node that each process of a replica takes.
        chips: GPUs of a node that it takes.
        scaling: how ``most`` is come to besides: fields of Ray's ``AutoscalingConfig``, as ``upscale_delay_s`` and
            ``downscale_delay_s``.
        keys: see :class:`Replica`.
    """
    options: dict[str, object] = {"num_replicas": replicas}
    if most is not None:
        options = {
            "autoscaling_config": {
                "min_replicas": replicas, "max_replicas": most, "target_ongoing_requests": busy, **(scaling or {}),
            }
        }  # fmt: skip
    if config.processes > 1:
        bundle = {"CPU": cores, "GPU": chips} if chips else {"CPU": cores}
        options |= {"placement_group_bundles": [bundle] * config.processes, "placement_group_strategy": "PACK"}
    bound = OmniformDeployment.options(
        ray_actor_options={"num_cpus": cores, "num_gpus": chips},
        max_ongoing_requests=config.limits.running + config.limits.waiting,
        graceful_shutdown_timeout_s=config.limits.grace,
        **options,
    ).bind(config, keys)
    return OmniformDoor.options(ray_actor_options={"num_cpus": 0, "resources": HEAD}).bind(
        bound, config.limits.body_bytes
    )
