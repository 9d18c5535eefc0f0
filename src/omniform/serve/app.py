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


def create_app(config: ServeConfig, shelf: Shelf | None = None) -> FastAPI:
    """A server of models.

    Args:
        config: its settings.
        shelf: its models; made of the settings by default.
    """
    desk = Desk.of(config, shelf)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tending = asyncio.create_task(desk.shelf.tend())
        loading = asyncio.create_task(_preload(desk))
        try:
            yield
        finally:
            desk.gate.close()
            for task in (tending, loading):
                task.cancel()
            await desk.shelf.close()

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
    app.add_middleware(Bounds, desk=desk)
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
