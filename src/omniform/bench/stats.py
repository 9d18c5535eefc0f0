"""What samples come to, and whether two sets of them differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 10_000
CONFIDENCE: Final = 0.99
LEAST_EFFECT: Final = 0.03
"""A difference that is smaller is none: what else a machine does makes as much."""
CLOSE: Final = 0.05
"""Contenders are the same only where the interval excludes a difference of more; where it does not, nobody knows."""
SPREAD: Final = 0.1
"""Turns that differ by more (median absolute deviation, as a share of their median) were disturbed: others shared the
caches and the processors in some, and not in others."""
FLOOR_SAMPLES: Final = 100
"""So many samples of either may hold a few that nobody disturbed."""
FLOOR_TURNS: Final = 4
FLOOR_REACHED: Final = 0.03
"""The fastest samples count where so many turns have one that is no further from the fastest of all."""
AGREEING: Final = 3
"""Passes, each with processes of its own, that must all show a difference where turns were disturbed."""
FLOOR_EFFECT: Final = 0.05
"""A difference of the fastest samples that is smaller is none: where its memory lies makes one process faster than
another by as much (measured: up to 5 % between processes of one program, on two busy cores)."""


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


Verdict = Literal["more", "less", "same", "unclear"]


@dataclass(frozen=True, slots=True)
class Difference:
    """How a second set of samples compares with a first.

    Attributes:
        ratio: of the second to the first.
        low, high: the ratio lies between, with :data:`CONFIDENCE`.
        verdict: ``more`` or ``less`` where the interval excludes equality and the difference is no smaller than
            :data:`LEAST_EFFECT`; ``same`` where the interval excludes any of :data:`CLOSE`; else ``unclear``: what the
            machine did beside is more than what is looked for.
        sure: whether it can be relied on; not where turns were disturbed and nothing else speaks for it.
        fastest: whether it is of the fastest samples, since turns were disturbed, and not of medians.
    """

    ratio: float
    low: float
    high: float
    verdict: Verdict
    sure: bool = True
    fastest: bool = False


def difference(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    *,
    least: float = LEAST_EFFECT,
    confidence: float = CONFIDENCE,
    better: str = "lower",
    passes: int = 1,
) -> Difference:
    """Compare two contenders.

    Where both took as many turns, one after the other, turns are compared with one another: what slowed the machine
    down slowed both. Else their turns are drawn independently. Either way it is turns that are drawn again and not
    single samples, which are alike within a turn.

    Where turns differ by more than :data:`SPREAD`, medians tell what the machine did beside, and there may be enough
    samples to compare the fastest: those that nobody disturbed.

    Args:
        first, second: samples by turn; positive numbers.
        better: whether ``lower`` or ``higher`` samples are the fast ones.
        passes: how often both had new processes; every pass has as many of the turns.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: percentile intervals. Chen and
    Revels, Robust benchmarking in noisy environments (2016): what disturbs only ever adds, so that the least time is
    the one that tells of the program.
    """
    one, two = _medians(first), _medians(second)
    rng = np.random.default_rng(0)
    paired = len(one) == len(two)
    if paired:
        ratios = two / one
        drawn = np.median(ratios[rng.integers(len(ratios), size=(RESAMPLES, len(ratios)))], axis=1)
        ratio = float(np.median(ratios))
    else:
        drawn = _draws(two, rng) / _draws(one, rng)
        ratio = float(np.median(two) / np.median(one))
    found = _judged(ratio, drawn, least, confidence)
    if max(spread_of(one), spread_of(two)) <= SPREAD:
        return found
    if min(sum(map(len, first)), sum(map(len, second))) >= FLOOR_SAMPLES:
        pick = min if better == "lower" else max
        one, two = (np.asarray([pick(turn) for turn in each if len(turn)]) for each in (first, second))
        drawn = _bests(two, pick is min, rng) / _bests(one, pick is min, rng)
        fastest = _judged(float(pick(two) / pick(one)), drawn, max(least, FLOOR_EFFECT), confidence)
        if fastest.verdict != "unclear" and _reached(one, pick(one)) and _reached(two, pick(two)):
            return replace(fastest, fastest=True)
    # Not even the direction is certain, unless it is far more than turns differ by, or new processes show it each time.
    far = found.low > 1 + SPREAD or found.high < 1 / (1 + SPREAD)
    again = found.verdict in ("more", "less") and paired and _agree(two / one, passes, least)
    return replace(found, verdict=found.verdict if far or again else "unclear", sure=False)


def _agree(ratios: NDArray[np.float64], passes: int, least: float) -> bool:
    """Whether every pass shows a difference in the same direction; what disturbs one process goes with it."""
    if passes < AGREEING or len(ratios) % passes:
        return False
    each = np.median(ratios.reshape(passes, -1), axis=1)
    return bool((each >= 1 + least).all() or (each <= 1 - least).all())


def _reached(bests: NDArray[np.float64], best: float) -> bool:
    """Whether several turns came to the best that there is: then it is a floor, and not one lucky moment."""
    return int(np.sum(np.abs(bests / best - 1) <= FLOOR_REACHED)) >= FLOOR_TURNS


def _judged(ratio: float, drawn: NDArray[np.float64], least: float, confidence: float) -> Difference:
    tail = 50 * (1 - confidence)
    low, high = (float(edge) for edge in np.percentile(drawn, [tail, 100 - tail]))
    verdict: Verdict = "unclear"
    if low > 1 and ratio >= 1 + least:
        verdict = "more"
    elif high < 1 and ratio <= 1 - least:
        verdict = "less"
    elif low >= 1 - CLOSE and high <= 1 + CLOSE:
        verdict = "same"
    return Difference(ratio, low, high, verdict)


def spread_of(medians: Sequence[float] | NDArray[np.float64]) -> float:
    """By which share of their median turns differ (median absolute deviation); 0 of fewer than three."""
    values = np.asarray(medians, dtype=np.float64)
    middle = float(np.median(values)) if len(values) > 2 else 0.0
    return float(np.median(np.abs(values - middle))) / abs(middle) if middle else 0.0


def _bests(bests: NDArray[np.float64], lowest: bool, rng: np.random.Generator) -> NDArray[np.float64]:
    drawn = bests[rng.integers(len(bests), size=(RESAMPLES, len(bests)))]
    return np.asarray(drawn.min(axis=1) if lowest else drawn.max(axis=1), dtype=np.float64)


def _medians(rounds: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    return np.asarray([np.median(one) for one in rounds if len(one)], dtype=np.float64)


def _draws(medians: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    found = np.median(medians[rng.integers(len(medians), size=(RESAMPLES, len(medians)))], axis=1)
    return np.asarray(found, dtype=np.float64)
