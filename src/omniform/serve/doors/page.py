"""``/``: a page to chat on; and ``/engine``: what the engines do now."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response

from omniform.engine.engine import Engine
from omniform.inputs.processors.base import Processor
from omniform.serve.desk import desk_of
from omniform.serve.errors import APIError
from omniform.serve.shelf import Loaded

router = APIRouter()

FILES: Final = Path(__file__).parents[1] / "page"
"""What the page is made of."""

TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "media-src data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Nothing that a model writes can become markup or code: the browser refuses innerHTML and its like.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""What the page may do: nothing that leaves this server. Source: https://www.w3.org/TR/CSP3/"""

HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

MEDIA: Final[Mapping[str, str]] = {"image_processor": "image", "video_processor": "video", "feature_extractor": "audio"}
"""What the parts of a processor read."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of the page.

    Attributes:
        data: its bytes.
        kind: its media type.
        tag: by which a browser knows it again.
    """

    data: bytes
    kind: str
    tag: str


@functools.cache
def files() -> Mapping[str, File]:
    """The files of the page by name; no others can be asked for."""
    found = {}
    for path in sorted(FILES.iterdir()):
        if path.suffix in TYPES:
            data = path.read_bytes()
            found[path.name] = File(data, TYPES[path.suffix], f'"{hashlib.sha256(data).hexdigest()[:32]}"')
    return found


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page(request: Request) -> Response:
    """The page."""
    return _answered(request, "index.html")


@router.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
async def part(request: Request, name: str) -> Response:
    """A file that the page is made of."""
    return _answered(request, name)


def _answered(request: Request, name: str) -> Response:
    file = files().get(name)
    if file is None:
        raise APIError(404, "there is no such file of the page", code="not_found")
    headers = {**HEADERS, "ETag": file.tag}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.data, media_type=file.kind, headers=headers)


@router.get("/engine")
async def engine(request: Request) -> dict[str, object]:
    """What the engines do now: rows, blocks, and counts of tokens, from which whoever asks twice has their rate.

    ``now`` counts seconds since some moment; ``gate`` the requests of all models.
    """
    desk = desk_of(request)
    loaded = {one.origin.name: one for one in desk.shelf.loaded()}
    return {
        "now": time.monotonic(),
        "gate": {"running": desk.gate.running, "waiting": desk.gate.waiting},
        "models": [_told(source.name, loaded.get(source.name)) for source in desk.shelf.sources],
    }


def _told(name: str, one: Loaded | None) -> dict[str, object]:
    """What is known of a model; of one that is not in memory, its name."""
    if one is None:
        return {"name": name, "loaded": False}
    reader = one.reader
    reads: list[str] = []
    if isinstance(reader, Processor):
        reads = [MEDIA[part] for part in reader.parts() if part in MEDIA]
    told: dict[str, object] = {
        "name": name,
        "loaded": True,
        "chats": one.engine is not None and bool(reader.chat_template),
        "reads": ["text", *reads],
        "weights_bytes": one.nbytes,
        "longest": getattr(one.model, "max_positions", None),
    }
    return told if one.engine is None else {**told, "engine": _counted(one.engine)}


def _counted(engine: Engine) -> dict[str, object]:
    """An engine's counts."""
    stats = engine.stats()
    return {
        "running": stats.running,
        "waiting": stats.waiting,
        "blocks": {"total": stats.blocks_total, "used": stats.blocks_used, "cached": stats.blocks_cached},
        "steps": stats.steps,
        "tokens_computed": stats.tokens_computed,
        "tokens_cached": stats.tokens_cached,
        "tokens_drafted": stats.tokens_drafted,
        "tokens_accepted": stats.tokens_accepted,
        "encoder_runs": stats.encoder_runs,
        "encoder_hits": stats.encoder_hits,
        "preemptions": stats.preemptions,
        "cache_dtype": stats.cache_dtype,
        "memory": {"taken": stats.memory.taken, "budget": stats.memory.budget},
        "seconds": dict(stats.seconds),
    }
