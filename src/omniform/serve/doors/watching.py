"""``/metrics``, and loading a model anew: for those who run the server."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from omniform.serve.desk import desk_of
from omniform.serve.metrics import CONTENT_TYPE

router = APIRouter()


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """What the server counts, for Prometheus."""
    return Response(desk_of(request).metrics.text(), media_type=CONTENT_TYPE)


@router.post("/v1/models/{name:path}/reload")
async def reload(request: Request, name: str) -> dict[str, str]:
    """Load a model anew beside itself; what runs ends where it is, and what comes goes to the new one."""
    desk = desk_of(request)
    source, _ = desk.shelf.named(name)
    await desk.shelf.reload(source.name)
    return {"id": source.name, "object": "model", "status": "reloaded"}
