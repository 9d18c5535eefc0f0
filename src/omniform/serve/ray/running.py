"""``omniform serve --ray``: replicas on a cluster, until told to stop."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading

from omniform.core.errors import InputError
from omniform.serve.config import ServeConfig
from omniform.serve.mapping.actors import connect


def serve_on_ray(
    config: ServeConfig, address: str | None, host: str, port: int, replicas: int, most: int | None
) -> None:
    """Serve until the process is told to stop (SIGINT, SIGTERM).

    Args:
        config: the server's settings.
        address: of a cluster; None for this machine's.
        host: where nodes listen.
        port: at which.
        replicas: how many there are, or at least.
        most: how many there may be.

    Raises:
        InputError: no such number of replicas.
        DependencyError: Ray is not installed.
        WorkerError: there is no such cluster.
    """
    if replicas < 1 or (most is not None and most < replicas):
        raise InputError("no such number of replicas", where="--replicas", found=f"{replicas} to {most}")
    connect(address)
    from ray import serve

    from omniform.serve.ray.deployment import application

    over = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: over.set())
    serve.start(http_options={"host": host, "port": port})
    try:
        serve.run(application(config, replicas=replicas, most=most), name="omniform", route_prefix="/")
        names = ", ".join(one.name for one in config.models)
        print(f"omniform: serving {names} at http://{host}:{port} on Ray", file=sys.stderr, flush=True)
        over.wait()
    finally:
        with contextlib.suppress(Exception):
            serve.delete("omniform")
