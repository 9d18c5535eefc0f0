"""The command line of benchmarks beside the reference: ``vision.py``, ``audio.py``, ``multimodal.py``, part by part."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
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


Parts = Mapping[str, Part]


def arguments(parts: Parts, told: str | None, given: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked.

    Args:
        told: what is measured, for ``--help``.
    """
    parser = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(parts)} (all)")
    add("--only", default="", metavar="A,B", help="these rows only")
    add("--runs", type=int, default=5, help="of every contender (5)")
    add("--threads", type=int, default=1, help="that a library may compute with (1)")
    add("--tiny", action="store_true", help="tiny sizes: tests the benchmark in seconds, and measures nothing")
    add("--json", type=Path, metavar="FILE", help="write the numbers, all samples included")
    add("--markdown", type=Path, metavar="FILE", help="write the tables of docs/benchmarks.md")
    chosen = parser.parse_args(given)
    chosen.parts = chosen.parts or [*parts]
    chosen.only = tuple(filter(None, chosen.only.split(",")))
    for name in chosen.parts:
        if name not in parts:
            parser.error(f"no such part: {name}")
    for name in chosen.only:
        if not all(name in parts[part].rows for part in chosen.parts):
            parser.error(f"not in all parts that are measured: {name}")
    return chosen


def measured(parts: Parts, told: str | None, given: Sequence[str] | None) -> int:
    """Measure, print, write; 1 where something is missed."""
    chosen = arguments(parts, told, given)
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import reference  # noqa: F401 # makes the reference importable beside a CPU torch

    torch.set_num_threads(chosen.threads)
    found: dict[str, object] = {
        "date": machine.today(), "commit": machine.commit(), "machine": machine.machine("cpu"),
        "software": machine.software(), "threads": chosen.threads, "runs": chosen.runs, "tiny": chosen.tiny,
    }  # fmt: skip
    tables, missed = [], False
    for name in chosen.parts:
        part = parts[name]
        contests = part.measure(chosen.only, chosen.runs, chosen.tiny)
        found[name] = {row: contest.to_dict() for row, contest in contests.items()}
        missed = missed or any(contest.missed for contest in contests.values())
        tables.append(table(part.title, part.unit, part.scale, contests))
        print(f"{name}\n\n{tables[-1]}\n", flush=True)
        if chosen.json is not None:
            chosen.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if chosen.markdown is not None:
        chosen.markdown.write_text("\n\n".join(tables) + "\n", encoding="utf-8")
    return int(missed and not chosen.tiny)
