"""Two sets of results beside one another: what became worse first."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from omniform.bench.report.figures import (
    ENOUGH,
    LEAST_TURNS,
    joined,
    machine_of,
    neither,
    plain,
    title_of,
    turns_of,
    versions_of,
)
from omniform.bench.report.sources import known_measures, measured
from omniform.bench.results import Measure, Result, split_metric
from omniform.bench.stats import LEAST_EFFECT, difference
from omniform.core.errors import InputError, nearest

Verdict = Literal["worse", "better", "changed", "unclear", "same", "untested"]

ORDER: Final[tuple[Verdict, ...]] = ("worse", "better", "changed", "unclear", "same", "untested")
"""``changed``: where neither direction is better. ``unclear``: turns differ too much to tell. ``untested``: too few
turns, or numbers that are not positive."""

AT_ONCE: Final = 2.0
"""Seconds within which the contenders of one run are begun."""

Key = tuple[str, str, str]
"""A config, a scenario, a contender."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric of one contender in both sets.

    Attributes:
        key: config, scenario and contender.
        metric: its whole name.
        unit: of the values.
        first, second: the values.
        ratio, low, high: of the second to the first, and what it lies between; NaN where it cannot be told.
        verdict: what that means.
        sure: whether there were turns enough.
        turns: of either set.
    """

    key: Key
    metric: str
    unit: str
    first: float
    second: float
    ratio: float
    low: float
    high: float
    verdict: Verdict
    sure: bool
    turns: tuple[int, int]


@dataclass(slots=True)
class Comparison:
    """What two sets say.

    Attributes:
        rows: of what both have; regressions first, the greatest change first among those alike.
        only_first, only_second: what but one has, in words.
        failed: what was not measured, and why.
        notes: what else differs, so that the numbers may for that reason.
    """

    rows: list[Row] = field(default_factory=list)
    only_first: list[str] = field(default_factory=list)
    only_second: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[Row]:
        """What became worse."""
        return [row for row in self.rows if row.verdict == "worse"]


def compare(
    first: Sequence[Result],
    second: Sequence[Result],
    *,
    metrics: Sequence[str] | None = None,
    least: float = LEAST_EFFECT,
) -> Comparison:
    """Compare two sets of results.

    Contenders are matched by config, scenario and name, commits aside; a single one that is left on either side of a
    scenario is matched with the other.

    Args:
        metrics: such as ``decode.latency.mean``; the median of all that was measured by default.
        least: a smaller difference is none.

    Raises:
        InputError: nobody measured one of the metrics, or nothing of either set was measured.
    """
    found = Comparison()
    for which, results in (("the first", first), ("the second", second)):
        found.failed += [
            f"{which}: {_named(_key(one))}: {one.status}{f': {one.error}' if one.error else ''}"
            for one in results
            if one.status != "done"
        ]
        if not measured(results):
            raise InputError(f"nothing of {which} set was measured", found="; ".join(found.failed) or "no results")
    known = known_measures([*measured(first), *measured(second)])
    for metric in metrics or ():
        if split_metric(metric)[0] not in known:
            raise InputError(f"{metric!r} was not measured", where="--metrics", remedy=nearest(metric, known))
    one, two = _grouped(first), _grouped(second)
    for key, other in _pairs(one, two):
        _compare(found, key, one[key], two[other], metrics, least)
        one.pop(key), two.pop(other)
    found.only_first += [_named(key) for key in one]
    found.only_second += [_named(key) for key in two]
    found.rows.sort(key=lambda row: (ORDER.index(row.verdict), -_size(row)))
    return found


def _key(result: Result) -> Key:
    return title_of(result), result.scenario, plain(result)


def _named(key: Key) -> str:
    return f"{key[0]}, {key[2]}"


def _size(row: Row) -> float:
    return abs(math.log(row.ratio)) if row.ratio > 0 else 0.0


def _grouped(results: Sequence[Result]) -> dict[Key, list[Result]]:
    found: dict[Key, list[Result]] = {}
    for one in measured(results):
        found.setdefault(_key(one), []).append(one)
    return found


def _pairs(one: Mapping[Key, object], two: Mapping[Key, object]) -> list[tuple[Key, Key]]:
    pairs = [(key, key) for key in one if key in two]
    for scenario in dict.fromkeys(key[:2] for key in one):
        left = [key for key in one if key[:2] == scenario and key not in two]
        right = [key for key in two if key[:2] == scenario and key not in one]
        if len(left) == len(right) == 1:
            pairs.append((left[0], right[0]))
    return pairs


def _compare(
    found: Comparison,
    key: Key,
    first: Sequence[Result],
    second: Sequence[Result],
    metrics: Sequence[str] | None,
    least: float,
) -> None:
    found.notes += [f"{_named(key)}: {note}" for note in _differ(first[-1], second[-1])]
    for metric in metrics or dict.fromkeys([*known_measures(first), *known_measures(second)]):
        name, statistic = split_metric(metric)
        one, two = joined(first, name), joined(second, name)
        if one is not None and two is not None:
            found.rows.append(row_of(key, metric, one, two, statistic, least))
        elif one is not None:
            found.only_first.append(f"{_named(key)}: {metric}")
        elif two is not None:
            found.only_second.append(f"{_named(key)}: {metric}")


def row_of(key: Key, metric: str, one: Measure, two: Measure, statistic: str, least: float = LEAST_EFFECT) -> Row:
    """One metric of two contenders."""
    left, right = turns_of(one, statistic), turns_of(two, statistic)
    turns = (len(left), len(right))
    nan = math.nan
    ratio, low, high, verdict, sure = nan, nan, nan, "untested", True
    positive = all(math.isfinite(value) and value > 0 for turn in (*left, *right) for value in turn)
    if min(turns) >= 1 and positive:
        told = difference(left, right, least=least, better=one.better, passes=min(one.passes, two.passes))
        ratio, low, high, sure = told.ratio, told.low, told.high, told.sure
        if min(turns) >= LEAST_TURNS:
            verdict = _verdict(told.verdict, one)
    return Row(
        key=key, metric=metric, unit=unit_of(one.unit, statistic), first=one.statistic(statistic),
        second=two.statistic(statistic), ratio=ratio, low=low, high=high, verdict=verdict,  # type: ignore[arg-type]
        sure=sure and min(turns) >= ENOUGH, turns=turns,
    )  # fmt: skip


def unit_of(unit: str, statistic: str) -> str:
    """Of a statistic: a count and a share have none."""
    return "" if statistic in ("count", "spread") else unit


def _verdict(told: str, measure: Measure) -> Verdict:
    if told in ("same", "unclear"):
        return "same" if told == "same" else "unclear"
    if neither(measure.name):
        return "changed"
    return "better" if (told == "less") == (measure.better == "lower") else "worse"


def _differ(one: Result, two: Result) -> Iterator[str]:
    apart = abs(one.started - two.started)
    if apart > AT_ONCE:  # all of one run are begun at once
        span = f"{apart:.0f} s" if apart < 120 else f"{apart / 60:.0f} min" if apart < 7200 else f"{apart / 3600:.0f} h"
        yield f"they did not take turns, but were measured {span} apart: what the machine did beside may differ, too"
    if one.machine != two.machine:
        yield f"machines differ: {machine_of(one.machine)} / {machine_of(two.machine)}"
    changed = {name for name in {*one.versions, *two.versions} if one.versions.get(name) != two.versions.get(name)}
    if changed:
        left, right = ({name: each.versions.get(name, "none") for name in changed} for each in (one, two))
        yield f"versions differ: {versions_of(left)} / {versions_of(right)}"
    left_config, right_config = dict(_flat(one.config)), dict(_flat(two.config))
    names = [name for name in dict.fromkeys([*left_config, *right_config])
             if left_config.get(name) != right_config.get(name) and not _of_contenders(name)]  # fmt: skip
    for name in names[:5]:
        yield f"configs differ: {name}: {left_config.get(name, 'none')} / {right_config.get(name, 'none')}"
    if len(names) > 5:
        yield f"configs differ in {len(names) - 5} more values"
    for which, each in (("the first", one), ("the second", two)):
        for noise in each.noise:
            yield f"{which} was noisy: {noise}"


def _of_contenders(name: str) -> bool:
    # Which contenders took part, and which of them this is, is what is compared.
    return name.split(".")[0] in ("contenders", "contender", "commit", "backend")


def _flat(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else str(key))
    else:
        yield name, json.dumps(value, default=str, sort_keys=True)
