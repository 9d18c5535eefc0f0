"""Servers in a thread of the test's own process."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import openai

from omniform.hub.bundled import bundled_checkpoint
from omniform.serve.app import create_app
from omniform.serve.config import ModelSource, ServeConfig
from omniform.serve.desk import Desk
from omniform.serve.running import Server
from omniform.serve.running import settings as settings_of

SCENES = ModelSource(name="scenes", source=str(bundled_checkpoint()))
"""The bundled model that answers questions about pictures."""


@dataclass(frozen=True)
class Served:
    """A server that listens.

    Attributes:
        url: where.
        desk: its state.
        stop: ends it, as a signal would.
    """

    url: str
    desk: Desk
    server: Server

    def client(self, key: str = "none") -> openai.OpenAI:
        """OpenAI's own client, which tries nothing twice."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def raw(self) -> httpx.Client:
        """A client that sends what it is told."""
        return httpx.Client(base_url=self.url, timeout=60)


@contextlib.contextmanager
def serving(config: ServeConfig | None = None, **settings: object) -> Iterator[Served]:
    """A server at a free port of this machine.

    Args:
        settings: of the config, over those of the bundled model alone.
    """
    config = ServeConfig(**{"models": (SCENES,), "memory": "64MB", **settings}) if config is None else config
    app = create_app(config)
    desk = app.state.desk
    server = Server(settings_of(app, desk, host="127.0.0.1", port=0), desk)
    thread = threading.Thread(target=server.run, name="test-server")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server ended before it began"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        while config.preload and httpx.get(f"{url}/ready").status_code != 200:
            assert thread.is_alive()
            time.sleep(0.05)
        yield Served(url, app.state.desk, server)
    finally:
        if not server.should_exit:
            server.handle_exit(signal.SIGTERM, None)
        thread.join(30)
        assert not thread.is_alive(), "the server does not end"
