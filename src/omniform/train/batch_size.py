"""Training batches that fit into memory, found by trying."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar, cast

from omniform.core.errors import OmniformError
from omniform.train.processes import check_accelerate

R = TypeVar("R")


class MemorySpentError(OmniformError, RuntimeError):
    """No batch is small enough for the memory that there is."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on an accelerator or on the host."""
    check_accelerate()
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or (isinstance(error, Exception) and bool(should_reduce_batch_size(error)))


def find_executable_batch_size(
    function: Callable[..., R] | None = None, starting_batch_size: int = 128, auto_find_batch_size: bool = False
) -> Callable[..., R]:
    """A function whose first argument is a batch size, called with smaller ones while memory runs out.

    Args:
        function: it; without it, what is returned is a decorator.
        starting_batch_size: the first that is tried.
        auto_find_batch_size: whether to try others at all.
    """
    if function is None:
        bound = functools.partial(find_executable_batch_size, starting_batch_size=starting_batch_size)
        return cast("Callable[..., R]", functools.partial(bound, auto_find_batch_size=auto_find_batch_size))
    if not auto_find_batch_size:
        return functools.partial(function, batch_size=starting_batch_size)
    return functools.partial(_tried, function, starting_batch_size)


def _tried(function: Callable[..., R], largest: int, *args: object, **kwargs: object) -> R:
    from accelerate.utils.memory import clear_device_cache

    batch_size, error = largest, None
    while batch_size:
        try:
            return function(batch_size, *args, **kwargs)
        except (RuntimeError, MemoryError) as problem:
            if not is_out_of_memory(problem):
                raise
            error = problem.with_traceback(None)  # whose frames hold tensors
            error.__context__ = error.__cause__ = None
        batch_size = int(batch_size * 0.9)
        clear_device_cache(garbage_collection=True)
    raise MemorySpentError(
        "memory runs out with batches of one example too",
        where="auto_find_batch_size",
        found=str(error)[:500],
        remedy="Set gradient_checkpointing, shorten the examples, train fewer weights, or compute in 16 bits.",
    ) from error


__all__ = [
    "MemorySpentError",
    "find_executable_batch_size",
]
