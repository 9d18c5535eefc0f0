"""Which pages of mapped files are held in memory: asking for them early, letting them go.

A tensor that is a view of a mapped file costs memory only for the pages that were touched, and those can be dropped
again at any time: the kernel reads them anew when they are next touched. Both calls here are advice. Where the system
has no such calls, they do nothing and nothing else changes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from functools import cache
from io import FileIO
from threading import Event

import numpy as np
import torch
from torch import Tensor

_PRESENT, _SWAPPED, _OF_A_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))
"""Bits of an entry of ``/proc/self/pagemap`` (https://docs.kernel.org/admin-guide/mm/pagemap.html)."""

_WILLNEED, _DONTNEED, _COLLAPSE = 3, 4, 25
"""madvise(2)'s numbers, the same on all Linux machines."""

_AT_ONCE = 1 << 24
"""Bytes asked for at once."""


def release(tensor: Tensor) -> None:
    """Let go of the memory behind a tensor that is a view of a mapped file; touched again, it is read again.

    The tensor stays valid, and nothing is ever lost: where a page of it was written to, or where the memory is no
    file's at all (a plain tensor, one on another device), nothing happens. Only whole pages go, so that neighbours
    in the file keep theirs. Nobody may *write* to the tensor in another thread meanwhile.
    """
    span = _pages(tensor, outwards=False)
    if span is not None and _is_clean(*span):
        _advise(*span, _DONTNEED)


def collapse(address: int, nbytes: int) -> None:
    """Have the kernel put memory that is read over and over into large pages, if it can (Linux 6.1 and later).

    Reading weights from small pages, a core spends a good part of its time on looking pages up.
    """
    size = 1 << 21
    first, behind = -(-address // size) * size, (address + nbytes) // size * size
    if behind > first:
        _advise(first, behind - first, _COLLAPSE)


def is_mapped(tensor: Tensor) -> bool:
    """Whether a tensor is a view of a mapped file that nobody wrote to, so that :func:`release` frees its memory."""
    span = _pages(tensor, outwards=False)
    return span is not None and _is_clean(*span)


def were_written(tensors: Sequence[Tensor]) -> bool:
    """Whether somebody wrote to any of some tensors of which :func:`is_mapped` was true.

    Looks at one page of each, in the middle, which takes a few microseconds.
    """
    if not tensors:
        return False
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as table:
            for tensor in tensors:
                span = _pages(tensor, outwards=False)
                if span is not None:
                    middle = span[0] + span[1] // mmap.PAGESIZE // 2 * mmap.PAGESIZE
                    if not _are_clean(table, middle, mmap.PAGESIZE):
                        return True
    except OSError:
        return True
    return False


def prefetch(tensor: Tensor, stopped: Event | None = None) -> None:
    """Have the kernel read a mapped tensor's part of the file for a use that comes soon, until told to stop."""
    span = _pages(tensor, outwards=True)
    if span is not None:
        start, nbytes = span
        for offset in range(0, nbytes, _AT_ONCE):  # the call waits while the disk has enough to do
            if stopped is not None and stopped.is_set():
                return
            _advise(start + offset, min(_AT_ONCE, nbytes - offset), _WILLNEED)


def _pages(tensor: Tensor, *, outwards: bool) -> tuple[int, int] | None:
    """First address and bytes of the pages that a tensor lies on: all of them, or only those it fills."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or not tensor.numel():
        return None
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    end = start + (last + 1) * tensor.element_size()
    size = mmap.PAGESIZE
    first, behind = (start // size, -(-end // size)) if outwards else (-(-start // size), end // size)
    return (first * size, (behind - first) * size) if behind > first else None


def _is_clean(start: int, nbytes: int) -> bool:
    try:
        # Opened anew each time: the file belongs to the process that opened it, and processes fork.
        with open("/proc/self/pagemap", "rb", buffering=0) as table:
            return _are_clean(table, start, nbytes)
    except OSError:
        return False


def _are_clean(table: FileIO, start: int, nbytes: int) -> bool:
    # Copy-on-write pages that were written to hold the only copy of what was written.
    size = mmap.PAGESIZE
    found = os.pread(table.fileno(), nbytes // size * 8, start // size * 8)
    entries = np.frombuffer(found, np.uint64)
    kept = (entries & _SWAPPED != 0) | ((entries & _PRESENT != 0) & (entries & _OF_A_FILE == 0))
    return len(entries) * size == nbytes and not kept.any()


@cache
def _madvise() -> ctypes._NamedFuncPointer | None:
    if not os.path.exists("/proc/self/pagemap"):  # no Linux: other systems give the numbers other meanings
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


def _advise(start: int, nbytes: int, advice: int) -> None:
    madvise = _madvise()
    if madvise is not None:
        madvise(start, nbytes, advice)
