"""Which replica a request goes to."""

from __future__ import annotations

from typing import Final

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from omniform.serve.ray_routes import Call, ordered

NOTHING: Final = Call("", "", b"", (), b"", "")
"""What is not known of a request that did not come through a door."""


class PrefixRouter(RequestRouter):  # type: ignore[misc]  # Ray is not followed by mypy
    """Sends requests with the same beginning to the replica that has it, unless that is busier than others."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Replicas in the order in which they are tried; see :func:`~omniform.serve.ray_routes.ordered`."""
        given = () if pending_request is None else pending_request.args
        call = given[0] if given and isinstance(given[0], Call) else NOTHING
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        loads = [(name, self.replica_queue_len_cache.get(replica.replica_id) or 0) for name, replica in by_name.items()]
        return [[by_name[name]] for name in ordered(call, loads)]
