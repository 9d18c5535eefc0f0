"""Charts as SVG of our own: a line over time, bars beside one another. They follow the page's light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from omniform.bench.report.figures import minute, shown
from omniform.bench.report.history import Point, Series

WIDTH: Final = 440
"""A phone's: letters are of a fair size there, and charts stand beside one another on a wider page."""

HEIGHT: Final = 220
RIGHT, TOP, BOTTOM = 12, 26, 44

LETTER: Final = 8.4
"""Of the width of a wide one."""

MOST_LABELS: Final = 4
"""Below a line."""

STYLE: Final = """
.chart { --ink: #1b1f24; --soft: #59636e; --grid: #d1d9e0; --mark: #0a62c4; font: 13px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) {
  .chart { --ink: #f0f3f6; --soft: #a8b3be; --grid: #3d444d; --mark: #6cb6ff; }
}
.chart text { fill: var(--ink); } .chart .soft { fill: var(--soft); }
.chart .grid { stroke: var(--grid); } .chart .line { stroke: var(--mark); stroke-width: 2; fill: none; }
.chart .range { stroke: var(--mark); stroke-width: 2; opacity: .55; } .chart .dot { fill: var(--mark); }
.chart .bar { fill: var(--mark); opacity: .8; } .chart .whisker { stroke: var(--ink); stroke-width: 1.5; }
"""
"""Of charts; stands once in a page, and in a file of its own."""


def line_chart(series: Series, name: str, *, alone: bool = False) -> str:
    """A metric over its runs, in order, with what each value lies between.

    Args:
        name: an identifier that no other chart of the page has.
        alone: it is a file of its own.
    """
    points = series.points
    edges = [value for one in points for value in (one.value, one.low, one.high) if math.isfinite(value)]
    ticks = _ticks(edges)
    low, high = ticks[0], ticks[-1]

    labels, unit = _labels(ticks, series.unit)
    left = 14 + LETTER * max(map(len, labels))

    def x(at: int) -> float:
        return left + (WIDTH - left - RIGHT) * (at + 0.5) / len(points)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    body = [f'<text class="soft" x="6" y="14">{escape(unit)}</text>', *_below(points, x)]
    for tick, label in zip(ticks, labels, strict=True):
        body += _grid(y(tick), left, label)
    finite = [(x(at), y(one.value)) for at, one in enumerate(points) if math.isfinite(one.value)]
    body.append(f'<polyline class="line" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in finite)}"/>')
    for at, one in enumerate(points):
        if math.isfinite(one.low):
            body.append(
                f'<line class="range" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{y(one.low):.1f}" y2="{y(one.high):.1f}"/>'
            )
        if math.isfinite(one.value):
            words = escape(f"{one.label}, {minute(one.time)}: {_value(one, series.unit)}")
            body.append(
                f'<circle class="dot" cx="{x(at):.1f}" cy="{y(one.value):.1f}" r="4"><title>{words}</title></circle>'
            )
    title = f"{series.metric}: {series.title}"
    return _chart(name, title, _told(series), HEIGHT, body, alone=alone)


def bar_chart(
    title: str, bars: Sequence[Bar], unit: str, name: str, *, better: str = "lower", alone: bool = False
) -> str:
    """Values beside one another, from zero, with what each lies between."""
    row, above = 46, 6
    height = above + row * len(bars) + 4
    top = max((value for one in bars for value in (one.value, one.high) if math.isfinite(value)), default=1.0) or 1.0
    scale = (WIDTH - 2 * RIGHT - LETTER * 15) / top
    body = []
    for at, one in enumerate(bars):
        y = above + row * at
        width = max(0.0, one.value * scale) if math.isfinite(one.value) else 0.0
        body.append(f'<text x="{RIGHT}" y="{y + 11}">{escape(_cut(one.label, 48))}</text>')
        body.append(f'<rect class="bar" x="{RIGHT}" y="{y + 18}" width="{width:.1f}" height="16" rx="2"/>')
        end = width
        if math.isfinite(one.low):
            a, b, middle = RIGHT + one.low * scale, RIGHT + one.high * scale, y + 26
            body.append(
                f'<path class="whisker" d="M{a:.1f} {middle}H{b:.1f}M{a:.1f} {y + 21}v10M{b:.1f} {y + 21}v10"/>'
            )
            end = max(end, one.high * scale)
        body.append(f'<text x="{RIGHT + end + 8:.1f}" y="{y + 31}">{escape(shown(one.value, unit))}</text>')
    told = "; ".join(f"{one.label}: {shown(one.value, unit)}" for one in bars)
    return _chart(name, title, f"{told}. {better.capitalize()} is better.", height, body, alone=alone)


@dataclass(frozen=True, slots=True)
class Bar:
    """A value and what it lies between (NaN where that is not known)."""

    label: str
    value: float
    low: float
    high: float


def _chart(name: str, title: str, told: str, height: int, body: Sequence[str], *, alone: bool) -> str:
    own = f"<style>{STYLE}</style>" if alone else ""
    space = ' xmlns="http://www.w3.org/2000/svg"' if alone else ""
    return (
        f'<svg{space} class="chart" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(told)}</desc>'
        f"{own}{''.join(body)}</svg>"
    )


def _told(series: Series) -> str:
    words = [f"{one.label} {_value(one, series.unit)}" for one in series.points]
    return f"{len(words)} runs, the oldest first: {'; '.join(words)}. {series.better.capitalize()} is better."


def _value(one: Point, unit: str) -> str:
    between = f" ({shown(one.low, unit)} to {shown(one.high, unit)})" if math.isfinite(one.low) else ""
    return f"{shown(one.value, unit)}{between}"


def _labels(ticks: Sequence[float], unit: str) -> tuple[list[str], str]:
    """Numbers, and the unit that all of them have; else each with its own."""
    labels = [shown(tick, unit) for tick in ticks]
    units = {label.partition(" ")[2] for tick, label in zip(ticks, labels, strict=True) if tick}
    if len(units) == 1:
        return [label.partition(" ")[0] for label in labels], units.pop()
    return labels, ""


def _grid(at: float, left: float, label: str) -> list[str]:
    return [
        f'<line class="grid" x1="{left:.1f}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>',
        f'<text class="soft" x="{left - 8:.1f}" y="{at + 4:.1f}" text-anchor="end">{escape(label)}</text>',
    ]


def _below(points: Sequence[Point], x: object) -> Iterator[str]:
    # As many labels as have room.
    assert callable(x)
    step = max(1, math.ceil(len(points) / MOST_LABELS))
    for at in range(0, len(points), step):
        one = points[at]
        day, _, clock = minute(one.time).partition(" ")
        first, second = (one.label, day) if one.commit else (day, clock)
        for line, text in enumerate((first, second)):
            yield (
                f'<text class="soft" x="{x(at):.1f}" y="{HEIGHT - BOTTOM + 20 + 16 * line}" text-anchor="middle">'
                f"{escape(_cut(text, 10))}</text>"
            )


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers around values: from three to about seven."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    # A line that only trembles is not to fill the chart.
    margin = max((high - low) * 0.1, abs(high) * 0.05, 1e-12)
    low, high = max(low - margin, 0.0) if low >= 0 else low - margin, high + margin
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(one * power for one in (1, 2, 2.5, 5, 10) if one * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [at * step for at in range(first, last + 1)]
