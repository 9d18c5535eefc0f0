"""What all doors of a server share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from fastapi import Request

from omniform.inputs.fetch import DOWNLOAD_SECONDS
from omniform.inputs.media_access import MediaAccess
from omniform.serve.accounts import CURRENT, account_of
from omniform.serve.addresses import Addresses
from omniform.serve.config import ServeConfig
from omniform.serve.errors import APIError
from omniform.serve.gate import Gate
from omniform.serve.kept_responses import Responses
from omniform.serve.keys import HIGHEST_PRIORITY, Keys
from omniform.serve.metrics import Metrics
from omniform.serve.shelf import Loaded, Shelf


@dataclass(frozen=True, slots=True)
class Use:
    """A request's use of a model.

    Attributes:
        loaded: the model.
        adapter: which adapter of it; None for none.
        rank: the priority of the request's key; None where there are no keys.
    """

    loaded: Loaded
    adapter: str | None
    rank: int | None = None

    def priority(self, asked: int) -> int:
        """A request's in the engine: where there are keys, none comes before what its key may."""
        return asked if self.rank is None else max(-HIGHEST_PRIORITY, self.rank + min(asked, 0))

    @property
    def name(self) -> str:
        """What the client calls it."""
        name = self.loaded.origin.name
        return name if self.adapter is None else f"{name}:{self.adapter}"


class Ends(Protocol):
    """A request that is being answered."""

    def end(self, why: APIError) -> None:
        """Stop what is computed, and tell the client why."""


@dataclass(slots=True)
class Desk:
    """A server's state.

    Attributes:
        config: its settings.
        shelf: its models.
        gate: who may ask now.
        media: what may be read for the pictures and sounds of strangers.
        keys: that may ask.
        ready: whether it takes requests.
        lines: requests that are being answered.
        incoming: bytes of all of them.
        fetching: addresses that are read for them.
        addresses: that may be.
        metrics: what is counted.
        responses: that later ones go on from.
    """

    config: ServeConfig
    shelf: Shelf
    gate: Gate
    media: MediaAccess
    keys: Keys
    ready: bool = False
    lines: set[Ends] = field(default_factory=set)
    incoming: int = 0
    fetching: int = 0
    addresses: Addresses = field(init=False)
    metrics: Metrics = field(init=False)
    responses: Responses = field(default_factory=Responses)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self)
        self.addresses = Addresses(self.config.allow_urls)

    @classmethod
    def of(cls, config: ServeConfig, shelf: Shelf | None = None) -> Desk:
        """A server's state at its beginning."""
        limits = config.limits
        media = MediaAccess(
            urls="none", roots=[], max_pixels=limits.pixels, max_total_pixels=limits.pixels,
            max_download_bytes=limits.body_bytes,
        )  # fmt: skip
        shelf = Shelf(config) if shelf is None else shelf
        running = limits.running * config.data_parallel
        return cls(config, shelf, Gate(running, limits.waiting), media, Keys.of(config.keys))

    def begin_end(self) -> None:
        """Take nothing more; what runs has so long to end as the settings say, and is ended then."""
        if self.gate.closed:
            return
        self.gate.close()
        asyncio.get_running_loop().call_later(self.config.limits.grace, self._end_all)

    def _end_all(self) -> None:
        for line in list(self.lines):
            line.end(APIError(503, "the server ends before this answer does", code="shutting_down"))

    def fetched(self, url: str) -> bytes:
        """What lies at an address that a client names, if the settings allow it.

        Raises:
            APIError: they do not.
        """
        account, limits = CURRENT.get(), self.config.limits
        left = limits.body_bytes - (0 if account is None else account.fetched)
        if self.fetching >= limits.fetches:  # each holds a thread, of which others have need
            self.addresses.check(url)
            raise APIError(
                429, "too many addresses are read now", code="too_many_fetches", headers={"Retry-After": "1"}
            )
        self.fetching += 1
        try:
            found = self.addresses.fetch(url, max(left, 1), min(DOWNLOAD_SECONDS, limits.seconds))
        finally:
            self.fetching -= 1
        if account is not None:
            account.fetched += len(found)
        return found

    @contextlib.asynccontextmanager
    async def use(self, request: Request, name: str | None, priority: int = 0) -> AsyncIterator[Use]:
        """Have a model for a request, when it is its turn.

        Args:
            priority: that the request gives itself.

        Raises:
            APIError: there is no such model, no room, or too many wait.
        """
        source, adapter = self.shelf.named(name)
        account = account_of(request.scope)
        if account is not None:
            account.model = source.name if adapter is None else f"{source.name}:{adapter}"
        rank = request.scope.get("omniform.priority", 0)
        async with self.gate.enter(key_of(request), rank, priority), self.shelf.use(source) as loaded:
            yield Use(loaded, adapter, rank if self.keys.asked else None)


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
