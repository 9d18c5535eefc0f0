"""Which pages of mapped files are held in memory: asking for them early, letting them go.

A tensor that is a view of a mapped file costs memory only for the pages that were touched, and those can be dropped
again at any time: the kernel reads them anew when they are next touched. Both calls here are advice. Where the system
has no such calls, they do nothing and nothing else changes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from io import FileIO
from threading import Event

import numpy as np
import torch
from torch import Tensor

Span = tuple[int, int]
"""A stretch of memory: its first address, and its bytes."""

_KINDS = np.uint64(61)
"""The three highest bits of an entry of ``/proc/self/pagemap`` tell what a page is: in memory, in swap, a file's
(https://docs.kernel.org/admin-guide/mm/pagemap.html)."""

_ABSENT, _FILES = np.uint64(0b000), np.uint64(0b101)
"""The pages that nobody wrote to: not in memory, or in memory and the file's."""

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


def own_bytes(tensor: Tensor) -> int:
    """Bytes that a tensor takes of memory that :func:`release` does not free."""
    return 0 if is_mapped(tensor) else tensor.nbytes


def written(spans: Iterable[Span]) -> bool:
    """Whether somebody wrote to any page of some private mappings of files."""
    spans = list(spans)
    if not spans:
        return False
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as table:
            return not all(_are_clean(table, *span) for span in spans)
    except OSError:
        return True


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some memory, and whether a write to it leaves a trace: the page is the file's no longer."""

    start: int
    nbytes: int
    of_file: bool


@dataclass(frozen=True, slots=True)
class Maps:
    """Where files are mapped, as sorted addresses."""

    starts: Sequence[int]
    stops: Sequence[int]

    def parts(self, start: int, nbytes: int) -> list[Stretch]:
        """Some memory, cut into the whole pages that are a file's, and the rest.

        Pages at the ends, which neighbours may have a part in, count as a file's if nobody has written to them.
        """
        at = bisect_right(self.starts, start) - 1
        end, size = start + nbytes, mmap.PAGESIZE
        if at < 0 or end > self.stops[at]:
            return [Stretch(start, nbytes, False)]
        first, behind = start // size * size, -(-end // size) * size
        if _is_clean(first, behind - first):
            return [Stretch(first, behind - first, True)]
        inner, last = -(-start // size) * size, end // size * size
        if last <= inner or not _is_clean(inner, last - inner):
            return [Stretch(start, nbytes, False)]
        ends = [Stretch(start, inner - start, False), Stretch(last, end - last, False)]
        return [Stretch(inner, last - inner, True), *(part for part in ends if part.nbytes)]


_LOOKED: ContextVar[list[Maps] | None] = ContextVar("_LOOKED", default=None)


@contextmanager
def one_look_at_maps() -> Iterator[None]:
    """While this lasts the system is asked once where files are mapped: it takes a millisecond or two to say.

    For who looks at many tensors one after another, and maps nothing of theirs meanwhile.
    """
    token = _LOOKED.set([])
    try:
        yield
    finally:
        _LOOKED.reset(token)


def maps_of_private_files() -> Maps:
    """Where this process has mapped files such that what it writes stays its own; nowhere on other systems."""
    looked = _LOOKED.get()
    if looked:
        return looked[0]
    found = _mapped_now()
    if looked is not None:
        looked.append(found)
    return found


def _mapped_now() -> Maps:
    starts: list[int] = []
    stops: list[int] = []
    try:
        with open("/proc/self/maps") as lines:
            for line in lines:
                addresses, rights, _, _, inode, *_ = line.split(maxsplit=5)
                if rights[3] == "p" and inode != "0":
                    start, stop = addresses.split("-")
                    starts.append(int(start, 16))
                    stops.append(int(stop, 16))
    except OSError:
        pass
    return Maps(starts, stops)


def span_of(tensor: Tensor) -> Span:
    """The first address of a tensor in the CPU's memory, and how many bytes there are to its last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), (last + 1) * tensor.element_size() if tensor.numel() else 0


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
    start, nbytes = span_of(tensor)
    end = start + nbytes
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
    if len(entries) * size != nbytes:
        return False
    kinds = entries >> _KINDS
    return not bool(((kinds != _ABSENT) & (kinds != _FILES)).any())


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
