"""One chart of the results: how many times better omniform is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .report import value_of

OURS, EVEN, AIM = "#5b9bc8", "#444444", "#d1495b"


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw every figure's ratio as a bar, the pairs' range as a whisker, and what was to be reached as a mark.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [
        (figure, name, ratio)
        for workload in results["workloads"].values()
        for figure in workload["figures"]
        for name, ratio in figure["ratios"].items()
    ]
    canvas, axes = pyplot.subplots(figsize=(9, 1.6 + 0.55 * max(len(bars), 1)), layout="constrained")
    for place, (figure, name, ratio) in enumerate(bars):
        value, pairs = ratio["of_medians"], ratio["pairs"]
        axes.barh(place, value, height=0.6, color=OURS)
        axes.hlines(place, min(pairs), max(pairs), color="black", linewidth=1)
        ours, others = figure["medians"][figure["ours"]], figure["medians"][name]
        label = f"{value:.2f} x   {value_of(ours, '')} against {value_of(others, figure['unit'])}"
        axes.annotate(label, (max(value, *pairs), place), (6, 0), textcoords="offset points", va="center", fontsize=9)
        aims = [aim["ratio"] for aim in figure["aims"] if aim["against"] == name]
        if aims:
            axes.vlines(max(aims), place - 0.38, place + 0.38, color=AIM, linewidth=2.5)
    axes.axvline(1, color=EVEN, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(bars)), [f"{figure['title']}\nagainst {name}" for figure, name, _ in bars], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.55 * max((max(r["of_medians"], *r["pairs"]) for _, _, r in bars), default=1))
    axes.set_xlabel("times better than the other (dashed: as good; red: to be reached; line: from pair to pair)")
    axes.set_title(f"omniform side by side, {results['device']}, medians of {results['pairs']} pairs", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    canvas.savefig(path, dpi=150)
    pyplot.close(canvas)
