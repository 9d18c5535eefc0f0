"""A Ray cluster of several nodes on this machine."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

STORE = 80 << 20
TRIES = 3
T = TypeVar("T")


@contextlib.contextmanager
def clustered(nodes: int, cores: int = 1) -> Iterator[Cluster]:
    """A head without a core to compute on, and nodes with some."""
    import ray

    here = os.pathsep.join([str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")])
    # Ray's workers come after everything else of a machine (nice 15), so that they may starve beside other tests.
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    os.environ.update({"PYTHONPATH": here, "OMP_NUM_THREADS": "1", **quiet})
    cluster = started(_headed)
    try:
        for _ in range(nodes):
            add_a_node(cluster, cores)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        yield cluster
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()
        cluster.shutdown()


def started(start: Callable[[], T]) -> T:
    """A node, at the third try: Ray gives a node up whose agents have no 15 seconds to start in, and where other tests
    run beside they may not."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(Exception):
            return start()
    return start()


def _headed() -> Cluster:
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    return Cluster(initialize_head=True, head_node_args=head)


def add_a_node(cluster: Cluster, cores: int) -> None:
    """One more."""
    started(lambda: cluster.add_node(num_cpus=cores, object_store_memory=STORE))


def kill_a_node(cluster: Cluster) -> None:
    """kill -9 of a node's processes."""
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
