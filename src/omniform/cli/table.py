"""Records as the lines of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

WIDEST = 100
"""Characters of a column at most."""


def table(records: Sequence[Mapping[str, object]]) -> list[str]:
    """Records as rows: lists side by side are rows of their own (labels and scores of a text)."""
    rows = [row for record in records for row in _unfolded(record)]
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    cells = [names, *([cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(names))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _unfolded(record: Mapping[str, object]) -> list[Mapping[str, object]]:
    lists = {name: value for name, value in record.items() if isinstance(value, list)}
    lengths = {len(value) for value in lists.values()}
    if len(lists) < 2 or len(lengths) != 1:
        return [record]
    first = next(iter(lists))
    return [
        {name: value[at] if name in lists else (value if at == 0 else "") for name, value in record.items()}  # type: ignore[index]
        for at in range(len(lists[first]))
    ]


def cell(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
    text = " ".join(text.split())
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
