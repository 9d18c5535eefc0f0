"""Several ways to do the same in turn, in one process, and what came of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

OURS, THEIRS = "omniform", "transformers"


def in_turns(contenders: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of every run of each, which has run once before.

    On one thread those of the processor, which other work on the machine lengthens least; else those of the clock. The
    order turns round from run to run.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()
    for number in range(runs):
        for name in [*contenders][:: 1 if number % 2 else -1]:
            start = clock()
            contenders[name]()
            taken[name].append(clock() - start)
    return taken


@dataclass(frozen=True, slots=True)
class Contest:
    """What was measured of several ways.

    Attributes:
        samples: what each way took, run by run; less is better.
        goals: how many times as much as ours each of the others is to take.
        facts: what else was seen.
    """

    samples: Mapping[str, list[float]]
    goals: Mapping[str, float]
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def medians(self) -> dict[str, float]:
        """Of each way."""
        return {name: statistics.median(taken) for name, taken in self.samples.items()}

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as much as ours each of the others took, by medians."""
        ours, *_ = self.medians.values()
        return {name: median / ours for name, median in self.medians.items() if name in self.goals}

    @property
    def missed(self) -> list[str]:
        """The others that took less than the goal says."""
        return [name for name, ratio in self.ratios.items() if round(ratio, 2) < self.goals[name]]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        told = {name: dict(getattr(self, name)) for name in ("samples", "medians", "ratios", "goals", "facts")}
        return {**told, "missed": self.missed}


def table(title: str, unit: str, scale: float, contests: Mapping[str, Contest]) -> str:
    """A table in Markdown.

    Args:
        title: of the first column.
        unit: of the numbers.
        scale: what samples are multiplied by for it.
        contests: the rows, all of them between the same ways.
    """
    some = next(iter(contests.values()))
    head = [title, *(f"{name}, {unit}" for name in some.medians), *(f"of {name}" for name in some.goals), *some.facts]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, one in contests.items():
        ratios = [f"{ratio:.2f} x{' (missed)' if who in one.missed else ''}" for who, ratio in one.ratios.items()]
        numbers = [f"{median * scale:,.{2 if scale == 1 else 0}f}" for median in one.medians.values()]
        lines.append([name, *numbers, *ratios, *(f"{value:.4g}" for value in one.facts.values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
