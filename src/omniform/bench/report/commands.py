"""``omniform bench compare``, ``history``, ``report``, ``export`` and ``runs``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from omniform.core.errors import InputError

if TYPE_CHECKING:
    from omniform.bench.report.history import Series
    from omniform.bench.results import Result

P = TypeVar("P", bound=argparse.ArgumentParser)

SOURCES = (
    "a JSON file (of --json, or of optimum-benchmark), the beginning of an id or a commit, a config's name, URL#name"
)


def add(commands: argparse._SubParsersAction[P]) -> None:
    """The options of these commands; each sets ``work``, a function of what was given that returns the exit code."""
    _add_compare(commands)
    _add_history(commands)
    _add_report(commands)
    _add_export(commands)
    text = "List what a database holds, and how it stands."
    runs = commands.add_parser("runs", help=text, description=text, allow_abbrev=False)
    runs.add_argument("--db", metavar="URL", required=True, help="sqlite:///bench.db or postgresql://...")
    runs.set_defaults(work=_runs, command=runs)


def _add_compare(commands: argparse._SubParsersAction[P]) -> None:
    text = "Compare two sets of results: regressions first, with what each ratio lies between."
    own = commands.add_parser("compare", help=text, description=text, allow_abbrev=False)
    own.add_argument("first", metavar="A", help=SOURCES)
    own.add_argument("second", metavar="B", help="the same")
    own.add_argument("--db", metavar="URL", help="where ids, commits and names are looked for")
    own.add_argument("--metrics", metavar="A,B", help="such as decode.latency.p90; all medians by default")
    own.add_argument("--least", type=float, default=0.03, metavar="SHARE", help="a smaller difference is none (0.03)")
    own.add_argument("--fail-on-regression", action="store_true", help="exit with 1 where something became worse")
    own.add_argument("--markdown", metavar="FILE", help="write the tables as Markdown; '-': standard output")
    own.set_defaults(work=_compare, command=own)


def _add_history(commands: argparse._SubParsersAction[P]) -> None:
    text = "Show a metric over time and commits, with what each value lies between."
    own = commands.add_parser("history", help=text, description=text, allow_abbrev=False)
    own.add_argument("metric", metavar="METRIC", help="such as decode.latency.median")
    _add_sources(own)
    own.add_argument("--by-commit", action="store_true", help="runs of one commit are one value")
    own.add_argument("--svg", metavar="FILE", help="write a chart; several contenders: FILE-1.svg, FILE-2.svg ...")
    own.add_argument("--html", metavar="FILE", help="write a page")
    own.set_defaults(work=_history, command=own)


def _add_report(commands: argparse._SubParsersAction[P]) -> None:
    text = "Write results as a page or as Markdown."
    own = commands.add_parser("report", help=text, description=text, allow_abbrev=False)
    _add_sources(own)
    own.add_argument("--metrics", metavar="A,B", help="such as decode.latency.p90; all medians by default")
    own.add_argument("--title", default="Measurements", help="of the page")
    own.add_argument("--html", metavar="FILE", help="write a page: one file, nothing from outside")
    own.add_argument("--markdown", metavar="FILE", help="write tables; '-', or nothing else asked: standard output")
    own.set_defaults(work=_report, command=own)


def _add_export(commands: argparse._SubParsersAction[P]) -> None:
    text = "Write results for other tools."
    own = commands.add_parser("export", help=text, description=text, allow_abbrev=False)
    _add_sources(own)
    own.add_argument("--parquet", metavar="FILE", help="a row for every sample")
    own.add_argument("--csv", metavar="FILE", help="the same")
    own.add_argument("--json", metavar="FILE", help="what omniform bench --json writes")
    own.add_argument("--optimum", metavar="FOLDER", help="as optimum-benchmark does: a folder for every result")
    own.set_defaults(work=_export, command=own)


def _add_sources(own: argparse.ArgumentParser) -> None:
    own.add_argument("sources", nargs="*", metavar="RESULTS", help=f"{SOURCES}; all of --db by default")
    own.add_argument("--db", metavar="URL", help="a database: sqlite:///bench.db or postgresql://...")
    which = own.add_argument_group("which of the database's")
    which.add_argument("--name", help="of the config")
    which.add_argument("--scenario", help="what was done")
    which.add_argument("--contender", help="who did it")
    which.add_argument("--commit", help="of the code, or its beginning")
    which.add_argument("--machine", help="its host's name")
    which.add_argument("--since", metavar="DATE", help="such as 2026-11-27")


def _picked(given: argparse.Namespace) -> list[Result]:
    from omniform.bench.report.sources import results_of
    from omniform.bench.store.store import Store

    if given.sources:
        found = [one for source in given.sources for one in results_of(source, given.db)]
        return list({one.id: one for one in found}.values())
    if given.db is None:
        raise InputError("nobody said of which results", remedy="Name files, or add --db URL.")
    filters = {name: getattr(given, name) for name in ("name", "scenario", "contender", "commit", "machine", "since")}
    with Store.open(given.db) as store:
        found = store.results(**filters)
        if not found:
            asked = ", ".join(f"{name}={value}" for name, value in filters.items() if value is not None)
            raise InputError("there are no such results", where=store.shown, found=asked or "none at all")
    return found


def _metrics(given: argparse.Namespace) -> list[str] | None:
    return None if given.metrics is None else [one.strip() for one in given.metrics.split(",") if one.strip()]


def _checked(results: Sequence[Result], metrics: Sequence[str] | None) -> None:
    from omniform.bench.report.sources import known_measures
    from omniform.bench.results import split_metric
    from omniform.core.errors import nearest

    known = known_measures(results)
    for metric in metrics or ():
        if split_metric(metric)[0] not in known:
            raise InputError(f"{metric!r} was not measured", where="--metrics", remedy=nearest(metric, known))


def _write(where: str, text: str) -> None:
    from omniform.bench.layouts import write_text

    if where == "-":
        print(text)
    else:
        write_text(Path(where), text)


def _compare(given: argparse.Namespace) -> int:
    from omniform.bench.report.compare import compare
    from omniform.bench.report.markdown import comparison_markdown
    from omniform.bench.report.sources import results_of
    from omniform.bench.report.terminal import comparison_lines, wants_colors

    if not 0 <= given.least < 1:
        raise InputError("is no share", where="--least", found=given.least, expected="from 0 to 1, such as 0.03")
    first, second = results_of(given.first, given.db), results_of(given.second, given.db)
    found = compare(first, second, metrics=_metrics(given), least=given.least)
    if given.markdown != "-":
        for line in comparison_lines(found, colors=wants_colors(sys.stdout.isatty())):
            print(line)
    if given.markdown is not None:
        _write(given.markdown, comparison_markdown(found))
    return 1 if given.fail_on_regression and found.regressions else 0


def _history(given: argparse.Namespace) -> int:
    from omniform.bench.report.history import history

    series = history(_picked(given), given.metric, by_commit=given.by_commit)
    for one in series:
        _print_series(one)
    if given.svg is not None:
        from omniform.bench.report.svg import line_chart

        path = Path(given.svg)
        for at, one in enumerate(series):
            own = path if len(series) == 1 else path.with_name(f"{path.stem}-{at + 1}{path.suffix}")
            _write(str(own), line_chart(one, "chart", alone=True))
    if given.html is not None:
        from omniform.bench.report.html import history_page

        _write(given.html, history_page(given.metric, series))
    return 0


def _print_series(series: Series) -> None:
    from omniform.bench.report.figures import minute, shown
    from omniform.bench.report.history import sparkline
    from omniform.bench.report.terminal import table_lines

    rows = [
        [point.label, minute(point.time), shown(point.value, series.unit), shown(point.low, series.unit),
         shown(point.high, series.unit), str(point.turns)]
        for point in series.points
    ]  # fmt: skip
    title = f"{series.metric}, {series.title} ({series.better} is better)"
    for line in table_lines(title, ["commit", "measured", "value", "from", "to", "turns"], rows, None):
        print(line)
    print(f"{sparkline([point.value for point in series.points])}\n")


def _report(given: argparse.Namespace) -> int:
    from omniform.bench.report.html import page
    from omniform.bench.report.markdown import markdown

    results, metrics = _picked(given), _metrics(given)
    _checked(results, metrics)
    if given.html is not None:
        _write(given.html, page(results, title=given.title, metrics=metrics))
    if given.markdown is not None or given.html is None:
        _write(given.markdown or "-", markdown(results, metrics))
    return 0


def _export(given: argparse.Namespace) -> int:
    from omniform.bench.layouts import write_csv, write_optimum, write_parquet

    if not (given.parquet or given.csv or given.json or given.optimum):
        raise InputError("nobody said what to write", expected="--parquet, --csv, --json or --optimum")
    results = _picked(given)
    if given.parquet:
        write_parquet(results, Path(given.parquet))
    if given.csv:
        write_csv(results, Path(given.csv))
    if given.json:
        _write(given.json, json.dumps([one.told() for one in results], indent=1))
    if given.optimum:
        for one in results:
            folder = Path(given.optimum)
            write_optimum(one, folder if len(results) == 1 else folder / one.id)
    return 0


def _runs(given: argparse.Namespace) -> int:
    from omniform.bench.report.figures import minute, short
    from omniform.bench.report.terminal import table_lines
    from omniform.bench.store.store import Store

    with Store.open(given.db) as store:
        runs = store.runs()
    rows = [
        [one.id[:12], one.name, one.contender, short(one.commit), minute(one.started), one.status, one.error or ""]
        for one in runs
    ]
    heads = ["id", "config", "contender", "commit", "started", "status", "why"]
    for line in table_lines(f"{len(rows)} runs", heads, rows, None):
        print(line)
    return 0
