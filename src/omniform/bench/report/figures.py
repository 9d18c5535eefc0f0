"""Numbers as people read them."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Final

from omniform.bench.results import Measure, Result, split_metric

NEITHER: Final = ("cpu.use", "gpu.use", "flop", "bytes", "roofline")
"""More of a measure whose name ends so is neither better nor worse."""

ENOUGH: Final = 8
"""Turns from which a verdict is sure: of fewer, all lie on one side by chance more often than once in a hundred times
(2 of 2 ** turns)."""

LEAST_TURNS: Final = 3
"""With fewer turns nothing is told."""


def shown(value: float, unit: str) -> str:
    """A number with its unit: times in steps of a thousand, bytes and rates too."""
    if math.isnan(value):
        return "–"
    if unit == "%":
        return f"{value:.1f} %"
    if unit == "s":
        for scale, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= scale:
                return f"{_digits(value / scale)} {name}"
        return "0 s" if value == 0 else f"{_digits(value / 1e-9)} ns"
    for scale, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= scale:
            return f"{_digits(value / scale)} {letter}{unit}"
    if unit == "B" and abs(value) >= 1e3:
        return f"{_digits(value / 1e3)} kB"
    return f"{_digits(value)} {unit}".rstrip()


def _digits(value: float) -> str:
    """Three digits at least, without an exponent."""
    if value == 0:
        return "0"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) < 1e-3:
        return f"{value:.2g}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def ratio_of(ratio: float, low: float, high: float) -> str:
    """A ratio and what it lies between."""
    return "–" if math.isnan(ratio) else f"{ratio:.3f} ({low:.3f}–{high:.3f})"


def day(seconds: float) -> str:
    """The date of this machine's zone."""
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def minute(seconds: float) -> str:
    """Date and time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def machine_of(facts: Mapping[str, object]) -> str:
    """A machine in a line."""
    words = [str(facts["cpu"])] if facts.get("cpu") else []
    if facts.get("cores"):
        words.append(f"{facts['cores']} cores")
    memory = facts.get("memory")
    if isinstance(memory, int | float) and memory > 0:
        words.append(f"{memory / 2**30:.0f} GiB")
    if facts.get("gpu"):
        words.append(str(facts["gpu"]))
    return ", ".join(words) or str(facts.get("host", "an unknown machine"))


def versions_of(versions: Mapping[str, str]) -> str:
    """Versions in a line; Python and torch first."""
    first = [name for name in ("python", "torch") if name in versions]
    names = [*first, *sorted(name for name in versions if name not in first)]
    return ", ".join(f"{'Python' if name == 'python' else name} {versions[name]}" for name in names)


def neither(measure: str) -> bool:
    """Whether more of it is neither better nor worse."""
    return any(measure == one or measure.endswith(f".{one}") for one in NEITHER)


def turns_of(measure: Measure, statistic: str) -> list[list[float]]:
    """What is compared: the statistic of every turn that left samples.

    Where there is but one turn, each of its samples is taken for one: what disturbs a whole turn is not seen then.
    """
    rounds: Sequence[Sequence[float]] = [one for one in measure.rounds if one]
    if len(rounds) == 1:
        rounds = [[value] for value in rounds[0]]
    if statistic in ("value", "median", "p50"):
        return [list(one) for one in rounds]
    if statistic in ("stdev", "spread", "count"):
        return [[Measure(measure.name, measure.unit, (tuple(one),)).statistic(statistic)] for one in measure.rounds]
    return [[Measure(measure.name, measure.unit, (tuple(one),)).statistic(statistic)] for one in rounds]


def joined(results: Sequence[Result], measure: str) -> Measure | None:
    """A measure of several runs of one thing, with the turns of all; None where none has it."""
    found = [one.measures[measure] for one in results if measure in one.measures]
    if not found:
        return None
    rounds = tuple(turn for one in found for turn in one.rounds)
    return Measure(measure, found[0].unit, rounds, found[0].better, sum(one.passes for one in found))


def short(commit: str | None) -> str:
    """A commit's first characters."""
    return "" if commit is None else commit[:10] if re.fullmatch("[0-9a-f]{12,}", commit) else commit


def plain(result: Result) -> str:
    """A contender without its commit, so that it is the same one in another commit: ``omniform 0123abcd`` is
    ``omniform``. How a commit was called stands in the config."""
    called = [result.commit or ""]
    contenders = result.config.get("contenders")
    for one in contenders if isinstance(contenders, list) else ():
        called.append(str(one.get("commit") or "") if isinstance(one, Mapping) else "")
    words = re.split(r"[\s@]+", result.contender)
    kept = [word for word in words if not any(_calls(word, commit) for commit in called)]
    return " ".join(kept) if kept and len(kept) < len(words) else result.contender


def base_of(one: Result, results: Sequence[Result]) -> Result:
    """Whom a result is compared with: the first that is alike but for its commit; the first of all where there is no
    other."""
    alike = next((each for each in results if each.commit is not None and plain(each) == plain(one)), one)
    return alike if alike is not one and one.commit is not None else results[0]


def _calls(word: str, commit: str) -> bool:
    # Names are cut at twelve characters.
    return bool(commit) and (word in (commit, commit[:12]) or (len(word) >= 7 and commit.startswith(word)))


def title_of(result: Result) -> str:
    """The config's name, and which of several runs of it this is."""
    swept = result.config.get("swept")
    return " ".join([result.name, *map(str, swept if isinstance(swept, list | tuple) else ())])


def metrics_of(results: Sequence[Result]) -> list[str]:
    """What the configs say is to be shown; nothing where they do not."""
    said = (one.config.get("metrics") for one in results)
    return list(dict.fromkeys(str(name) for names in said if isinstance(names, list | tuple) for name in names))


def missed(result: Result, metric: str, ratio: float) -> str:
    """A goal that is not reached, in words: ``misses 1.2``; empty where it is, or where there is none.

    Args:
        result: of the contender that the first one is to be better than, which it is named by.
        ratio: of its value to the first one's.
    """
    goals = result.config.get("goals")
    goal = goals.get(result.contender) if isinstance(goals, Mapping) else None
    name, statistic = split_metric(metric)
    if isinstance(goal, Mapping):
        alike = {(*split_metric(key),): value for key, value in goal.items()}
        goal = alike.get((name, "value" if statistic in ("median", "p50") else statistic))
    elif metric not in (metrics_of([result]) or list(result.measures))[:1]:
        goal = None
    if not isinstance(goal, int | float) or math.isnan(ratio) or ratio <= 0 or name not in result.measures:
        return ""
    found = ratio if result.measures[name].better == "lower" else 1 / ratio
    return "" if round(found, 2) >= goal else f"misses {goal:g}"
