"""Results of one config on the terminal: beside one another, against the first."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Final

from omniform.bench.config import BenchmarkConfig
from omniform.bench.report.figures import ENOUGH, base_of, missed, neither, ratio_of, shown
from omniform.bench.results import Measure, Result, split_metric
from omniform.bench.stats import difference
from omniform.core.errors import DependencyError, InputError, listed

ASIDE: Final = ("memory.peak", "cpu.use", "roofline")
"""Shown beside what the scenario measures, where nobody asks for columns."""

UNCLEAR: Final = (
    "unclear: turns differed too much to say whether contenders are within 5 % of one another; measure more rounds, on "
    "a quieter machine, or with clock=cpu threads=1"
)


def page(config: BenchmarkConfig, results: Sequence[Result], metrics: Sequence[str] | None) -> Iterable[str]:
    """Lines of a table: a row for every metric and contender, regressions first; then failures and noise.

    Args:
        metrics: what to show; what the scenario gives where nobody asks.

    Raises:
        InputError: nobody measured one of them; lists what was.
    """
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        raise DependencyError("rich is needed for this", remedy="pip install 'omniform[bench]'") from None
    measured = _measured(results)
    title = " ".join([config.name, *config.overrides])
    lines = [line for _, line in _ranked(measured, _asked(config, metrics))]
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for name in ("metric", "contender", "value", "p90", "of the first", "verdict"):
        table.add_column(name, justify="right" if name in ("value", "p90") else "left", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    if lines:
        out = io.StringIO()
        Console(file=out, width=160, no_color=True, highlight=False).print(table)
        yield from (text.rstrip() for text in out.getvalue().rstrip().splitlines())
    for one in results:
        if one.error is not None:
            yield f"{one.contender}: FAILED: {one.error}"
    if any(line[-1].startswith("unclear") for line in lines):
        yield UNCLEAR
    if any("(fastest)" in line[-1] for line in lines):
        yield "(fastest): turns were disturbed; the fastest samples, which were not, are compared"
    for one in results:
        yield from (f"{one.contender}: noise: {sentence}" for sentence in one.noise)


def regressions(config: BenchmarkConfig, results: Sequence[Result], metrics: Sequence[str] | None) -> list[str]:
    """What became worse, and is sure, in words: of the metrics that the table shows."""
    ranked = _ranked(_measured(results), _asked(config, metrics))
    return [f"{line[0]} of {line[1]}" for rank, line in ranked if rank == 0 and "?" not in line[-1]]


def _measured(results: Sequence[Result]) -> list[Result]:
    return [one for one in results if one.measures]


def _asked(config: BenchmarkConfig, metrics: Sequence[str] | None) -> Sequence[str] | None:
    return metrics or config.metrics or None


def _ranked(results: Sequence[Result], metrics: Sequence[str] | None) -> list[tuple[int, tuple[str, ...]]]:
    if not results:
        return []
    known = list(dict.fromkeys(name for one in results for name in one.measures))
    if metrics is None:
        aside = [name for name in known if name.startswith(("memory.", "cpu.", "gpu.", "energy.", "flop", "bytes",
                                                            "roofline"))]  # fmt: skip
        metrics = [name for name in known if name not in aside or name in ASIDE]
    ranked = []
    for place, metric in enumerate(metrics):
        name, _ = split_metric(metric)
        if name not in known:
            raise InputError(f"{name!r} was not measured", where="--metrics", expected=listed(known))
        having = [one for one in results if name in one.measures]
        for one in having:
            rank, line = _line(metric, one, base_of(one, having), having[0])
            ranked.append((rank, place, line))
    # A metric's lines stay together: it comes as early as the worst of them.
    worst = {place: min(rank for rank, at, _ in ranked if at == place) for _, place, _ in ranked}
    return [(rank, line) for rank, _, line in sorted(ranked, key=lambda one: (worst[one[1]], one[1]))]


def _line(metric: str, one: Result, base: Result, first: Result) -> tuple[int, tuple[str, ...]]:
    name, statistic = split_metric(metric)
    measure = one.measures[name]
    value = measure.statistic(statistic)
    p90 = shown(measure.summary.p90, measure.unit) if measure.summary.count > 1 else ""
    if one is base:
        return 1, (metric, one.contender, shown(value, measure.unit), p90, "", "")
    rank, ratio, verdict, found = compared(base.measures[name], measure)
    verdict = ", ".join(filter(None, (verdict, missed(one, metric, found))))
    ratio += "" if base is first or not ratio else f" of {base.contender}"
    return rank, (metric, one.contender, shown(value, measure.unit), p90, ratio, verdict)


def compared(base: Measure, measure: Measure) -> tuple[int, str, str, float]:
    """How a measure compares: a rank that is 0 for worse, the ratio and its interval, the verdict in a word, and the
    ratio as a number."""
    if neither(measure.name) or not all(value > 0 for value in (*base.samples, *measure.samples)):
        return 1, "", "", float("nan")
    passes = min(base.passes, measure.passes)
    found = difference(base.rounds, measure.rounds, better=measure.better, passes=passes)
    ratio = ratio_of(found.ratio, found.low, found.high)
    if found.verdict in ("same", "unclear"):
        return 1, ratio, found.verdict, found.ratio
    better = (found.verdict == "less") == (measure.better == "lower")
    doubt = "" if found.sure and min(len(base.rounds), len(measure.rounds)) >= ENOUGH else "?"
    doubt += " (fastest)" if found.fastest else ""
    return (2, ratio, f"better{doubt}", found.ratio) if better else (0, ratio, f"WORSE{doubt}", found.ratio)
