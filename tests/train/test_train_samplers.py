"""Samplers give the reference's order; nests of tensors are joined, cut and gathered as there."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler
from train_gathering import gather
from transformers import trainer_pt_utils as theirs

import omniform
from omniform import trainer_pt_utils as mine
from omniform.core.errors import InputError
from reference import transformers

assert transformers


def lengths_of(count: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randint(1, 200) for _ in range(count)]


@pytest.mark.parametrize(("count", "batch"), [(1, 4), (7, 3), (100, 4), (1000, 8), (5, 1)])
def test_length_grouped(count: int, batch: int) -> None:
    lengths = lengths_of(count)
    rows = [{"input_ids": [0] * n, "features": [0] * (201 - n)} for n in lengths]
    for options in ({"lengths": lengths}, {"lengths": torch.tensor(lengths)}, {"dataset": rows},
                    {"dataset": rows, "model_input_name": "features"}):  # fmt: skip
        orders = []
        for module in (mine, theirs):
            sampler = module.LengthGroupedSampler(batch, generator=torch.Generator().manual_seed(7), **options)
            orders.append([*sampler, *sampler, len(sampler)])
        assert orders[0] == orders[1]
    for more in ({}, {"mega_batch_mult": 2}):
        drawn = []
        for module in (mine, theirs):
            torch.manual_seed(3)
            drawn.append(module.get_length_grouped_indices(lengths, batch, **more))
        assert drawn[0] == drawn[1]


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize(("count", "replicas"), [(103, 4), (100, 4), (3, 5), (10, 3)])
def test_over_processes(count: int, replicas: int, drop: bool) -> None:
    lengths = lengths_of(count, 1)
    rows = [*range(count)]
    for rank in range(replicas):
        places = {"num_replicas": replicas, "rank": rank, "drop_last": drop}
        processes = {"num_processes": replicas, "process_index": rank, "drop_last": drop}
        makers = [
            lambda module, p=places: module.DistributedLengthGroupedSampler(2, lengths=lengths, seed=3, **p),
            lambda module, p=places: module.DistributedSamplerWithLoop(rows, batch_size=4, seed=2, **p),
            lambda module, p=processes: module.ShardSampler(rows, batch_size=3, **p),
            lambda module, p=processes: module.ShardSampler(rows, **p),
        ]
        for make in makers:
            ours, other = make(mine), make(theirs)
            for epoch in range(2):
                for sampler in (ours, other):
                    if not isinstance(sampler, (mine.ShardSampler, theirs.ShardSampler)):
                        sampler.set_epoch(epoch)
                if drop and count < replicas and not isinstance(ours, mine.ShardSampler):
                    continue  # nothing is left
                assert [*ours] == [*other] and len(ours) == len(other)


class Stream(IterableDataset):
    """Examples in an order that its own generator draws."""

    def __init__(self, count: int) -> None:
        self.count, self.generator = count, torch.Generator()

    def __iter__(self):
        yield from torch.randperm(self.count, generator=self.generator).tolist()

    def __len__(self) -> int:
        return self.count


class Telling(Stream):
    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(100 + epoch)


@pytest.mark.parametrize("stream", [Stream, Telling])
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("count", [23, 24, 2, 0])
def test_streams_are_dealt_out(stream: type, drop: bool, count: int) -> None:
    for index in range(3):
        found = []
        for module in (mine, theirs):
            shard = module.IterableDatasetShard(stream(count), 2, drop, num_processes=3, process_index=index, seed=5)
            got: list[object] = []
            for epoch in range(2):
                shard.set_epoch(epoch)
                got += [*shard, shard.num_examples, len(shard)]
            found.append(got)
        assert found[0] == found[1]


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize(("count", "batch", "dp", "accumulate"), [
    (200, 16, 4, 2), (75, 32, 2, 4), (64, 8, 8, 1), (33, 6, 3, 2), (17, 5, 1, 1), (90, 40, 2, 9), (3, 12, 3, 4),
])  # fmt: skip
def test_costs_are_balanced_as_the_reference_does(count: int, batch: int, dp: int, accumulate: int, drop: bool) -> None:
    chance = random.Random(count)
    lengths = [int(chance.lognormvariate(4, 1.3)) + 1 for _ in range(count)]
    for shuffle in (True, False):
        for rank in range(dp):
            orders = []
            for module in (mine, theirs):
                sampler = module.BatchRebalanceSampler(
                    lengths, batch, dp, accumulate, shuffle=shuffle, rank=rank, drop_last=drop
                )
                sampler.set_epoch(1)
                orders.append([*sampler, len(sampler)])
            assert orders[0] == orders[1]


def test_what_cannot_be_sampled_is_refused() -> None:
    for make in (
        lambda: mine.LengthGroupedSampler(2),
        lambda: mine.LengthGroupedSampler(2, dataset=[{"input_ids": [1]}, {"ids": [1]}]),
        lambda: mine.LengthGroupedSampler(2, dataset=[[1], [2]]),
        lambda: [*mine.LengthGroupedSampler(2, lengths=[])],
        lambda: mine.DistributedLengthGroupedSampler(2, lengths=[1, 2]),
        lambda: mine.BatchRebalanceSampler([1, 2], 1, 2, 1),
    ):
        with pytest.raises(InputError):
            make()
    with pytest.raises(RuntimeError):
        mine.DistributedLengthGroupedSampler(2, lengths=[1, 2])


def test_the_sampler_of_a_loader() -> None:
    rows = [*range(6)]
    own = BatchSampler(RandomSampler(rows), 2, False)
    for loader in (DataLoader(rows, 2), DataLoader(rows, batch_sampler=own), DataLoader(rows, batch_size=None)):
        assert mine.get_dataloader_sampler(loader) is theirs.get_dataloader_sampler(loader)
    assert isinstance(mine.get_dataloader_sampler(DataLoader(rows, 2)), SequentialSampler)
    assert mine.get_dataloader_sampler(3) is None


# ---- nests


class Pair(NamedTuple):
    first: object
    second: object


def nest(rows: int, width: int, make: object) -> object:
    generator = np.random.default_rng(rows)
    draw = lambda *shape: make(generator.integers(0, 9, shape))
    return [draw(rows), (draw(rows, width), {"a": draw(rows, width, 2)}), draw(rows, 3)]


def equal(found: object, expected: object) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        [equal(*pair) for pair in zip(found, expected, strict=True)]
    elif isinstance(expected, dict):
        assert [*found] == [*expected]
        [equal(found[name], value) for name, value in expected.items()]
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype and np.array_equal(found, expected)
    else:
        assert found == expected


@pytest.mark.parametrize("make", [torch.from_numpy, np.asarray], ids=["torch", "numpy"])
def test_nests(make: object) -> None:
    a, b, c = nest(3, 4, make), nest(2, 6, make), nest(1, 2, make)
    for args in ((a, b), (b, a), (a, c), (b[1], c[1])):
        equal(mine.nested_concat(*args), theirs.nested_concat(*args))
        equal(mine.nested_concat(*args, padding_index=-1), theirs.nested_concat(*args, padding_index=-1))
    equal(mine.nested_truncate(a, 2), theirs.nested_truncate(a, 2))
    equal(mine.nested_detach(a), theirs.nested_detach(a))
    assert mine.find_batch_size([None, {"x": a}]) == theirs.find_batch_size([None, {"x": a}]) == 3
    assert mine.find_batch_size(make(np.array(1))) is None and mine.find_batch_size("text") is None
    single = make(np.array(4))
    equal(mine.nested_concat(single, single), theirs.nested_concat(single, single))
    pair = mine.nested_concat(Pair(a[0], a[2]), Pair(b[0], b[2]))
    assert isinstance(pair, Pair) and pair.first.shape == (5,)
    if make is np.asarray:
        plain = [a[0], (a[2],)]
        equal(mine.nested_new_like(plain, 7), theirs.nested_new_like(plain, 7))
        equal(mine.expand_like(a[2], 5), theirs.expand_like(a[2], 5))
    else:
        equal(mine.nested_numpify(a), theirs.nested_numpify(a))
        half = {"x": torch.ones(2, dtype=torch.bfloat16, requires_grad=True)}
        assert mine.nested_numpify(half)["x"].dtype == np.float32
        assert not mine.nested_detach(half)["x"].requires_grad


@pytest.mark.parametrize("join", [True, False])
def test_what_an_evaluation_collects(join: bool) -> None:
    ours, other = (module.EvalLoopContainer(do_nested_concat=join, padding_index=-7) for module in (mine, theirs))
    assert ours.get_arrays() is None
    for step, width in enumerate((4, 6, 2, 5)):
        for container in (ours, other):
            container.add((torch.full((2, width), step), {"x": torch.arange(3)}))
            if step == 1:
                container.to_cpu_and_numpy()
    equal(ours.get_arrays(), other.get_arrays())
    assert ours.tensors is None


def test_nests_that_do_not_fit() -> None:
    with pytest.raises(AssertionError, match="kinds"):
        mine.nested_concat([torch.ones(1)], (torch.ones(1),))
    with pytest.raises(TypeError, match="tensors"):
        mine.nested_concat("a", "b")
    with pytest.raises(TypeError):
        mine.nested_numpify(["text"])
    with pytest.raises(AssertionError, match="no other processes"):
        mine.distributed_concat(torch.ones(2))


def test_gathering_over_processes(tmp_path) -> None:
    torch.multiprocessing.spawn(gather, args=(str(tmp_path / "meet"),), nprocs=2)


NAMES = """
DistributedSamplerWithLoop EvalLoopContainer LengthGroupedSampler DistributedLengthGroupedSampler ShardSampler
BatchRebalanceSampler IterableDatasetShard nested_concat nested_detach nested_numpify nested_truncate
distributed_concat find_batch_size get_length_grouped_indices torch_pad_and_concatenate nested_gather
numpy_pad_and_concatenate expand_like nested_new_like distributed_broadcast_scalars atleast_1d
torch_distributed_zero_first get_dataloader_sampler is_attention_mask_causal reissue_pt_warnings
"""


def test_names() -> None:
    for name in NAMES.split():
        assert callable(getattr(theirs, name)) and callable(getattr(mine, name))
    assert omniform.torch_distributed_zero_first is mine.torch_distributed_zero_first
