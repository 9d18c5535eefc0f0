"""A Ray cluster of several nodes on this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

STORE = 80 << 20


@contextlib.contextmanager
def clustered(nodes: int) -> Iterator[Cluster]:
    """A head without a core to compute on, and nodes of one each."""
    import ray
    from ray.cluster_utils import Cluster

    here = os.pathsep.join([str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")])
    os.environ.update({"PYTHONPATH": here, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"})
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        yield cluster
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()
        cluster.shutdown()
