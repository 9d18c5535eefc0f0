"""A server as a process: listening, and ending well."""

from __future__ import annotations

import logging
import socket
import sys

import uvicorn

from omniform.core.errors import InputError
from omniform.serve.app import create_app
from omniform.serve.config import ServeConfig

log = logging.getLogger("omniform.serve")

PATIENCE = 30
"""Seconds that requests have to end in, once the server is told to stop."""


def serve(
    config: ServeConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    uds: str | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
) -> None:
    """Serve until the process is told to stop (SIGINT, SIGTERM); what runs then is finished first.

    Raises:
        InputError: the address cannot be listened at.
    """
    app = create_app(config)
    listening = None
    if uds is None:
        listening = _listen(host, port)
        port = listening.getsockname()[1]
        scheme = "http" if tls_cert is None else "https"
        shown = f"[{host}]" if ":" in host else host
        print(f"omniform: serving {', '.join(one.name for one in config.models)} at {scheme}://{shown}:{port}",
              file=sys.stderr, flush=True)  # fmt: skip
    settings = uvicorn.Config(
        app,
        host=host,
        port=port,
        uds=uds,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=PATIENCE,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=64 << 10,
    )
    uvicorn.Server(settings).run(sockets=None if listening is None else [listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio sends small packets at once only where it knows that these are TCP's.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except (OSError, OverflowError) as error:
        raise InputError(
            "this address cannot be listened at", where=f"{host}:{port}", found=str(error),
            remedy="Choose another --port.",
        ) from error  # fmt: skip
    return listening
