"""The end of an epoch whose rows do not fill a batch in every process.

Accelerate fills the last round with rows from the beginning, so that all processes have equally many batches; those
rows would be learned from twice, and count twice in an evaluation's loss. Here they are left out: a process gets the
rows that are its own, and one that has none gets one row that counts for nothing, so that it meets the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from omniform.train.nested import nested_map
from omniform.train.values import Inputs

if TYPE_CHECKING:
    from accelerate import Accelerator


def deal(loader: Any, training: bool) -> None:
    """Have a loader that accelerate prepared for several processes deal rows as is said above.

    Args:
        training: leave repeated rows out; otherwise they are there for whoever gathers equally many rows of all, and
            :func:`own_part` tells which they are.
    """
    from accelerate.data_loader import BatchSamplerShard, DataLoaderDispatcher, IterableDatasetShard

    from omniform.train.parallel.batches import Dealer, Stream, WithoutRepeats

    if type(loader) is DataLoaderDispatcher and loader.torch_device_mesh is None:
        vars(object)["__class__"].__set__(loader, Dealer)  # past a property of its own
        loader.repeats = not training
        return
    if type(loader.dataset) is IterableDatasetShard:
        loader.dataset.__class__ = Stream
        # What a worker process reads, only it knows.
        loader.dataset.repeats = not training or loader.num_workers > 0
        return
    sampler = loader.batch_sampler
    even = type(sampler) is BatchSamplerShard and sampler.batch_size and sampler.even_batches and not sampler.drop_last
    if training and even:
        sampler.__class__ = WithoutRepeats


def _left(loader: Any) -> int:
    """Rows of the last round that a loader has just given, over all processes; 0 if it is full or nobody knows."""
    from omniform.train.parallel.batches import Stream

    if isinstance(loader.dataset, Stream):
        loader.remainder = loader.dataset.left  # a stream's length tells accelerate another number
    return max(int(loader.remainder), 0)


def is_idle(accelerator: Accelerator) -> bool:
    """Whether the batch that was read last holds no row of this process's own."""
    from omniform.train.parallel.batches import Dealer, Stream, WithoutRepeats, own_rows

    state = accelerator.gradient_state
    loader = state.active_dataloader
    if accelerator.num_processes == 1 or loader is None or not state.end_of_dataloader or not (left := _left(loader)):
        return False
    if type(loader) is Dealer or isinstance(loader.dataset, Stream):
        return (loader if type(loader) is Dealer else loader.dataset).own == 0
    sampler = loader.batch_sampler
    while sampler is not None and not isinstance(sampler, WithoutRepeats):
        sampler = vars(sampler).get("batch_sampler")  # what skips the batches that were read before
    here = 0 if sampler is None else loader.total_batch_size // accelerator.num_processes
    return bool(here) and own_rows(left, here, accelerator.process_index) == 0


def own_part(accelerator: Accelerator, inputs: Inputs, rows: int) -> tuple[Inputs, int]:
    """A batch of an evaluation without the rows that other batches hold, and how many it keeps of its ``rows``.

    Of a batch that has none of its own one row stays, and 0 is told.
    """
    from omniform.train.parallel.batches import own_rows

    state = accelerator.gradient_state
    loader = state.active_dataloader
    if accelerator.num_processes == 1 or loader is None or not state.end_of_dataloader or not (left := _left(loader)):
        return inputs, rows
    own = own_rows(left, rows, accelerator.process_index)
    return (inputs if own == rows else nested_map(_rows_of(rows, lambda x: x[: max(own, 1)]), inputs)), own


def filled(value: object, own: int, rows: int) -> object:
    """Outputs of ``own`` rows (at least one) with their last repeated up to ``rows``: all processes give as many."""
    here = max(own, 1)
    if here >= rows:
        return value
    return nested_map(_rows_of(here, lambda x: x[[*range(here), *[here - 1] * (rows - here)]]), value)


def _rows_of(count: int, change: Callable[[Tensor], Tensor]) -> Callable[[object], object]:
    """A change of those tensors whose first dimension is the batch's rows; and of nothing else."""
    return lambda x: change(x) if isinstance(x, Tensor) and x.dim() and len(x) == count else x
