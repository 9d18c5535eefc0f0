"""What a process of two does in a test of gathering; imports no more than it needs."""

from __future__ import annotations

import torch

from omniform import trainer_pt_utils as mine


def gather(rank: int, meet: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    try:
        value = {"x": torch.full((2, 2), rank), "y": [torch.tensor(rank)]}
        found = mine.distributed_concat(value, num_total_examples=3)
        assert found["x"].tolist() == [[0, 0], [0, 0], [1, 1]] and found["y"][0].tolist() == [0, 1]
        assert mine.distributed_broadcast_scalars([rank, 5]).tolist() == [0, 5, 1, 5]
        assert mine.nested_gather(value, "not_distributed") is value
        sampler = mine.DistributedLengthGroupedSampler(2, lengths=[3, 1, 2, 5])
        assert sampler.num_replicas == 2 and sampler.rank == rank
    finally:
        torch.distributed.destroy_process_group()
