"""Memory that is taken only where it is written to, and promised to nobody until then."""

from __future__ import annotations

import math
import mmap
import sys

import torch
from torch import Tensor

LEAST = 16 << 20
"""Bytes from which memory is asked of the system by itself."""

_NORESERVE = 0x4000
"""``MAP_NORESERVE`` of Linux on x86-64 and AArch64 (``asm-generic/mman.h``), which Python's mmap names from 3.13 on."""


def reserved(*shape: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """A tensor with numbers of any kind in it, most of which may never be written.

    Engines ask for as much state as they may ever hold. Linux takes pages when they are written, but counts what was
    asked for: where two engines' state lies side by side, and together comes to more than the machine has, no process
    can be forked any more ("Cannot allocate memory"), though nearly all of it is free. So what is large is asked for
    without being counted.

    Args:
        shape: of it.
        dtype: of it.
        device: elsewhere than on a CPU under Linux, this is ``torch.empty``.

    Raises:
        MemoryError: more than there can be.

    Source: Linux's ``Documentation/mm/overcommit-accounting.rst``.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < LEAST or torch.device(device).type != "cpu" or not sys.platform.startswith("linux"):
        return torch.empty(*shape, dtype=dtype, device=device)
    try:
        pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"there is no room for {nbytes} bytes") from error
    return torch.frombuffer(pages, dtype=dtype).view(shape)
