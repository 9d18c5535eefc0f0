"""Accelerate's batches of one process, without its repetitions; see :mod:`.rest`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from typing import cast

import torch.distributed as dist
from accelerate.data_loader import BatchSamplerShard, DataLoaderDispatcher, IterableDatasetShard
from accelerate.utils import send_to_device
from torch import Tensor

from omniform.train.nested import find_batch_size, nested_map


class WithoutRepeats(BatchSamplerShard):  # type: ignore[misc]
    """Accelerate's batches of one process, of which the last holds no row that another batch holds."""

    def __iter__(self) -> Iterator[list[int]]:
        last = len(self) - 1
        here = cast(int, self.batch_size) // (self.num_processes if self.split_batches else 1)
        left = len(self.batch_sampler.sampler) % (here * self.num_processes)
        own = own_rows(left, here, self.process_index)
        for place, batch in enumerate(super().__iter__()):
            yield batch[: max(own, 1)] if left and place == last else batch


def own_rows(left: int, here: int, process: int) -> int:
    """How many of the ``left`` rows of the last round are one process's, whose batches have ``here`` rows."""
    return min(max(left - process * here, 0), here)


class Stream(IterableDatasetShard):  # type: ignore[misc]
    """One process's rows of a stream that every process reads whole.

    Attributes:
        repeats: whether the last round is filled with a row from the beginning, so that all have equally many.
        left: rows of the last round over all processes, 0 if it is full; known when it has been read.
        own: how many of them are this process's.
    """

    repeats = True
    left = 0
    own: int | None = None

    @property
    def here(self) -> int:
        """Rows of a batch of one process."""
        return cast(int, self.batch_size) // (cast(int, self.num_processes) if self.split_batches else 1)

    def __len__(self) -> int:
        whole = len(cast("Sized", self.dataset))
        rounds = whole / (self.here * self.num_processes)
        return int(math.floor(rounds) if self.drop_last else math.ceil(rounds)) * self.here

    def __iter__(self) -> Iterator[object]:
        self.left, self.own = 0, None
        here = self.here
        first: list[object] | None = None
        read: list[object] = []
        for row in self.dataset:
            read.append(row)
            if len(read) == here * self.num_processes:
                yield from read[here * self.process_index : here * (self.process_index + 1)]
                first, read = first or read, []
        if self.drop_last or not read:
            return
        self.left = len(read)
        self.own = own = own_rows(self.left, here, self.process_index)
        again = read[:1] if first is None else first[:1]
        rows = read[here * self.process_index :][:own] or again
        yield from rows + (again * (here - len(rows)) if self.repeats else [])


class Dealer(DataLoaderDispatcher):  # type: ignore[misc]
    """Batches that the first process reads and deals out, each with the lengths of its own rows.

    Attributes:
        repeats: whether a last round's batches are filled up with their last row, so that all have equally many rows.
        own: how many rows of the batch just given are this process's own.
    """

    repeats = True
    own: int | None = None

    def __iter__(self) -> Iterator[object]:
        self.begin()
        self.set_epoch(self.iteration)
        # Every process makes one, as torch's loaders draw a common seed; the first reads.
        read = self.base_dataloader.__iter__()
        coming, own, rows = self._deal(read)
        place = 0
        while rows:
            batch, self.own, seen = coming, own, rows
            coming, own, rows = self._deal(read)
            if not rows:
                self.end_of_dataloader = True
                self.remainder = seen
            if place >= self.skip_batches:
                yield send_to_device(batch, self.state.device, non_blocking=self._non_blocking)
            place += 1
        self.iteration += 1
        self.end()

    def _deal(self, read: Iterator[object]) -> tuple[object, int, int]:
        """The next round: this process's batch, its own rows in it, and the rows of all processes; 0 at the end."""
        dealt = self._round(read) if self.state.process_index == 0 else [END] * self.state.num_processes
        mine = [END]
        dist.scatter_object_list(mine, dealt, src=0)
        return mine[0]

    def _round(self, read: Iterator[object]) -> list[tuple[object, int, int]]:
        count = self.state.num_processes
        self._update_state_dict()
        batches = [batch for _, batch in zip(range(1 if self.split_batches else count), read, strict=False)]
        if not batches:
            return [END] * count
        sizes = [find_batch_size(batch) or 1 for batch in batches]
        here, seen = -(-sizes[0] // count) if self.split_batches else sizes[0], sum(sizes)
        if self._drop_last and seen < here * count:
            return [END] * count
        if self.split_batches:
            batches = [_cut(batches[0], sizes[0], range(here * i, min(here * (i + 1), seen))) for i in range(count)]
        dealt = []
        for process in range(count):
            own = own_rows(seen, here, process)
            batch, rows = (batches[process], own) if own else (_cut(batches[0], sizes[0], range(1)), 1)
            wanted = [*range(rows), *([rows - 1] * (here - rows) if self.repeats else [])]
            dealt.append((batch if len(wanted) == rows else _cut(batch, rows, wanted), own, seen))
        return dealt


END: tuple[object, int, int] = (None, 0, 0)
"""There is no further round."""


def _cut(batch: object, rows: int, wanted: object) -> object:
    """Some rows of a batch, of those tensors that have its rows."""
    places = list(cast("list[int]", wanted))
    return nested_map(lambda x: x[places] if isinstance(x, Tensor) and x.dim() and len(x) == rows else x, batch)
