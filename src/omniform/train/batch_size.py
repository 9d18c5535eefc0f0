"""Training batches that fit into memory, found by trying."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar, cast

from omniform.train.processes import check_accelerate

R = TypeVar("R")


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
    check_accelerate()
    from accelerate.utils import find_executable_batch_size as smaller

    return cast("Callable[..., R]", smaller(function=function, starting_batch_size=starting_batch_size))


__all__ = [
    "find_executable_batch_size",
]
