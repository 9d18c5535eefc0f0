"""``omniform serve --ray``: replicas on a cluster, until told to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

from omniform.core.errors import InputError, WorkerError, brief
from omniform.serve.config import ServeConfig
from omniform.serve.keys import VARIABLE, Keys
from omniform.serve.mapping.actors import chips_of, connect
from omniform.serve.running import listen

NAME: Final = "omniform"
"""Of the application."""

PATIENCE: Final = 30.0
"""Seconds after which it is said what is waited for."""


def serve_on_ray(
    config: ServeConfig, address: str | None, host: str, port: int, replicas: int, most: int | None,
    cores: float = 1.0, chips: float | None = None,
) -> None:  # fmt: skip
    """Serve until the process is told to stop (SIGINT, SIGTERM); what runs then is finished first.

    Args:
        config: the server's settings.
        address: of a cluster; None for this machine's.
        host: where its head listens.
        port: at which.
        replicas: how many there are, or at least.
        most: how many there may be.
        cores: of a node that each process of a replica takes.
        chips: GPUs that it takes; None for one where the cluster has any.

    Raises:
        InputError: no such number of replicas, an address that cannot be listened at, keys that are none.
        DependencyError: Ray is not installed.
        WorkerError: there is no such cluster, it serves already, or no replica of it can be made.
    """
    if replicas < 1:
        raise InputError("no such number of replicas", where="--replicas", expected="1 or more", found=replicas)
    if most is not None and most < replicas:
        raise InputError(
            "fewer than there are at least", where="--max-replicas", expected=f"{replicas} or more", found=most
        )
    if not 0 < port < 65536:
        raise InputError("a cluster's port is a number of its own", where="--port", expected="1 to 65535", found=port)
    Keys.of(config.keys)  # what is wrong with them is told here
    connect(address)
    from ray import serve

    from omniform.serve.ray.deployment import application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if serve.status().proxies:
        raise WorkerError(
            "Ray Serve runs on this cluster already", where="--ray",
            remedy="Add a deployment to it (docs/serve.md), or end it: `serve shutdown`.",
        )  # fmt: skip
    _try_to_listen(host, port)
    with _told_to_stop():
        try:
            serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
            waiting = threading.Timer(PATIENCE, _say_what_is_waited_for)
            waiting.daemon = True
            waiting.start()
            try:
                app = application(
                    config, replicas=replicas, most=most, cores=cores, chips=chips_of(chips),
                    keys=os.environ.get(VARIABLE, ""),
                )  # fmt: skip
                serve.run(app, name=NAME, route_prefix="/")
            except RuntimeError as error:
                raise WorkerError("the cluster does not serve", where="--ray", found=_why(error)) from None
            finally:
                waiting.cancel()
            names = ", ".join(one.name for one in config.models)
            _say(f"serving {names} at http://{f'[{host}]' if ':' in host else host}:{port} on Ray")
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
        finally:
            for name in (signal.SIGINT, signal.SIGTERM):  # it is at it
                signal.signal(name, signal.SIG_IGN)
            _end()


def _say(text: str) -> None:
    print(f"omniform: {text}", file=sys.stderr, flush=True)


def _try_to_listen(host: str, port: int) -> None:
    """See whether an address is free, where this machine is the cluster's head.

    Raises:
        InputError: it is not.
    """
    import ray

    here = ray.util.get_node_ip_address()
    heads = [node for node in ray.nodes() if "node:__internal_head__" in node["Resources"]]
    if any(node["NodeManagerAddress"] == here for node in heads):
        listen(host, port).close()


@contextlib.contextmanager
def _told_to_stop() -> Iterator[None]:
    """Have both signals raise a KeyboardInterrupt."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _say_what_is_waited_for() -> None:
    import ray

    there, free = ray.cluster_resources(), ray.available_resources()
    told = ", ".join(f"{free.get(kind, 0):g} of {there.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
    _say(f"waiting for replicas; the cluster has {told} left")


def _why(error: RuntimeError) -> str:
    """Why replicas cannot be made: the last error's own words, without where it was raised."""
    from ray import serve

    found = serve.status().applications.get(NAME)
    texts = [] if found is None else [one.message for one in found.deployments.values() if "Error" in one.message]
    lines = "\n".join(texts or [str(error)]).splitlines()
    named = [line.partition("Error: ")[2] for line in lines if "Error: " in line]
    return brief((named or lines)[-1].strip())


def _end() -> None:
    """Let replicas finish what they do, and end what was started here, unless others use it by now."""
    from ray import serve

    with contextlib.suppress(Exception):
        serve.delete(NAME)
    with contextlib.suppress(Exception):
        if not serve.status().applications:
            serve.shutdown()
