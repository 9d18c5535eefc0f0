"""The tables of ``docs/benchmarks.md``: ``python tools/figures.py [CONFIG ...]``.

Runs the configs of ``benchmarks/`` that are named (``omniform bench``), keeps what they gave in
``benchmarks/results/CONFIG.json``, and writes every result as a table between ``<!-- bench CONFIG -->`` and
``<!-- /bench -->``. ``--check`` writes nothing, and fails where a table is not what its results say.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from omniform.bench.report.figures import metrics_of
from omniform.bench.report.markdown import contenders, facts, metric_cells, sections
from omniform.bench.report.sources import known_measures, measured, results_of
from omniform.bench.results import Measure, Result, split_metric

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
KEPT = ROOT / "benchmarks" / "results"
PLACE = re.compile(r"(<!-- bench ([\w-]+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def take(name: str, changes: Sequence[str]) -> None:
    """Run a config, and keep of its results what a table shows, with all samples."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        command = [sys.executable, "-m", "omniform", "bench", "--config-dir", "benchmarks", "--config-name", name]
        subprocess.run([*command, "--json", str(file), *changes], cwd=ROOT, check=False)
        results = results_of(str(file))
    for one in results:
        shown = {split_metric(metric)[0] for metric in metrics_of([one])} or {next(iter(one.measures), "")}
        one.measures = {key: rounded(measure) for key, measure in one.measures.items() if key in shown}
        one.machine = {key: value for key, value in one.machine.items() if key != "host"}
        one.config = {key: one.config[key] for key in ("metrics", "goals", "overrides", "swept", "threads", "clock")}
    KEPT.mkdir(exist_ok=True)
    text = ",\n".join(json.dumps(one.told()) for one in results)
    (KEPT / f"{name}.json").write_text(f"[\n{text}\n]\n", encoding="utf-8")


def rounded(measure: Measure) -> Measure:
    """Five digits of every sample."""
    rounds = tuple(tuple(float(f"{value:.5g}") for value in turn) for turn in measure.rounds)
    return Measure(measure.name, measure.unit, rounds, measure.better)


def table(results: Sequence[Result]) -> Iterator[str]:
    """Lines of a table: a row for every run and metric, a column for every contender."""
    runs = list(sections(results).values())
    columns = list(dict.fromkeys(name for run in runs for name in contenders(run)))
    first = columns[0] if columns else ""
    metrics = metrics_of(results) or known_measures(measured(results))[:1]
    yield f"{facts(measured(results))}."
    yield ""
    yield row(["", *columns, *(f"{name} / {first}" for name in columns[1:])])
    yield row(["---", *["---:"] * (2 * len(columns) - 1)])
    for run in runs:
        groups = contenders(run)
        for metric in metrics:
            cells = dict(zip([*groups, *(f"/{name}" for name in list(groups)[1:])], metric_cells(groups, metric),
                             strict=True))  # fmt: skip
            what = ", ".join(filter(None, [*map(words, swept(run[0])), metric if len(metrics) > 1 else ""])) or metric
            yield row([what, *(cells.get(name, "") for name in [*columns, *(f"/{one}" for one in columns[1:])])])
    said = [f"{one.contender}: {one.error}" for one in results if one.status == "failed"]
    noisy = {one.contender for one in results for line in one.noise if "settled" not in line}
    said += [f"Some turns were noisy: {', '.join(sorted(noisy))}."] if noisy else []
    for line in said:
        yield ""
        yield line


def swept(result: Result) -> list[str]:
    """What makes a run one of several."""
    told = result.config.get("swept")
    return [str(one) for one in told] if isinstance(told, list) else []


def words(change: str) -> str:
    """``scenario.batch=4`` is ``batch 4``; ``bits=int8`` is ``int8``."""
    name, _, value = change.partition("=")
    return f"{name.rpartition('.')[2]} {value}" if "." in name else value


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def page() -> str:
    """The page with its tables as the results say."""

    def filled(found: re.Match[str]) -> str:
        file = KEPT / f"{found[2]}.json"
        lines = table(results_of(str(file))) if file.is_file() else [f"Not taken yet: `make figures BENCH={found[2]}`."]
        return "\n".join([found[1], *lines, "", found[3]])

    return PLACE.sub(filled, PAGE.read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CONFIG", help="take these first; or KEY=VALUE for all of them")
    parser.add_argument("--check", action="store_true", help="fail where a table is not what its results say")
    given = parser.parse_args()
    changes = [name for name in given.names if "=" in name]
    for name in given.names:
        if name not in changes:
            take(name, changes)
    if given.check:
        return int(page() != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
