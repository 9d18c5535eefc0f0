"""Comparisons and lists of runs on the terminal."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Final

from omniform.bench.report.compare import Comparison, Row
from omniform.bench.report.figures import ratio_of, shown
from omniform.core.errors import DependencyError

TITLES: Final = {
    "worse": "REGRESSIONS",
    "better": "Improvements",
    "changed": "Changed (neither better nor worse)",
    "unclear": "Unclear (turns differ too much)",
    "same": "The same",
    "untested": "Not to be told (too few turns, or values of zero)",
}

STYLES: Final = {"worse": "bold red", "better": "green", "changed": "yellow"}


def comparison_lines(found: Comparison, *, colors: bool = False) -> Iterator[str]:
    """A comparison as lines: regressions first."""
    several = len({row.key for row in found.rows}) > 1
    for verdict, title in TITLES.items():
        rows = [row for row in found.rows if row.verdict == verdict]
        if rows:
            yield from table_lines(
                f"{title} ({len(rows)})", ["metric", "first", "second", "ratio", ""],
                [_cells(row, several=several) for row in rows], STYLES.get(verdict) if colors else None,
            )  # fmt: skip
            yield ""
    for title, texts in (
        ("Only in the first", found.only_first), ("Only in the second", found.only_second),
        ("Not measured", found.failed), ("Mind", found.notes),
    ):  # fmt: skip
        if texts:
            yield f"{title}:"
            yield from (f"  {text}" for text in texts)
    if any(not row.sure and row.verdict in ("worse", "better", "changed") for row in found.rows):
        yield "?: few turns, or such as were disturbed; chance alone may do that. Measure more rounds."
    worse = len(found.regressions)
    yield f"{worse or 'no'} regression{'' if worse == 1 else 's'} among {len(found.rows)} metrics"


def _cells(row: Row, *, several: bool) -> list[str]:
    name = f"{row.metric}  [{row.key[0]}, {row.key[2]}]" if several else row.metric
    mark = "?" if not row.sure and row.verdict in ("worse", "better", "changed") else ""
    turns = f"{row.turns[0]}/{row.turns[1]} turns{mark and ' ' + mark}"
    return [
        name,
        shown(row.first, row.unit),
        shown(row.second, row.unit),
        ratio_of(row.ratio, row.low, row.high),
        turns,
    ]


def table_lines(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], style: str | None) -> Iterator[str]:
    """A table as lines; the first column on the left, the others on the right."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        raise DependencyError("rich is needed for this", remedy="pip install 'omniform[bench]'") from None
    table = Table(title=Text(title, style=style or ""), title_justify="left", box=None, pad_edge=False)
    for at, head in enumerate(heads):
        table.add_column(head, justify="left" if at == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out = io.StringIO()
    width = max(shutil.get_terminal_size((120, 24)).columns, 60)
    Console(file=out, width=width, force_terminal=style is not None, no_color=style is None, highlight=False).print(
        table
    )
    for line in out.getvalue().splitlines():
        yield line.rstrip()


def wants_colors(terminal: bool) -> bool:
    """Whether lines may hold colours: at a terminal, unless NO_COLOR says otherwise."""
    return terminal and not os.environ.get("NO_COLOR")
