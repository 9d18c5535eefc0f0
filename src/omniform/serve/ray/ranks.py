"""A replica's model in several processes of a cluster: the replica's own leads, actors beside it hold the other parts.

Where they are is decided by the replica's placement group, which has a bundle for each: on one node while that has room
for all, else on several.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
import threading
from collections.abc import Mapping
from typing import Final, cast

import ray
import torch.distributed as dist
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented, but not in __all__

from omniform.core.errors import OmniformError, brief
from omniform.engine.engine import Engine
from omniform.serve.together import FAILED, GRACE, LAST_WORDS, STEP, backend, part_of

log = logging.getLogger("omniform.serve")

ADDRESS_OF_INTERFACE: Final = 0x8915
"""``SIOCGIFADDR`` of Linux's ``netdevice(7)``: what the kernel is asked with for an interface's address."""


class Follower:
    """What an actor is made of: a process that holds a part of a model, and computes what the first one tells it."""

    def follow(self, told: Mapping[str, object]) -> str:
        """Hold a part and compute with it until let go; returns why it cannot.

        Args:
            told: the group (``host``, ``port``, ``rank``, ``count``), the checkpoint (``source``, ``options``) and the
                engine's settings (``how``).
        """
        match told:
            case {
                "host": str() as host, "port": int() as port, "rank": int() as rank, "count": int() as count,
                "source": str() as source, "options": dict() as options, "how": dict() as how,
            }:  # fmt: skip
                store = TCPStore(host, port, is_master=False)
                join(store, rank, count)
                try:
                    Engine(part_of(source, options), **how).follow()
                except OmniformError as error:
                    return str(error)
                return ""
            case _:
                return "no settings of a follower"


def join(store: TCPStore, rank: int, count: int) -> None:
    """Become one of a group of processes.

    Args:
        store: where they meet.
        rank: which.
        count: of how many.
    """
    # Ray shows each actor its own devices alone: the first it sees is its.
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(count)})
    interface = interface_of(ray.util.get_node_ip_address())
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    dist.init_process_group(backend(), store=store, rank=rank, world_size=count, timeout=STEP)


def interface_of(address: str) -> str:
    """The network interface of this machine that has an address; "" where none is found."""
    if sys.platform != "linux":
        return ""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                told = fcntl.ioctl(asking.fileno(), ADDRESS_OF_INTERFACE, struct.pack("256s", name[:15].encode()))
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(told[20:24]) == address:
                return name
    return ""


class Actors:
    """Others that are actors of a cluster, see :class:`~omniform.serve.together.Others`.

    Args:
        group: the replica's, with a bundle for every process; the first is the replica's own.
        source: the checkpoint.
        count: how many processes hold it together, this one included.
        options: how it is loaded.
        how: the engine's settings.
    """

    def __init__(
        self, group: PlacementGroup, source: str, count: int, options: Mapping[str, object], how: Mapping[str, object]
    ) -> None:
        host = ray.util.get_node_ip_address()
        self._ending, self._count = False, count
        self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        told = {"host": host, "port": self._store.port, "count": count, "source": source, "options": dict(options),
                "how": dict(how)}  # fmt: skip
        self._actors: list[object] = []
        self._following: list[object] = []
        for rank in range(1, count):
            bundle = group.bundle_specs[rank]
            actor = ray.remote(Follower).options(
                num_cpus=bundle.get("CPU", 0), num_gpus=bundle.get("GPU", 0), max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
            ).remote()  # fmt: skip
            self._actors.append(actor)
            self._following.append(actor.follow.remote({**told, "rank": rank}))
        threading.Thread(target=self._watch, daemon=True, name="ranks").start()

    def meet(self) -> None:
        """See :class:`~omniform.serve.together.Others`."""
        join(self._store, 0, self._count)

    def end(self) -> None:
        """See :class:`~omniform.serve.together.Others`."""
        self._ending = True
        ray.wait(self._following, num_returns=len(self._following), timeout=GRACE)
        for actor in self._actors:
            ray.kill(actor)
        if dist.is_initialized():
            dist.destroy_process_group()

    def fail(self, error: BaseException) -> None:
        """See :class:`~omniform.serve.together.Others`."""
        why = f"a step of a model in {self._count} processes failed: {error}"
        threading.Timer(LAST_WORDS / 2, self._give_up, (why,)).start()

    def _watch(self) -> None:
        ended, _ = ray.wait(self._following, num_returns=1)
        try:
            why = cast(str, ray.get(ended[0])) or "ended"
        except Exception as error:  # it died, or what it did failed in words that are not ours
            why = brief(str(error))
        rank = self._following.index(ended[0]) + 1
        self._give_up(f"process {rank} of {self._count}, which holds a part of the model: {why}")

    def _give_up(self, why: str) -> None:
        """End this replica; Ray makes another, and ends the actors with it."""
        if not self._ending:
            self._ending = True
            log.critical("%s: the replica ends", why)
            os._exit(FAILED)  # at once: requests of which nothing was sent go to another replica
