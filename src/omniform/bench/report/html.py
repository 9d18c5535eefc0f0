"""Results as a page: one file, nothing from outside, light and dark, on a phone too."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import count
from typing import Final

from omniform.bench.report.compare import row_of, unit_of
from omniform.bench.report.figures import ENOUGH, joined, minute, missed, neither, ratio_of, shown, turns_of
from omniform.bench.report.history import Point, Series, history, interval
from omniform.bench.report.markdown import contenders, facts, sections
from omniform.bench.report.sources import known_measures, measured
from omniform.bench.report.svg import STYLE as CHARTS
from omniform.bench.report.svg import Bar, bar_chart, line_chart
from omniform.bench.results import Measure, Result, split_metric
from omniform.bench.store.store import is_device

STYLE: Final = """
:root { color-scheme: light dark; --back: #fff; --ink: #1b1f24; --soft: #59636e; --edge: #d1d9e0; --head: #f3f5f7;
  --good: #116329; --bad: #b3141d; --link: #0a62c4; }
@media (prefers-color-scheme: dark) { :root { --back: #14181d; --ink: #f0f3f6; --soft: #a8b3be; --edge: #3d444d;
  --head: #1f252c; --good: #5fd17a; --bad: #ff8f8a; --link: #6cb6ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .25rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; } a { color: var(--link); }
p { margin: .25rem 0 .75rem; } .soft { color: var(--soft); } nav ul { padding-left: 1.2rem; }
.wide { overflow-x: auto; border: 1px solid var(--edge); border-radius: 6px; }
.wide:focus-visible, button:focus-visible, a:focus-visible { outline: 3px solid var(--link); outline-offset: 1px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .4rem .7rem; text-align: right; border-bottom: 1px solid var(--edge); white-space: nowrap; }
tr:last-child > * { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; }
thead th { background: var(--head); padding: 0; vertical-align: bottom; }
tbody th { font-weight: 600; }
th button { all: unset; cursor: pointer; display: block; width: 100%; padding: .5rem .7rem; box-sizing: border-box;
  font-weight: 600; white-space: normal; min-width: 7rem; }
th button::after { content: "\\a0\\2195"; color: var(--soft); }
th[aria-sort=ascending] button::after { content: "\\a0\\2191"; }
th[aria-sort=descending] button::after { content: "\\a0\\2193"; }
.worse { color: var(--bad); font-weight: 600; } .better { color: var(--good); font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem;
  margin-top: 1rem; }
figure { margin: 0; padding: .5rem; border: 1px solid var(--edge); border-radius: 6px; min-width: 0; }
figcaption { font-size: .9rem; margin-bottom: .25rem; }
svg { display: block; width: 100%; max-width: 46rem; height: auto; }
@media (max-width: 480px) { .chart { font-size: 14px; } body { padding: .75rem; } }
li { margin: .25rem 0; } .failed { color: var(--bad); }
@media print { .wide { overflow: visible; } th button::after { content: none; } }
"""

SCRIPT: Final = """
for (const head of document.querySelectorAll("th button")) head.addEventListener("click", () => {
  const cell = head.parentElement, table = cell.closest("table"), body = table.tBodies[0];
  const at = [...cell.parentElement.children].indexOf(cell);
  const way = cell.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const one of cell.parentElement.children) one.removeAttribute("aria-sort");
  cell.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
  const key = row => { const one = row.children[at]; return one.dataset.value ?? one.textContent; };
  const number = text => text === "" ? NaN : Number(text);
  body.append(...[...body.rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)], [m, n] = [number(x), number(y)];
    if (isNaN(m) || isNaN(n)) return isNaN(m) && isNaN(n) ? way * x.localeCompare(y) : isNaN(m) ? 1 : -1;
    return way * (m - n);
  }));
});
"""

MOST_CHARTS: Final = 6
"""Of a config; what else was measured stands in its table."""


def page(results: Sequence[Result], *, title: str = "Measurements", metrics: Sequence[str] | None = None) -> str:
    """Results as a page.

    Args:
        metrics: what is shown; all that was measured by default.
    """
    names = (f"c{number}" for number in count())
    groups = sections(results)
    body = [f"<h1>{escape(title)}</h1>", f'<p class="soft">{len(results)} results, {_span(results)}</p>']
    if len(groups) > 1:
        links = "".join(f'<li><a href="#s{at}">{escape(name)}</a></li>' for at, name in enumerate(groups))
        body.append(f'<nav aria-label="Configs"><ul>{links}</ul></nav>')
    for at, (name, group) in enumerate(groups.items()):
        body.append(f'<section aria-labelledby="s{at}"><h2 id="s{at}">{escape(name)}</h2>')
        body.append(f'<p class="soft">{escape(facts(group))}</p>')
        body += _section(name, group, metrics, names)
        body.append("</section>")
    return _frame(title, body)


def history_page(metric: str, series: Sequence[Series]) -> str:
    """A metric over time, as a page: a chart and a table for every contender."""
    body = [f"<h1>{escape(metric)}</h1>"]
    for at, one in enumerate(series):
        words = f"{len(one.points)} runs; {one.better} is better"
        body.append(f'<section><h2>{escape(one.title)}</h2><p class="soft">{words}</p>')
        body.append(f"<figure>{line_chart(one, f'c{at}')}</figure><h3>Values</h3>")
        rows = "".join(_point_row(point, one.unit) for point in one.points)
        body.append(_scrolled(one.title, ("commit", "measured", "value", "from", "to", "turns"), rows))
        body.append("</section>")
    return _frame(metric, body)


def _point_row(point: Point, unit: str) -> str:
    cells = [f'<td data-value="{point.time!r}">{minute(point.time)}</td>']
    for value in (point.value, point.low, point.high):
        key = "" if math.isnan(value) else repr(value)
        cells.append(f'<td data-value="{key}">{escape(shown(value, unit))}</td>')
    return f'<tr><th scope="row">{escape(point.label)}</th>{"".join(cells)}<td>{point.turns}</td></tr>'


def _scrolled(title: str, heads: Sequence[str], rows: str) -> str:
    """A table that is sorted by its heads and scrolls where it is too wide."""
    row = "".join(f'<th scope="col"><button type="button">{escape(head)}</button></th>' for head in heads)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(title)}; scrolls sideways">'
        f"<table><thead><tr>{row}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _frame(title: str, body: Sequence[str]) -> str:
    policy = (
        f"default-src 'none'; script-src '{_sha(SCRIPT)}'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{CHARTS}{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + f"\n</main><script>{SCRIPT}</script></body></html>\n"
    )


def _sha(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _span(results: Sequence[Result]) -> str:
    if not results:
        return "none"
    first, last = minute(min(one.started for one in results)), minute(max(one.started for one in results))
    return first if first == last else f"{first} to {last}"


def _section(name: str, results: Sequence[Result], metrics: Sequence[str] | None, ids: Iterator[str]) -> Iterator[str]:
    groups = contenders(results)
    wanted = list(metrics or known_measures(measured(results)))
    if groups:
        yield _table(name, groups, wanted)
        yield from _charts(groups, wanted, ids)
        yield from _over_time(results, wanted, ids)
    said = [
        f'<li class="failed">{escape(one.contender)}: {escape(one.status)}: {escape(one.error or "not finished")}</li>'
        for one in results
        if one.status != "done"
    ]
    said += [f"<li>{escape(one.contender)} was noisy: {escape(noise)}</li>" for one in results for noise in one.noise]
    if said:
        yield f"<h3>Mind</h3><ul>{''.join(said)}</ul>"


def _table(title: str, groups: dict[str, list[Result]], metrics: Sequence[str]) -> str:
    names = list(groups)
    heads = ["metric", *names, *(f"{name} : {names[0]}" for name in names[1:])]
    return _scrolled(f"Medians of {title}", heads, "".join(_row(groups, metric) for metric in metrics))


def _row(groups: dict[str, list[Result]], metric: str) -> str:
    name, statistic = split_metric(metric)
    found = [joined(group, name) for group in groups.values()]
    if not any(found):
        return ""
    cells = [f'<th scope="row">{escape(metric)}</th>', *(_value_cell(one, statistic) for one in found)]
    cells += [
        _ratio_cell(metric, found[0], one, statistic, group[-1])
        for one, group in list(zip(found, groups.values(), strict=True))[1:]
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _value_cell(measure: Measure | None, statistic: str) -> str:
    if measure is None:
        return '<td data-value="">–</td>'
    value = measure.statistic(statistic)
    told = measure.summary
    hint = f"mean {shown(told.mean, measure.unit)}, p90 {shown(told.p90, measure.unit)}, {told.count} samples"
    key = "" if math.isnan(value) else repr(value)
    return (
        f'<td data-value="{key}" title="{escape(hint)}">{escape(shown(value, unit_of(measure.unit, statistic)))}</td>'
    )


def _ratio_cell(metric: str, first: Measure | None, second: Measure | None, statistic: str, result: Result) -> str:
    if first is None or second is None:
        return '<td data-value="">–</td>'
    row = row_of(("", "", ""), metric, first, second, statistic)
    mark = {"worse": " worse", "better": " better"}.get(row.verdict, "")
    mark += "?" if mark and not row.sure else ""
    misses = missed(result, metric, row.ratio)
    mark += f", {misses}" if misses else ""
    key = "" if math.isnan(row.ratio) else repr(row.ratio)
    text = escape(ratio_of(row.ratio, row.low, row.high) + mark)
    return f'<td data-value="{key}" class="{row.verdict}">{text}</td>'


def _charts(groups: dict[str, list[Result]], metrics: Sequence[str], ids: Iterator[str]) -> Iterator[str]:
    if len(groups) < 2:
        return
    figures = []
    for metric in [one for one in metrics if not is_device(one) and not neither(one)][:MOST_CHARTS]:
        name, statistic = split_metric(metric)
        told = {title: joined(group, name) for title, group in groups.items()}
        kept = {title: one for title, one in told.items() if one is not None}
        if len(kept) < 2:
            continue
        one = next(iter(kept.values()))
        bars = [
            Bar(title, each.statistic(statistic), *interval(turns_of(each, statistic))) for title, each in kept.items()
        ]
        if any(bar.value < 0 for bar in bars):
            continue
        words = f"{metric}, {one.better} is better"
        chart = bar_chart(words, bars, unit_of(one.unit, statistic), next(ids), better=one.better)
        figures.append(f"<figure><figcaption>{escape(words)}</figcaption>{chart}</figure>")
    if figures:
        yield f'<div class="charts">{"".join(figures)}</div>'


def _over_time(results: Sequence[Result], metrics: Sequence[str], ids: Iterator[str]) -> Iterator[str]:
    figures: list[str] = []
    for metric in [one for one in metrics if not neither(one)]:
        if split_metric(metric)[0] not in known_measures(measured(results)):
            continue
        for series in history(results, metric):
            if len(series.points) > 1 and len(figures) < MOST_CHARTS:
                words = f"{series.metric}: {series.title}, {series.better} is better"
                figures.append(
                    f"<figure><figcaption>{escape(words)}</figcaption>{line_chart(series, next(ids))}</figure>"
                )
    if figures:
        yield f'<h3>Over time</h3><div class="charts">{"".join(figures)}</div>'
        yield f'<p class="soft">Bars: what the median lies between. From {ENOUGH} turns on they can be believed.</p>'
