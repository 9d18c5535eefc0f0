"""What samples come to, and whether two sets of them differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 10_000
CONFIDENCE: Final = 0.99
LEAST_EFFECT: Final = 0.03
"""A difference that is smaller is none: what else a machine does makes as much."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What samples come to.

    Attributes:
        mean, median, p90, p99, min, max: of the samples; NaN where there are none.
        stdev: their standard deviation.
        spread: the distance of their quartiles, as a share of the median.
        count: how many there are.
    """

    mean: float
    median: float
    p90: float
    p99: float
    min: float
    max: float
    stdev: float
    spread: float
    count: int


def summary(samples: Sequence[float]) -> Summary:
    """What samples come to."""
    if not samples:
        nan = float("nan")
        return Summary(nan, nan, nan, nan, nan, nan, nan, nan, 0)
    found = np.asarray(samples, dtype=np.float64)
    low, median, high, p90, p99 = (float(one) for one in np.percentile(found, [25, 50, 75, 90, 99]))
    stdev = float(found.std(ddof=1)) if len(found) > 1 else 0.0
    spread = (high - low) / abs(median) if median else 0.0
    return Summary(float(found.mean()), median, p90, p99, float(found.min()), float(found.max()), stdev, spread,
                   len(found))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    """How a second set of samples compares with a first.

    Attributes:
        ratio: of the second's median to the first's.
        low, high: the ratio lies between, with :data:`CONFIDENCE`.
        verdict: ``more`` or ``less`` where the interval excludes equality and the difference is no smaller than
            :data:`LEAST_EFFECT`; else ``same``.
    """

    ratio: float
    low: float
    high: float
    verdict: Literal["more", "less", "same"]


def difference(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    *,
    least: float = LEAST_EFFECT,
    confidence: float = CONFIDENCE,
) -> Difference:
    """Compare two contenders.

    Where both took as many turns, one after the other, turns are compared with one another: what slowed the machine
    down slowed both. Else their turns are drawn independently. Either way it is turns that are drawn again and not
    single samples, which are alike within a turn.

    Args:
        first, second: samples by turn; positive numbers.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: percentile intervals.
    """
    one, two = _medians(first), _medians(second)
    rng = np.random.default_rng(0)
    if len(one) == len(two):
        ratios = two / one
        drawn = np.median(ratios[rng.integers(len(ratios), size=(RESAMPLES, len(ratios)))], axis=1)
        ratio = float(np.median(ratios))
    else:
        drawn = _draws(two, rng) / _draws(one, rng)
        ratio = float(np.median(two) / np.median(one))
    tail = 50 * (1 - confidence)
    low, high = (float(edge) for edge in np.percentile(drawn, [tail, 100 - tail]))
    if low > 1 and ratio >= 1 + least:
        return Difference(ratio, low, high, "more")
    if high < 1 and ratio <= 1 - least:
        return Difference(ratio, low, high, "less")
    return Difference(ratio, low, high, "same")


def _medians(rounds: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    return np.asarray([np.median(one) for one in rounds if len(one)], dtype=np.float64)


def _draws(medians: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    found = np.median(medians[rng.integers(len(medians), size=(RESAMPLES, len(medians)))], axis=1)
    return np.asarray(found, dtype=np.float64)
