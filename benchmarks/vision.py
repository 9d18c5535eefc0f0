"""Vision, omniform beside the reference: ``python benchmarks/vision.py [PART ...]``.

``preprocess``: 64 photographs of mixed sizes (scikit-image's, decoded; four of them from 2,000 to 3,500 pixels a side)
through the processors of several families, beside the reference's fast class and its slow one.
``forwards``: models of the usual sizes with the same random weights.
``memory``: the most that a process holds which loads one of these models and runs it once.
``large``: a picture of 12,000 x 12,000 pixels through processors, from its file, in a process of its own.

Times: one process, one thread by default, in turns whose order turns round. What is quoted is the median of the
processor time, which other work on the machine disturbs least (with more threads, of the clock's), and ratios of
medians. ``--tiny`` tests the benchmark and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from seeing.forwards import SIGHTS, forwards
from seeing.memory import forward_peaks, large_picture
from seeing.preprocess import PROCESSORS, preprocess
from turns import Contest, table
from versus import machine

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Something that is measured.

    Attributes:
        rows: by whose name some can be chosen.
        measure: measures these, in so many runs, in tiny form or not.
        title: of a table's first column.
        unit: of the table's numbers.
        scale: what measured numbers are multiplied by for it.
    """

    rows: Sequence[str]
    measure: Callable[[Names, int, bool], dict[str, Contest]]
    title: str
    unit: str
    scale: float


PARTS: Mapping[str, Part] = {
    "preprocess": Part(PROCESSORS, preprocess, "processor", "ms", 1000),
    "forwards": Part([*SIGHTS], forwards, "model", "ms", 1000),
    "memory": Part([*SIGHTS], lambda only, runs, tiny: forward_peaks(only, tiny), "model", "MB", 1.0),
    "large": Part(PROCESSORS, lambda only, runs, tiny: large_picture(only, tiny), "processor", "times decoded", 1.0),
}


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)} (all)")
    add("--only", default="", metavar="A,B", help="these processors or models only")
    add("--runs", type=int, default=5, help="of every contender (5)")
    add("--threads", type=int, default=1, help="that a library may compute with (1)")
    add("--tiny", action="store_true", help="tiny sizes: tests the benchmark in seconds, and measures nothing")
    add("--json", type=Path, metavar="FILE", help="write the numbers, all samples included")
    add("--markdown", type=Path, metavar="FILE", help="write the tables of docs/benchmarks.md")
    chosen = parser.parse_args(given)
    chosen.parts = chosen.parts or [*PARTS]
    chosen.only = tuple(filter(None, chosen.only.split(",")))
    for name in chosen.parts:
        if name not in PARTS:
            parser.error(f"no such part: {name}")
    for name in chosen.only:
        if not all(name in PARTS[part].rows for part in chosen.parts):
            parser.error(f"not in all parts that are measured: {name}")
    return chosen


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 where something is missed."""
    chosen = arguments(given)
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import reference  # noqa: F401 # makes the reference importable beside a CPU torch

    torch.set_num_threads(chosen.threads)
    told: dict[str, object] = {
        "date": machine.today(), "commit": machine.commit(), "machine": machine.machine("cpu"),
        "software": machine.software(), "threads": chosen.threads, "runs": chosen.runs, "tiny": chosen.tiny,
    }  # fmt: skip
    tables, missed = [], False
    for name in chosen.parts:
        part = PARTS[name]
        contests = part.measure(chosen.only, chosen.runs, chosen.tiny)
        told[name] = {row: contest.to_dict() for row, contest in contests.items()}
        missed = missed or any(contest.missed for contest in contests.values())
        tables.append(table(part.title, part.unit, part.scale, contests))
        print(f"{name}\n\n{tables[-1]}\n", flush=True)
        if chosen.json is not None:
            chosen.json.write_text(json.dumps(told, indent=1), encoding="utf-8")
    if chosen.markdown is not None:
        chosen.markdown.write_text("\n\n".join(tables) + "\n", encoding="utf-8")
    return int(missed and not chosen.tiny)


if __name__ == "__main__":
    sys.exit(main())
