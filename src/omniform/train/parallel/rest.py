"""The end of an epoch whose rows do not fill a batch in every process.

Accelerate fills the last round with rows from the beginning, so that all processes have equally many batches; those
rows would be learned from twice. Here they are left out: a process gets the rows that are its own, and one that has
none gets one row that counts for nothing, so that it meets the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator


def leave_out_repeats(loader: Any) -> None:
    """Have a loader that accelerate prepared for several processes repeat no row at the end of an epoch."""
    from accelerate.data_loader import BatchSamplerShard

    from omniform.train.parallel.batches import WithoutRepeats

    sampler = loader.batch_sampler
    if type(sampler) is BatchSamplerShard and sampler.batch_size and sampler.even_batches and not sampler.drop_last:
        sampler.__class__ = WithoutRepeats


def is_idle(accelerator: Accelerator) -> bool:
    """Whether the batch that was read last holds no row of this process's own."""
    from omniform.train.parallel.batches import WithoutRepeats, own_rows

    state = accelerator.gradient_state
    if accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder < 1:
        return False
    loader = state.active_dataloader
    sampler = None if loader is None else loader.batch_sampler
    while sampler is not None and not isinstance(sampler, WithoutRepeats):
        sampler = vars(sampler).get("batch_sampler")  # what skips the batches that were read before
    here = 0 if sampler is None else loader.total_batch_size // accelerator.num_processes
    return bool(here) and own_rows(state.remainder, here, accelerator.process_index) == 0
