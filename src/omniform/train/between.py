"""Between processes: nests of tensors gathered, and a turn for the first process of a machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from omniform.core.errors import InputError, MissingPartError
from omniform.train.nested import Array, atleast_1d, nested_map

__all__ = [
    "distributed_broadcast_scalars",
    "distributed_concat",
    "is_attention_mask_causal",
    "nested_gather",
    "nested_xla_mesh_reduce",
    "reissue_pt_warnings",
    "torch_distributed_zero_first",
]

N = TypeVar("N")


def is_distributed() -> bool:
    """Whether this is one of several processes that talk to each other."""
    return dist.is_available() and dist.is_initialized()


class AloneError(InputError, AssertionError):
    """Other processes are asked for, and there are none."""


def _check_distributed(where: str) -> None:
    if not is_distributed():
        raise AloneError(
            "there are no other processes",
            where=where,
            expected="torch.distributed.init_process_group() before",
            remedy="Start the script with torchrun or accelerate launch.",
        )


def distributed_concat(tensor: N, num_total_examples: int | None = None) -> N:
    """A nest of tensors of all processes, one after the other; they have the same shapes everywhere.

    Args:
        num_total_examples: keep so many rows: samplers repeat examples to fill the last batch.

    Raises:
        InputError: there is one process only.
    """
    _check_distributed("distributed_concat")

    def gathered(value: object) -> object:
        row = cast(Tensor, atleast_1d(cast(Array, value))).contiguous()
        parts = [torch.empty_like(row) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, row)
        return torch.cat(parts, dim=0)[:num_total_examples]

    return nested_map(gathered, tensor)


def distributed_broadcast_scalars(
    scalars: Sequence[int | float],
    num_total_examples: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """The numbers of all processes in one tensor. Shape: [processes * numbers].

    Args:
        num_total_examples: keep so many of them.
        device: where they are exchanged; by default CUDA where there is any.

    Raises:
        InputError: there is one process only.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return distributed_concat(torch.tensor(scalars, device=device), num_total_examples)


def nested_gather(tensors: object, parallel_mode: object, name: str | None = None) -> object:
    """A nest of tensors of all processes, where there are several.

    Args:
        parallel_mode: ``ParallelMode.DISTRIBUTED`` to gather.
        name: inert.
    """
    mode = parallel_mode.value if isinstance(parallel_mode, Enum) else parallel_mode
    distributed = mode == "distributed"
    return tensors if tensors is None or not distributed else distributed_concat(tensors)


def nested_xla_mesh_reduce(tensors: object, name: str) -> object:
    """Refused: omniform trains on no TPU.

    Raises:
        MissingPartError: always.
    """
    raise MissingPartError("omniform does not gather over torch_xla", where="nested_xla_mesh_reduce")


@contextmanager
def torch_distributed_zero_first(local_rank: int) -> Iterator[None]:
    """All processes of a machine but the first wait until it has done what stands inside (a download, a cache).

    Args:
        local_rank: the number of this process on its machine; -1 where there is one only.
    """
    if local_rank not in (-1, 0):
        dist.barrier()
    yield
    if local_rank == 0 and is_distributed():
        dist.barrier()


def reissue_pt_warnings(caught_warnings: Sequence[warnings.WarningMessage]) -> None:
    """Warn again of what was caught, if there was more than one warning; a torch scheduler's own are left out."""
    if len(caught_warnings) > 1:
        for caught in caught_warnings:
            if caught.category is not UserWarning:
                warnings.warn(caught.message, caught.category, stacklevel=2)


def is_attention_mask_causal(attention_mask: Tensor | None) -> bool:
    """Whether a mask lets no token see a later one: none, one of padding, or one of zeros above its diagonal.

    Args:
        attention_mask: Shape: [B, T], [B, T, T] or [B, heads, T, T]; of the latter two the first matrix is looked at.
    """
    if attention_mask is None or attention_mask.dim() == 2:
        return True
    if attention_mask.dim() not in (3, 4):
        return False
    later = torch.triu(attention_mask.flatten(0, -3)[0], diagonal=1)
    return bool((later <= 1e-6).all())
