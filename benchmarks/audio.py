"""Sound, omniform beside the reference: ``python benchmarks/audio.py [PART ...]``.

``mels``: an hour of sound through Whisper's extractors.
``forwards``: models of the usual sizes with the same random weights.
``long``: eight files of different lengths written down in one batch by the bundled recogniser, window after window.
``memory``: what an hour of sound needs beside the bundled recogniser, in a process of its own.
``streams``: how much of a stream has been heard when its first words come.

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
from hearing.forwards import HEARERS, forwards
from hearing.longform import WAYS, longform
from hearing.mels import BANDS, mels
from hearing.memory import KINDS, memory, streams
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
    "mels": Part(BANDS, mels, "log-mels", "ms", 1000),
    "forwards": Part([*HEARERS], forwards, "model", "ms", 1000),
    "long": Part([*WAYS], longform, "batch", "ms", 1000),
    "memory": Part(KINDS, memory, "door", "MB", 1.0),
    "streams": Part((), streams, "stream", "s", 1.0),
}


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)} (all)")
    add("--only", default="", metavar="A,B", help="these rows only")
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
