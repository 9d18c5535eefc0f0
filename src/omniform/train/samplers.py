"""Samplers by the ecosystem's names and in its order: examples of like lengths together, shards of processes.

An order follows from the generator's state (or seed and epoch) alone, so that a run that was stopped makes it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, cast, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from torch.utils.data.distributed import DistributedSampler

from omniform.core.errors import InputError, brief
from omniform.train.between import is_distributed
from omniform.train.rebalance import BatchRebalanceSampler

__all__ = [
    "BatchRebalanceSampler",
    "DistributedLengthGroupedSampler",
    "DistributedSamplerWithLoop",
    "IterableDatasetShard",
    "LengthGroupedSampler",
    "ShardSampler",
    "get_dataloader_sampler",
    "get_length_grouped_indices",
]

MEGABATCHES = 50
"""So many batches are sorted by length together, at most."""


def get_length_grouped_indices(
    lengths: Sequence[int],
    batch_size: int,
    mega_batch_mult: int | None = None,
    generator: torch.Generator | None = None,
) -> list[int]:
    """A random order in which the examples of a batch have like lengths.

    All are shuffled; each run of ``mega_batch_mult`` batches is sorted, the longest first. The longest of all comes at
    the very beginning, so that memory runs out at once if it does.

    Args:
        lengths: of the examples.
        batch_size: examples in a batch.
        mega_batch_mult: by default 50, or as many as make four runs if that is less.
        generator: draws the order; by default torch's global one.

    Raises:
        InputError: there are no examples.
    """
    if len(lengths) == 0:
        raise InputError("there are no examples to put in order", where="lengths", expected="at least one")
    if mega_batch_mult is None:
        mega_batch_mult = max(min(len(lengths) // (batch_size * 4), MEGABATCHES), 1)
    order: list[int] = torch.randperm(len(lengths), generator=generator).tolist()
    size = mega_batch_mult * batch_size
    runs = [
        sorted(order[begin : begin + size], key=lambda index: lengths[index], reverse=True)
        for begin in range(0, len(order), size)
    ]
    longest = max(range(len(runs)), key=lambda run: lengths[runs[run][0]])
    runs[0][0], runs[longest][0] = runs[longest][0], runs[0][0]
    return [index for run in runs for index in run]


class LengthGroupedSampler(Sampler[int]):
    """Examples of like lengths together; see :func:`get_length_grouped_indices`.

    Args:
        batch_size: examples in a batch.
        dataset: whose examples are measured.
        lengths: of the examples, instead.
        model_input_name: the column that is measured.
        generator: draws the order.

    Raises:
        InputError: there is neither a dataset nor lengths, or examples cannot be measured.
    """

    def __init__(
        self,
        batch_size: int,
        dataset: Dataset[object] | None = None,
        lengths: Sequence[int] | Tensor | None = None,
        model_input_name: str | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.lengths = read_lengths(dataset, lengths, model_input_name)
        self.generator = generator

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=self.generator))


def read_lengths(dataset: object, lengths: Sequence[int] | Tensor | None, name: str | None) -> list[int]:
    """The lengths of examples: as given, or measured.

    Raises:
        InputError: there is neither, or an example has no such column of a length.
    """
    if lengths is not None:
        return lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)
    if dataset is None:
        raise InputError("the lengths of the examples are not known", where="dataset", expected="dataset or lengths")
    name = "input_ids" if name is None else name
    measured = []
    for index, example in enumerate(cast("Sequence[object]", dataset)):
        if not isinstance(example, Mapping) or name not in example:
            raise InputError(
                "the length of an example cannot be told",
                where=f"example {index} of the dataset",
                expected=f"a mapping with a column {name!r}",
                found=f"columns {sorted(example)}" if isinstance(example, Mapping) else brief(example),
                remedy="Pass lengths, or give the dataset a column of lengths (length_column_name).",
            )
        measured.append(len(example[name]))
    return measured


def _standing(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    """The number of processes and which one this is, asked of torch where they are not told."""
    if (num_replicas is None or rank is None) and not is_distributed():
        raise _NoProcessesError(
            "it is not known which process this is",
            where="num_replicas, rank",
            remedy="Pass both, or call torch.distributed.init_process_group() before.",
        )
    return (
        dist.get_world_size() if num_replicas is None else num_replicas,
        dist.get_rank() if rank is None else rank,
    )


class _NoProcessesError(InputError, RuntimeError):
    """Nobody has said how many processes there are."""


class DistributedLengthGroupedSampler(DistributedSampler[object]):
    """:class:`LengthGroupedSampler` over processes: of the common order, each takes every n-th.

    Args:
        batch_size: examples in a batch.
        dataset: whose examples are measured.
        num_replicas: the number of processes.
        rank: which one this is.
        seed: of the order; the epoch is added (:meth:`set_epoch`).
        drop_last: leave out what does not divide evenly, instead of repeating examples.
        lengths: of the examples, instead of a dataset.
        model_input_name: the column that is measured.

    Raises:
        InputError: there is neither a dataset nor lengths, or nobody knows the processes.
    """

    # The base asks for a dataset, which there need not be.
    def __init__(
        self,
        batch_size: int,
        dataset: Dataset[object] | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
        lengths: Sequence[int] | Tensor | None = None,
        model_input_name: str | None = None,
    ) -> None:
        self.lengths = read_lengths(dataset, lengths, model_input_name)
        self.num_replicas, self.rank = _standing(num_replicas, rank)
        self.batch_size = batch_size
        self.epoch, self.seed, self.drop_last = 0, seed, drop_last
        count = len(self.lengths)
        uneven = drop_last and count % self.num_replicas
        self.num_samples = math.ceil((count - self.num_replicas if uneven else count) / self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)
        return iter(_filled(order, self.total_size)[self.rank :: self.num_replicas])


def _filled(order: list[int], count: int) -> list[int]:
    """An order of so many: cut, or repeated from its beginning."""
    return [order[at % len(order)] for at in range(count)] if count else []


class DistributedSamplerWithLoop(DistributedSampler[object]):
    """torch's ``DistributedSampler``, whose last batch is filled from the beginning.

    Args:
        dataset: what is sampled.
        batch_size: examples in a batch.
        kwargs: of torch's.
    """

    def __init__(self, dataset: Dataset[object], batch_size: int, **kwargs: object) -> None:
        super().__init__(dataset, **kwargs)  # type: ignore[arg-type]
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        order = [cast(int, index) for index in super().__iter__()]
        missing = -len(order) % self.batch_size
        # The base has repeated the first example already where this process got one too few.
        begin = 1 if self.rank < len(cast("Sequence[object]", self.dataset)) % self.num_replicas else 0
        return iter(order + order[begin : begin + missing])


class ShardSampler(Sampler[int]):
    """In order, batch by batch: the first batch goes to the first process, the second to the second, and so on.

    Args:
        dataset: what is sampled.
        batch_size: examples in a batch.
        drop_last: leave out what does not fill a batch of every process, instead of repeating examples.
        num_processes: the number of processes.
        process_index: which one this is.
    """

    def __init__(
        self,
        dataset: Dataset[object],
        batch_size: int = 1,
        drop_last: bool = False,
        num_processes: int = 1,
        process_index: int = 0,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.num_processes = num_processes
        self.process_index = process_index
        self.total_batch_size = batch_size * num_processes
        rounds = self._count() / self.total_batch_size
        self.total_num_samples = (math.floor(rounds) if drop_last else math.ceil(rounds)) * self.total_batch_size

    def _count(self) -> int:
        return len(cast("Sequence[object]", self.dataset))

    def __iter__(self) -> Iterator[int]:
        order = _filled([*range(self._count())], self.total_num_samples)
        first = self.batch_size * self.process_index
        begins = range(first, self.total_num_samples, self.total_batch_size)
        return iter([index for begin in begins for index in order[begin : begin + self.batch_size]])

    def __len__(self) -> int:
        return self.total_num_samples // self.num_processes


@runtime_checkable
class _KnowsEpochs(Protocol):
    def set_epoch(self, epoch: int) -> object: ...


@runtime_checkable
class _Draws(Protocol):
    generator: torch.Generator


class IterableDatasetShard(IterableDataset[object]):
    """One process's part of a stream, batch by batch; the last batches are filled with examples of the first ones.

    A stream that shuffles must do so alike in all processes: by a ``generator`` of its own, which is seeded here with
    ``seed`` plus the epoch, or by a ``set_epoch`` of its own.

    Args:
        dataset: the stream.
        batch_size: examples in a batch.
        drop_last: leave out what does not fill a batch of every process.
        num_processes: the number of processes.
        process_index: which one this is.
        seed: of the stream's generator.
    """

    def __init__(
        self,
        dataset: IterableDataset[object],
        batch_size: int = 1,
        drop_last: bool = False,
        num_processes: int = 1,
        process_index: int = 0,
        seed: int = 0,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.num_processes = num_processes
        self.process_index = process_index
        self.seed = seed
        self.epoch = 0
        self.num_examples = 0

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch comes next."""
        self.epoch = epoch
        if isinstance(self.dataset, _KnowsEpochs):
            self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[object]:
        self.num_examples = 0
        own = self.dataset
        if not isinstance(own, _KnowsEpochs) and isinstance(own, _Draws) and isinstance(own.generator, torch.Generator):
            own.generator.manual_seed(self.seed + self.epoch)
        whole = self.batch_size * self.num_processes
        mine = slice(self.process_index * self.batch_size, (self.process_index + 1) * self.batch_size)
        first: list[object] | None = None
        batch: list[object] = []
        for example in own:
            self.num_examples += 1
            batch.append(example)
            if len(batch) == whole:
                yield from batch[mine]
                first, batch = first or batch, []
        if batch and not self.drop_last:
            first = first or list(batch)
            while len(batch) < whole:
                batch += first
            yield from batch[mine]

    def __len__(self) -> int:
        rounds = len(cast("Sequence[object]", self.dataset)) / (self.batch_size * self.num_processes)
        return (math.floor(rounds) if self.drop_last else math.ceil(rounds)) * self.batch_size


def get_dataloader_sampler(dataloader: object) -> object:
    """The sampler at the bottom of a loader, below its samplers of batches; None where there is none."""
    found = dataloader
    while True:
        if isinstance(found, (DataLoader, _HasBatches)) and found.batch_sampler is not None:
            found = found.batch_sampler
        elif isinstance(found, _HasSampler):
            return found.sampler
        else:
            return None


@runtime_checkable
class _HasBatches(Protocol):
    batch_sampler: object


@runtime_checkable
class _HasSampler(Protocol):
    sampler: object
