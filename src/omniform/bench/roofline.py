"""What the machine can do: numbers multiplied, and bytes moved, in a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

SIDE = 1024
"""Rows and columns of the matrices that are multiplied."""
BYTES = 128 << 20
"""Of what is copied: beyond any cache."""


@dataclass(frozen=True, slots=True)
class Peak:
    """What a machine can do with so many threads.

    Attributes:
        flops: multiplications and additions a second, of matrices.
        bandwidth: bytes read or written a second.
    """

    flops: float
    bandwidth: float

    def seconds(self, flop: float, moved: float) -> float:
        """The least that work can take: the longer of computing and moving.

        Source: Williams, Waterman and Patterson, Roofline (2009).
        """
        return max(flop / self.flops, moved / self.bandwidth)


def measure(threads: int, device: str, dtype: str) -> Peak:
    """Multiply matrices and copy memory: the best of several runs each.

    Args:
        dtype: of the matrices; float32 where torch has none of that name.
    """
    torch: Any = import_module("torch")
    torch.set_num_threads(threads)
    kind = getattr(torch, dtype, None)
    kind = kind if isinstance(kind, torch.dtype) and kind.is_floating_point else torch.float32
    cpu = device == "cpu"
    side = SIDE if cpu else 8 * SIDE
    one = torch.randn(side, side).to(kind).to(device)
    source = torch.zeros(BYTES if cpu else 8 * BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def wait() -> None:
        if not cpu:
            torch.cuda.synchronize()

    multiplied = _best(lambda: one @ one, wait)
    copied = _best(lambda: target.copy_(source), wait)
    return Peak(2.0 * side**3 / multiplied, 2.0 * source.numel() / copied)


def _best(action: Callable[[], object], wait: Callable[[], None], *, limit: float = 0.5) -> float:
    action()
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < limit:
        wait()
        started = time.perf_counter()
        action()
        wait()
        best = min(best, time.perf_counter() - started)
    return best
