"""One metric over commits and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from omniform.bench.report.compare import unit_of
from omniform.bench.report.figures import joined, machine_of, minute, plain, short, turns_of
from omniform.bench.report.sources import known_measures, measured
from omniform.bench.results import Result, split_metric
from omniform.bench.stats import CONFIDENCE, RESAMPLES
from omniform.bench.store.store import digest
from omniform.core.errors import InputError, nearest

BARS: Final = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A value at one time.

    Attributes:
        time: seconds since 1970.
        commit: of the code, where it is known.
        value: of the metric.
        low, high: it lies between, with :data:`~omniform.bench.stats.CONFIDENCE`.
        turns: of which it is made.
    """

    time: float
    commit: str | None
    value: float
    low: float
    high: float
    turns: int

    @property
    def label(self) -> str:
        """The commit, or the time where there is none."""
        return short(self.commit) or minute(self.time)


@dataclass(frozen=True, slots=True)
class Series:
    """The points of one contender of one config on one machine, the oldest first."""

    title: str
    metric: str
    unit: str
    better: str
    points: tuple[Point, ...]


def history(results: Sequence[Result], metric: str, *, by_commit: bool = False) -> list[Series]:
    """A metric over time.

    Args:
        by_commit: runs of one commit are one point.

    Raises:
        InputError: nobody measured it; names what is most like it.
    """
    name, _ = split_metric(metric)
    results = measured(results)
    if name not in (known := known_measures(results)):
        raise InputError(f"{name!r} was not measured", where=metric, remedy=nearest(name, known))
    groups: dict[tuple[str, ...], list[Result]] = {}
    for one in results:
        if name in one.measures:
            key = (one.name, one.scenario, plain(one), digest(one.machine))
            groups.setdefault(key, []).append(one)
    several = len({key[3] for key in groups}) > 1
    return [_series(key, metric, group, several=several, by_commit=by_commit) for key, group in groups.items()]


def _series(key: tuple[str, ...], metric: str, group: list[Result], *, several: bool, by_commit: bool) -> Series:
    name, statistic = split_metric(metric)
    title = f"{key[0]}, {key[2]}"
    if several:
        title += f" ({machine_of(group[0].machine)})"
    points: dict[str, list[Result]] = {}
    for one in sorted(group, key=lambda one: one.started):
        points.setdefault(one.commit if by_commit and one.commit else one.id, []).append(one)
    measure = group[0].measures[name]
    found = tuple(_point(several_runs, metric) for several_runs in points.values())
    return Series(title, metric, unit_of(measure.unit, statistic), measure.better, found)


def _point(runs: list[Result], metric: str) -> Point:
    name, statistic = split_metric(metric)
    measure = joined(runs, name)
    assert measure is not None
    turns = turns_of(measure, statistic)
    low, high = interval(turns)
    return Point(time=runs[0].started, commit=runs[0].commit, value=measure.statistic(statistic), low=low, high=high,
                 turns=len(turns))  # fmt: skip


def interval(turns: Sequence[Sequence[float]]) -> tuple[float, float]:
    """What the median of turns' medians lies between; both NaN where there is one turn only.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: percentile intervals.
    """
    medians = np.asarray([np.median(one) for one in turns if len(one)], dtype=np.float64)
    if len(medians) < 2 or not np.isfinite(medians).all():
        return math.nan, math.nan
    drawn = np.random.default_rng(0).integers(len(medians), size=(RESAMPLES, len(medians)))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.median(medians[drawn], axis=1), [tail, 100 - tail])
    return float(low), float(high)


def sparkline(values: Sequence[float]) -> str:
    """Values as bars of a character each; a blank where there is none."""
    told = [value for value in values if math.isfinite(value)]
    if not told:
        return " " * len(values)
    low, high = min(told), max(told)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((one - low) * scale)] if math.isfinite(one) else " " for one in values)
