"""``/v1/models``, and whether the server lives."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from omniform.serve.desk import desk_of
from omniform.serve.shelf import Shelf

router = APIRouter()


def _told(shelf: Shelf, name: str, root: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": shelf.created, "owned_by": "omniform", "root": root}


@router.get("/v1/models")
async def models(request: Request) -> dict[str, object]:
    """The models that can be asked, adapters of models among them."""
    shelf = desk_of(request).shelf
    told = []
    for one in shelf.sources:
        told.append(_told(shelf, one.name, one.name))
        told += [_told(shelf, f"{one.name}:{adapter}", one.name) for adapter in one.adapters]
    return {"object": "list", "data": told}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, object]:
    """One of them."""
    shelf = desk_of(request).shelf
    source, _ = shelf.named(name)
    return _told(shelf, name, source.name)


@router.api_route("/health", methods=["GET", "HEAD"])
async def health() -> dict[str, str]:
    """The server lives."""
    return {"status": "ok"}


@router.api_route("/ready", methods=["GET", "HEAD"])
async def ready(request: Request) -> Response:
    """Whether it takes requests."""
    desk = desk_of(request)
    if desk.ready and not desk.gate.closed:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "ending" if desk.gate.closed else "loading"}, 503, headers={"Retry-After": "1"})
