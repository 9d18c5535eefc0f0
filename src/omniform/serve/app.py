"""The server as one ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from omniform import __version__
from omniform.core.errors import OmniformError
from omniform.serve.accounts import Watch, noted
from omniform.serve.bounds import Bounds
from omniform.serve.config import ServeConfig
from omniform.serve.copies.crew import Copies
from omniform.serve.copies.door import Door, Elsewhere
from omniform.serve.desk import Desk
from omniform.serve.doors import (
    audio,
    chat,
    completions,
    docs,
    embeddings,
    models,
    page,
    pipelines,
    ranking,
    responses,
    speech,
    tokens,
    watching,
)
from omniform.serve.entry import Keeper
from omniform.serve.errors import APIError, api_error
from omniform.serve.shelf import Shelf

log = logging.getLogger("omniform.serve")

DOORS = tuple(
    door.router
    for door in (
        chat,
        responses,
        completions,
        embeddings,
        ranking,
        audio,
        speech,
        tokens,
        pipelines,
        models,
        page,
        docs,
        watching,
    )
)
"""What can be asked for."""


def create_app(config: ServeConfig, shelf: Shelf | None = None, *, behind: bool = False) -> FastAPI:
    """A server of models; with ``data_parallel`` the door to several of them.

    Args:
        config: its settings.
        shelf: its models; made of the settings by default.
        behind: whether it stands behind such a door, which has asked for keys.
    """
    copies = Copies(config, config.data_parallel) if config.data_parallel > 1 else None
    desk = Desk.of(config, shelf if copies is None else Elsewhere(copies))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(desk.shelf.tend())]
        if copies is None:
            tasks.append(asyncio.create_task(_preload(desk)))
        else:
            copies.begin()
        try:
            yield
        finally:
            desk.gate.close()
            for task in tasks:
                task.cancel()
            await desk.shelf.close()
            if copies is not None:
                await copies.end()

    app = docs.Application(
        title="omniform",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
        docs_url=None,
        redirect_slashes=False,  # where to would be said in the words of whoever asks
        openapi_url="/openapi.json",
    )
    app.state.desk = desk
    for router in DOORS:
        app.include_router(router)
    for kind in (APIError, OmniformError, TimeoutError, MemoryError, Exception):
        app.add_exception_handler(kind, _failed)
    app.add_exception_handler(HTTPException, _refused)
    # The last one is asked first.
    if copies is not None:
        app.add_middleware(Door, desk=desk, copies=copies)
    app.add_middleware(Bounds, desk=desk)
    if not behind:
        app.add_middleware(Keeper, desk=desk)
    if config.cors:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(config.cors), allow_methods=["*"], allow_headers=["*"],
            expose_headers=["x-request-id", "openai-processing-ms", "x-omniform-ignored", "retry-after"],
        )  # fmt: skip
    app.add_middleware(Watch, desk=desk)
    return app


async def _preload(desk: Desk) -> None:
    if desk.config.preload:
        try:
            async with desk.shelf.use(desk.shelf.sources[0]):
                pass
        except APIError:
            return  # said in the log: the server lives, and is not ready
    desk.ready = True


async def _failed(request: Request, error: Exception) -> Response:
    return noted(request.scope, api_error(error)).response()


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    where = f"{request.method} {request.url.path}"[:200]
    message = {404: f"there is nothing at {where}", 405: f"{where} is not answered"}.get(error.status_code)
    told = APIError(error.status_code, message or str(error.detail), code=code, headers=error.headers or {})
    return noted(request.scope, told).response()
