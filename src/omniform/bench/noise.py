"""What else the machine did during a turn, and whether the turn is to be believed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, Self

from omniform.bench.config import NoiseConfig
from omniform.bench.stats import spread_of

TICK: Final = 1 / (os.sysconf("SC_CLK_TCK") if sys.platform != "win32" else 100)


@dataclass(frozen=True, slots=True)
class Reading:
    """The machine's counters at one moment, or what they grew by.

    Attributes:
        busy: seconds that all processors worked for anybody.
        steal: seconds that the host gave to others.
        throttled: times that heat held a processor back.
        swapped: pages that came from or went to the swap.
        faults: pages of the process that came from the disk.
        switches: times that the process had to give way to others.
        waited: seconds that threads of the process could have run and had no processor.
    """

    busy: float = 0.0
    steal: float = 0.0
    throttled: float = 0.0
    swapped: float = 0.0
    faults: float = 0.0
    switches: float = 0.0
    waited: float = 0.0

    @classmethod
    def now(cls, pid: int, proc: Path = Path("/proc"), sys_cpu: Path = Path("/sys/devices/system/cpu")) -> Self:
        """Read all that this machine tells; what it does not tell stays 0."""
        busy = steal = swapped = 0.0
        with suppress(OSError, ValueError, IndexError):
            words = _text(proc / "stat").splitlines()[0].split()[1:]
            ticks = [float(word) for word in words]
            user, nice, system, _, _, irq, softirq = ticks[:7]
            busy, steal = TICK * (user + nice + system + irq + softirq), TICK * ticks[7]
        with suppress(OSError):
            pages = dict(line.split() for line in _text(proc / "vmstat").splitlines() if line.startswith("pswp"))
            swapped = sum(map(float, pages.values()))
        throttled = 0.0
        for file in sys_cpu.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
            with suppress(OSError, ValueError):
                throttled += float(_text(file))
        return cls(busy, steal, throttled, swapped, *_of_process(proc / str(pid)))

    def since(self, before: Self) -> Reading:
        """What the counters grew by."""
        return Reading(*(max(getattr(self, name) - getattr(before, name), 0.0) for name in Reading.__slots__))


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii", errors="replace")


def _of_process(folder: Path) -> tuple[float, float, float]:
    faults = switches = waited = 0.0
    with suppress(OSError, ValueError, IndexError):
        faults = float(_text(folder / "stat").rpartition(")")[2].split()[9])
    for task in folder.glob("task/[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            waited += float(_text(task / "schedstat").split()[1]) / 1e9
        with suppress(OSError, ValueError, IndexError):
            lines = _text(task / "status").splitlines()
            switches += sum(float(line.split()[1]) for line in lines if line.startswith("nonvoluntary_ctxt"))
    return faults, switches, waited


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What disturbed a turn.

    Attributes:
        others: processors' time that others used, as a share of what there is.
        waited: time that threads of the process had to wait for a processor, as a share of the turn.
        steal, faults, swapped, throttled: see :class:`Reading`; a second, and shares of the time of all processors.
        switches: a second.
        reasons: what of it is more than may be, in words.
    """

    others: float
    waited: float
    steal: float
    faults: float
    swapped: float
    throttled: float
    switches: float
    reasons: tuple[str, ...]

    @property
    def weight(self) -> float:
        """How bad it is: of two turns, the one that weighs less is kept."""
        return self.others + self.waited + 5 * self.steal + self.faults / 100 + self.throttled


def judged(
    grown: Reading, seconds: float, own: float, cores: int, threads: int, limits: NoiseConfig, clock: str = "wall"
) -> Disturbance:
    """Whether a turn was disturbed.

    Args:
        grown: what the counters grew by.
        seconds: that the turn took.
        own: seconds that processors worked for the benchmark: the contender and the recorder.
        cores: processors.
        threads: that the contender computes with.
        limits: what may be.
        clock: time that others take does not count in ``cpu``; what they do to caches does, and is not seen here.
    """
    seconds = max(seconds, 1e-9)
    others = max(grown.busy - own, 0.0) / (seconds * cores)
    steal = grown.steal / (seconds * cores)
    waited = grown.waited / (seconds * max(threads, 1))
    faults, swapped = grown.faults / seconds, grown.swapped / seconds
    throttled, switches = grown.throttled / seconds, grown.switches / seconds
    room = (cores - threads) / cores  # others disturb where they need more than what the contender leaves
    reasons = []
    if clock == "wall" and others > max(limits.others, room):
        reasons.append(f"others used {others:.0%} of the processors")
    if clock == "wall" and waited > limits.others:
        reasons.append(f"it waited {waited:.0%} of the time for a processor ({switches:.0f} switches a second)")
    if clock == "wall" and steal > limits.steal:
        reasons.append(f"the host took {steal:.0%} of the processors")
    if faults > limits.faults:
        reasons.append(f"{faults:.0f} pages a second came from the disk")
    if swapped > limits.faults:
        reasons.append(f"{swapped:.0f} pages a second were swapped")
    if throttled:
        reasons.append("heat held the processors back")
    return Disturbance(others, waited, steal, faults, swapped, throttled, switches, tuple(reasons))


def told(turns: Sequence[Disturbance], rounds: Sequence[Sequence[float]], limits: NoiseConfig) -> list[str]:
    """Why a contender's numbers are not to be believed, in sentences; none where nothing speaks against them.

    Args:
        turns: what disturbed each turn that was kept.
        rounds: the samples of the main measure, by turn.
    """
    found = []
    disturbed = [one for one in turns if one.reasons]
    if disturbed:
        worst = max(disturbed, key=lambda one: one.weight)
        found.append(f"{len(disturbed)} of {len(turns)} turns were disturbed: {'; '.join(worst.reasons)}")
    medians = [median(one) for one in rounds if one]
    spread = spread_of(medians)
    if spread > limits.spread:
        found.append(f"turns differ by {spread:.0%} of their median")
    return found
