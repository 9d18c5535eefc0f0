"""Results as tables in Markdown, as in ``docs/benchmarks.md``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from omniform.bench.report.compare import Comparison, row_of, unit_of
from omniform.bench.report.figures import (
    day,
    joined,
    machine_of,
    missed,
    plain,
    ratio_of,
    short,
    shown,
    title_of,
    versions_of,
)
from omniform.bench.report.sources import known_measures, measured
from omniform.bench.report.terminal import TITLES
from omniform.bench.results import Result, split_metric

MOST_COLUMNS: Final = 6
"""Contenders side by side. Where there are more, older commits are left to the history."""


def markdown(results: Sequence[Result], metrics: Sequence[str] | None = None) -> str:
    """A section for every config: date, machine, versions; medians side by side, and their ratios to the first's."""
    lines: list[str] = []
    for title, group in sections(results).items():
        lines += [f"## {_text(title)}", "", *_section(group, metrics), ""]
    return "\n".join(lines)


def sections(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by the config they are of."""
    found: dict[str, list[Result]] = {}
    for one in results:
        title = title_of(one) if title_of(one) == one.scenario else f"{title_of(one)} ({one.scenario})"
        found.setdefault(title, []).append(one)
    return found


def contenders(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by the contender and commit they are of; of very many, only each contender's newest commit."""
    found: dict[str, list[Result]] = {}
    newest: dict[str, str] = {}
    for one in sorted(measured(results), key=lambda one: one.started):
        commit = short(one.commit)
        words = one.contender.split()
        told = not commit or any(word.startswith(commit) for word in words)
        title = one.contender if told else f"{one.contender} {commit}"
        found.setdefault(title, []).append(one)
        newest[plain(one)] = title
    return found if len(found) <= MOST_COLUMNS else {title: found[title] for title in newest.values()}


def facts(results: Sequence[Result]) -> str:
    """When, on what and with what, in a line."""
    days = sorted({day(one.started) for one in results})
    machines = dict.fromkeys(machine_of(one.machine) for one in results)
    versions: dict[str, list[str]] = {}
    for one in results:
        for name, version in one.versions.items():
            if version not in (known := versions.setdefault(name, [])):
                known.append(version)
    merged = versions_of({name: " and ".join(told) for name, told in versions.items()})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return "; ".join(part for part in (when, " / ".join(machines), merged) if part)


def _section(results: Sequence[Result], metrics: Sequence[str] | None) -> Iterator[str]:
    yield f"{_text(facts(results))}."
    yield ""
    groups = contenders(results)
    if groups:
        names = list(groups)
        heads = ["what", *names, *(f"{name} : {names[0]}" for name in names[1:])]
        yield _row(heads)
        yield "| --- |" + " ---: |" * (len(heads) - 1)
        for metric in metrics or known_measures(measured(results)):
            cells = metric_cells(groups, metric)
            if any(cells):
                yield _row([f"`{_code(metric)}`", *cells], code_first=True)
        yield ""
    for one in results:
        if one.status != "done":
            yield f"- {_text(one.contender)}: {one.status}{f': {_text(one.error)}' if one.error else ''}"
        yield from (f"- {_text(one.contender)}: noisy: {_text(noise)}" for noise in one.noise)


def metric_cells(groups: dict[str, list[Result]], metric: str) -> list[str]:
    """A metric of all contenders, then how each compares with the first; empty where it was not measured."""
    name, statistic = split_metric(metric)
    found = [joined(group, name) for group in groups.values()]
    values = ["" if one is None else shown(one.statistic(statistic), unit_of(one.unit, statistic)) for one in found]
    ratios = []
    for one, group in list(zip(found, groups.values(), strict=True))[1:]:
        if found[0] is None or one is None:
            ratios.append("")
            continue
        row = row_of(("", "", ""), metric, found[0], one, statistic)
        said = (ratio_of(row.ratio, row.low, row.high), missed(group[-1], metric, row.ratio))
        ratios.append(", ".join(filter(None, said)))
    return [*values, *ratios]


def comparison_markdown(found: Comparison) -> str:
    """A comparison as tables; regressions first."""
    lines: list[str] = []
    for verdict, title in TITLES.items():
        rows = [row for row in found.rows if row.verdict == verdict]
        if rows:
            lines += [f"### {title}", "", "| metric | config, contender | first | second | ratio | turns |"]
            lines.append("| --- | --- | ---: | ---: | ---: | ---: |")
            lines += [
                _row([f"`{_code(row.metric)}`", f"{row.key[0]}, {row.key[2]}", shown(row.first, row.unit),
                      shown(row.second, row.unit), ratio_of(row.ratio, row.low, row.high),
                      f"{row.turns[0]}/{row.turns[1]}{'' if row.sure else ' ?'}"], code_first=True)
                for row in rows
            ]  # fmt: skip
            lines.append("")
    for title, texts in (
        ("Only in the first", found.only_first), ("Only in the second", found.only_second),
        ("Not measured", found.failed), ("Mind", found.notes),
    ):  # fmt: skip
        if texts:
            lines += [f"### {title}", "", *(f"- {_text(text)}" for text in texts), ""]
    return "\n".join(lines)


def _row(cells: Sequence[str], *, code_first: bool = False) -> str:
    told = [cell if at == 0 and code_first else _text(cell) for at, cell in enumerate(cells)]
    return f"| {' | '.join(told)} |"


def _text(text: str) -> str:
    """Text that is neither Markdown nor HTML, in one line."""
    return re.sub(r"([\\`*_\[\]<>|&#~])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return " ".join(text.split()).replace("`", "'").replace("|", "\\|")
