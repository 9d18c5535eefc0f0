"""What all doors of a server share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from fastapi import Request

from omniform.inputs.media_access import MediaAccess
from omniform.serve.config import ServeConfig
from omniform.serve.errors import APIError
from omniform.serve.gate import Gate
from omniform.serve.shelf import Loaded, Shelf


@dataclass(frozen=True, slots=True)
class Use:
    """A request's use of a model.

    Attributes:
        loaded: the model.
        adapter: which adapter of it; None for none.
    """

    loaded: Loaded
    adapter: str | None

    @property
    def name(self) -> str:
        """What the client calls it."""
        name = self.loaded.origin.name
        return name if self.adapter is None else f"{name}:{self.adapter}"


@dataclass(slots=True)
class Desk:
    """A server's state.

    Attributes:
        config: its settings.
        shelf: its models.
        gate: who may ask now.
        media: what may be read for the pictures and sounds of strangers.
        ready: whether it takes requests.
    """

    config: ServeConfig
    shelf: Shelf
    gate: Gate
    media: MediaAccess
    ready: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @classmethod
    def of(cls, config: ServeConfig, shelf: Shelf | None = None) -> Desk:
        """A server's state at its beginning."""
        limits = config.limits
        media = MediaAccess(
            urls="none", roots=[], max_pixels=limits.pixels, max_total_pixels=limits.pixels,
            max_download_bytes=limits.body_bytes,
        )  # fmt: skip
        return cls(config, Shelf(config) if shelf is None else shelf, Gate(limits.running, limits.waiting), media)

    def fetched(self, url: str) -> bytes:
        """What lies at an address that a client names, if the settings allow it.

        Raises:
            APIError: they do not.
        """
        raise APIError(
            400, "this server fetches no addresses; send the bytes as a data URL", code="address_not_allowed"
        )

    @contextlib.asynccontextmanager
    async def use(self, request: Request, name: str | None) -> AsyncIterator[Use]:
        """Have a model for a request, when it is its turn.

        Raises:
            APIError: there is no such model, no room, or too many wait.
        """
        source, adapter = self.shelf.named(name)
        async with self.gate.enter(key_of(request)), self.shelf.use(source) as loaded:
            yield Use(loaded, adapter)


def desk_of(request: Request) -> Desk:
    """The server's state, of a request's."""
    desk = request.app.state.desk
    assert isinstance(desk, Desk)
    return desk


def key_of(request: Request) -> str:
    """Whose request it is: the name of its key; clients without one by their address."""
    name = request.scope.get("omniform.key")
    if isinstance(name, str):
        return name
    return request.client.host if request.client is not None else ""


def check_count(what: str, count: int, most: int) -> None:
    """Refuse more of anything than one request may bring.

    Raises:
        APIError: it is more.
    """
    if count > most:
        raise APIError(400, f"{what}: at most {most} here, found {count}", param=what, code="too_many")
