"""Accelerate's batches of one process, without its repetitions; see :mod:`.rest`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from accelerate.data_loader import BatchSamplerShard


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
