"""Looking at numbers where data comes in: on the host, and never while a model is traced.

A forward must not ask a tensor for its values: that waits for an accelerator, and ends the work of whoever traces it.
What is checked is checked before, here, on memory that the host has anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import TypeVar, TypeVarTuple

import numpy as np
import torch
from torch import Tensor

Args = TypeVarTuple("Args")
R = TypeVar("R")

NOTHING = (0, 0)

HALVES = (torch.bfloat16, torch.float16)


def is_traced() -> bool:
    """Whether someone is recording what is computed (compile, export, jit) rather than computing."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def is_jit_traced() -> bool:
    """Whether TorchScript is recording, which knows tensors and tuples only."""
    return torch._C._get_tracing_state() is not None


def kept_unless_traced(most: int) -> Callable[[Callable[[*Args], R]], Callable[[*Args], R]]:
    """Decorates what makes a constant tensor: results are kept, but what is made in a trace is of that trace only.

    Args:
        most: how many results are kept; the least used goes first.
    """

    def keeping(make: Callable[[*Args], R]) -> Callable[[*Args], R]:
        @lru_cache(maxsize=most)
        def kept(*args: *Args) -> R:
            with torch.inference_mode(False):  # what is kept may be learned with later
                return make(*args)

        @wraps(make)
        def call(*args: *Args) -> R:
            return make(*args) if is_traced() else kept(*args)

        return call

    return keeping


_RECORDED: ContextVar[bool] = ContextVar("recorded", default=False)


@contextmanager
def recording() -> Iterator[None]:
    """Within, what is asked of a GPU is recorded, to be played many times: how long its start takes costs once."""
    token = _RECORDED.set(True)
    try:
        yield
    finally:
        _RECORDED.reset(token)


def is_recorded() -> bool:
    """See :func:`recording`. In a trace nothing is: what traces cannot look at what is of a thread's own."""
    return not is_traced() and _RECORDED.get()


def is_readable(x: Tensor) -> bool:
    """Whether the host can look at the values for nothing: plain memory of its own."""
    plain = type(x) in (Tensor, torch.nn.Parameter) and x.device.type == "cpu" and x.layout is torch.strided
    return plain and torch._C._functorch.maybe_current_level() is None  # no transform of functions is at work


def is_fetchable(x: Tensor) -> bool:
    """Whether the host can look at the values, if it waits for them where they lie elsewhere."""
    return not is_traced() and (is_readable(x) or x.device.type not in ("cpu", "meta"))


def bounds_of(x: Tensor) -> tuple[int, int]:
    """The least and the greatest of some integers; ``(0, 0)`` where they cannot be looked at, or there are none."""
    if not is_readable(x) or not x.numel():
        return NOTHING
    values = x.detach().numpy()
    return int(values.min()), int(values.max())


def counts_of(x: Tensor, kinds: int) -> list[int] | None:
    """How often each number from 0 to ``kinds`` is there; None where values cannot be looked at, or must not be."""
    if not is_readable(x) or is_traced():
        return None
    counts: list[int] = x.detach().flatten().bincount(minlength=kinds).tolist()
    return counts


def sent(numbers: np.ndarray[tuple[int, ...], np.dtype[np.generic]], device: torch.device) -> Tensor:
    """Numbers of the host's as a tensor on a device; nobody waits for the copy, nor for what was asked before it.

    A copy from ordinary memory to a GPU waits until all that was asked of the GPU is done; one from pinned memory does
    not, and torch keeps such memory until it was read.
    """
    here = torch.from_numpy(numbers)
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here.to(device)


def is_all_true(x: Tensor) -> bool:
    """Whether all values are known to be other than 0."""
    return is_readable(x) and x.dtype is not torch.bfloat16 and bool(x.detach().numpy().all())


def is_all_false(x: Tensor) -> bool:
    """Whether all values are known to be 0."""
    return is_readable(x) and x.dtype is not torch.bfloat16 and not x.detach().numpy().any()


def is_rounded(x: Tensor) -> bool:
    """Whether autocast has made halves of what a model in float32 computes."""
    return x.dtype in HALVES and x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
