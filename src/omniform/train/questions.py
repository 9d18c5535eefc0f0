"""Small questions about processes and functions that scripts of the ecosystem ask."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import torch


def is_main_process(local_rank: int) -> bool:
    """Whether a local rank is that of the main process; -1 is a run of one process."""
    return local_rank in (-1, 0)


def total_processes_number(local_rank: int) -> int:
    """How many processes there are."""
    return torch.distributed.get_world_size() if local_rank != -1 else 1


def number_of_arguments(func: Callable[..., object]) -> int:
    """How many arguments a function takes that are not bound yet."""
    if isinstance(func, functools.partial):
        return len(inspect.signature(func.func).parameters) - len(func.args) - len(func.keywords)
    return len(inspect.signature(func).parameters)


__all__ = ["is_main_process", "number_of_arguments", "total_processes_number"]
