"""A server as a process: listening, and ending well."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import resource
import signal
import socket
import ssl
import stat
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from omniform.core.errors import InputError
from omniform.serve.app import create_app
from omniform.serve.config import ServeConfig
from omniform.serve.connections import HEAD_BYTES, Connection
from omniform.serve.desk import Desk

log = logging.getLogger("omniform.serve")

KEPT_SECONDS: Final = 65
"""How long a connection that asks nothing is kept: longer than clients keep theirs, so that they end it."""

OTHER_FILES: Final = 256
"""Files that a server has open beside its connections: weights, what it writes, what it looks up."""

AT_ONCE_SECONDS: Final = 2.0
"""After which a process that was told twice ends, whatever its threads do."""


class Server(uvicorn.Server):
    """Ends in steps: told once, it takes nothing more and finishes what runs; told twice, it ends at once.

    Args:
        config: uvicorn's.
        desk: the server's state.
        owns_process: whether the process ends with it, whatever other threads do.
    """

    def __init__(self, config: uvicorn.Config, desk: Desk, *, owns_process: bool = False) -> None:
        super().__init__(config)
        self._owns_process = owns_process
        self._desk = desk
        self._told = 0
        self._reloading: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and to SIGHUP too."""
        await super().startup(sockets)
        loop = self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self.reload)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal that tells to end."""
        self._told += 1
        if self._loop is not None and self._told == 1:
            self._loop.call_soon_threadsafe(self._desk.begin_end)
        if self._told > 1:
            self.force_exit = True
        if self._told > 1 and self._owns_process:
            late = threading.Timer(AT_ONCE_SECONDS, os._exit, (1,))
            late.daemon = True
            late.start()
        # uvicorn's own would raise the signal again at the end, before what is to be cleared away is.
        self.should_exit = True

    def reload(self) -> None:
        """Read the keys anew, and the models that are loaded."""
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        try:
            self._desk.keys.read()
        except InputError as error:
            log.error("the API keys stay as they were: %s", error)
        await self._desk.shelf.reload_all()


def settings(app: FastAPI, desk: Desk, **more: object) -> uvicorn.Config:
    """How an application is served.

    Args:
        more: of uvicorn's settings.
    """
    said: dict[str, object] = {
        "http": functools.partial(Connection, most=_files_for(int(desk.config.limits.connections))),
        "loop": "asyncio",  # and not whichever others brought along: it is what is tested, and was measured
        "ws": "none",
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": KEPT_SECONDS,
        # What runs is ended by the desk before, which tells the clients.
        "timeout_graceful_shutdown": int(desk.config.limits.grace) + 5,
        "h11_max_incomplete_event_size": HEAD_BYTES,
        **more,
    }
    return uvicorn.Config(app, **said)  # type: ignore[arg-type]


def _files_for(connections: int) -> int:
    """How many connections this process may have open, of those that it should; it may open more files afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return max(min(connections, soft - OTHER_FILES), 1)
    return connections


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

    SIGHUP has the keys and the models read anew.

    Raises:
        InputError: the address cannot be listened at, or the certificate cannot be used.
    """
    check_tls(tls_cert, tls_key)
    app = create_app(config)
    listening = listen(host, port) if uds is None else listen_at(uds)
    scheme = "http" if tls_cert is None else "https"
    shown = f"[{host}]" if ":" in host else host
    place = f"unix:{uds}" if uds is not None else f"{scheme}://{shown}:{listening.getsockname()[1]}"
    _say(f"omniform: serving {', '.join(one.name for one in config.models)} at {place}")
    _log_access()
    desk: Desk = app.state.desk
    try:
        Server(settings(app, desk, ssl_certfile=tls_cert, ssl_keyfile=tls_key), desk, owns_process=True).run(
            sockets=[listening]
        )
    finally:
        if uds is not None:
            Path(uds).unlink(missing_ok=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _log_access() -> None:
    """Write a line for every request to standard output, which is JSON and nothing else."""
    logger = logging.getLogger("omniform.serve.access")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def check_tls(cert: str | None, key: str | None) -> None:
    """Try a certificate before anything is loaded.

    Raises:
        InputError: it cannot be used, and why.
    """
    if cert is None:
        if key is not None:
            raise InputError("there is a key, but no certificate", where="--tls-key", remedy="Give --tls-cert, too.")
        return
    for option, name in (("--tls-cert", cert), ("--tls-key", key)):
        if name is not None:
            try:
                Path(name).read_bytes()
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                raise InputError("this file cannot be read", where=option, found=f"{name}: {why}") from error
    try:
        # Without a word for it, OpenSSL would ask the terminal for the password of a key that has one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise InputError(
            "the certificate cannot be used",
            where="--tls-cert",
            expected="a certificate and its key, unencrypted, as PEM",
            found=str(getattr(error, "reason", None) or error),
        ) from error


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Raises:
        InputError: it cannot be listened at.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio sends small packets at once only where it knows that these are TCP's.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(
            "this address cannot be listened at", where=f"{host}:{port}", found=str(error),
            remedy="Choose another --host or --port.",
        ) from error  # fmt: skip
    return listening


def listen_at(name: str) -> socket.socket:
    """A unix socket, for this user and its group only; one that is left over from a server that is gone is replaced.

    Raises:
        InputError: it cannot be listened at, or somebody does.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.lexists(name):
            if not stat.S_ISSOCK(os.lstat(name).st_mode):
                raise InputError("there is something else", where=name, expected="nothing, or a socket")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
                if asking.connect_ex(name) == 0:
                    raise InputError("a server listens there already", where=name)
            os.unlink(name)
        before = os.umask(0o117)
        try:
            listening.bind(name)
        finally:
            os.umask(before)
        listening.listen(2048)
    except (OSError, ValueError) as error:
        listening.close()
        if isinstance(error, InputError):
            raise
        raise InputError("this socket cannot be listened at", where=name, found=str(error)) from error
    return listening
