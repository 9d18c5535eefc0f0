"""When a contender is warm: its times no longer change."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Warmed:
    """How warming up went.

    Attributes:
        samples: what each took, in seconds.
        seconds: that all took.
        settled: whether they stopped changing before the limit.
    """

    samples: list[float]
    seconds: float
    settled: bool


def warm_up(
    sample: Callable[[], float],
    *,
    window: int = 4,
    tolerance: float = 0.05,
    limit: float = 20.0,
    now: Callable[[], float] = time.perf_counter,
) -> Warmed:
    """Run until the running median is stable.

    It is where the medians of the two latest windows, one after the other, differ by less than the tolerance. A slow
    trend (a processor that heats up, a cache that fills) moves one window against the other; a single late sample moves
    neither median.

    Args:
        sample: does the work once, and says how long that took.
        window: samples of a window, two at least.
        tolerance: share of the median.
        limit: seconds after which it is given up; at least two samples are taken all the same.
        now: the clock of the limit.
    """
    started = now()
    samples: list[float] = []
    while True:
        samples.append(sample())
        if len(samples) >= 2 * window:
            former, latter = median(samples[-2 * window : -window]), median(samples[-window:])
            if abs(latter - former) <= tolerance * max(abs(former), 1e-12):
                return Warmed(samples, now() - started, True)
        if now() - started >= limit and len(samples) >= 2:
            return Warmed(samples, now() - started, False)
