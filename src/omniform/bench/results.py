"""What a measurement gives: samples by name, of one contender, on one machine, at one time."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, Literal, Self, cast

from omniform.bench.stats import Summary, summary
from omniform.core.errors import InputError, UnknownNameError

Better = Literal["lower", "higher"]
Status = Literal["running", "done", "failed", "broken"]
"""``failed``: it said why. ``broken``: it was begun, and whoever ran it is gone."""

STATISTICS: Final = ("mean", "median", "p50", "p90", "p99", "min", "max", "stdev", "spread", "count", "value")
"""What can be asked of a measure, behind its name: ``decode.latency.p90``. ``value`` is its median."""

JSON = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that was measured.

    Attributes:
        name: what it is, in words that dots divide: ``decode.latency``.
        unit: of its samples: ``s``, ``tokens/s``, ``B``, ``J``, ``%``, ``FLOP``.
        rounds: samples, those together that were taken in one turn of a contender. Contenders take turns, so that
            what disturbs a round disturbs all of them.
        better: whether less of it is better, or more.
        passes: how often all contenders had new processes: every pass has as many of the rounds.
    """

    name: str
    unit: str
    rounds: tuple[tuple[float, ...], ...]
    better: Better = "lower"
    passes: int = 1

    @property
    def samples(self) -> list[float]:
        """All samples, in the order in which they were taken."""
        return list(chain.from_iterable(self.rounds))

    @property
    def summary(self) -> Summary:
        """What the samples come to."""
        return summary(self.samples)

    def statistic(self, name: str) -> float:
        """One of :data:`STATISTICS`.

        Raises:
            UnknownNameError: there is no such statistic.
        """
        if name not in STATISTICS:
            raise UnknownNameError(f"no statistic {name!r}", where=self.name, expected=", ".join(STATISTICS))
        return float(getattr(self.summary, {"p50": "median", "value": "median"}.get(name, name)))

    def told(self) -> JSON:
        """As JSON."""
        told = {"unit": self.unit, "better": self.better, "rounds": [list(one) for one in self.rounds]}
        return told if self.passes == 1 else {**told, "passes": self.passes}

    @classmethod
    def of(cls, name: str, told: JSON) -> Self:
        """From JSON."""
        rounds = cast("Sequence[Sequence[float]]", told["rounds"])
        return cls(
            name, str(told["unit"]), tuple(tuple(map(float, one)) for one in rounds), cast("Better", told["better"]),
            int(cast("int", told.get("passes", 1))),
        )  # fmt: skip


def passes_of(config: JSON, rounds: int) -> int:
    """How many passes so many rounds are, of a config that says how many a pass has; 1 where they are no whole ones."""
    each = config.get("rounds")
    return rounds // each if isinstance(each, int) and each > 0 and rounds and rounds % each == 0 else 1


@dataclass(slots=True, kw_only=True)
class Result:
    """What was measured of one contender.

    Attributes:
        id: its own name, different from all others.
        name: of the config.
        scenario: what was done.
        contender: who did it: the backend, and what makes it different from others of its kind.
        config: as it was composed, whole.
        commit: of the code that was measured; None where that is whatever was installed.
        status: how it stands.
        error: why it failed.
        started: seconds since 1970.
        seconds: that it took.
        machine: facts about the machine: ``cpu``, ``cores``, ``memory``, ``gpu``, ``os``, ``host``.
        versions: of what took part: ``omniform``, ``torch``, ``python``, ``transformers``, ...
        measures: by name.
        noise: why the numbers are not to be believed; empty where nothing speaks against them.
    """

    name: str
    scenario: str
    contender: str
    config: JSON = field(default_factory=dict)
    commit: str | None = None
    status: Status = "running"
    error: str | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.time)
    seconds: float = 0.0
    machine: JSON = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    measures: dict[str, Measure] = field(default_factory=dict)
    noise: list[str] = field(default_factory=list)

    def value(self, metric: str) -> float:
        """A number by its whole name, such as ``decode.latency.mean``.

        Raises:
            InputError: nobody measured it; names what was.
        """
        measure, statistic = split_metric(metric)
        if measure not in self.measures:
            raise InputError(
                f"{measure!r} was not measured", where=f"{self.name}, {self.contender}", expected=self.measures.keys()
            )
        return self.measures[measure].statistic(statistic)

    def told(self) -> JSON:
        """As JSON."""
        return {
            "id": self.id, "name": self.name, "scenario": self.scenario, "contender": self.contender,
            "config": dict(self.config), "commit": self.commit, "status": self.status, "error": self.error,
            "started": self.started, "seconds": self.seconds, "machine": dict(self.machine),
            "versions": dict(self.versions), "noise": list(self.noise),
            "measures": {name: one.told() for name, one in self.measures.items()},
        }  # fmt: skip

    @classmethod
    def of(cls, told: JSON) -> Self:
        """From JSON."""
        given = dict(told)
        measures = cast("Mapping[str, JSON]", given.pop("measures"))
        return cls(**given, measures={name: Measure.of(name, one) for name, one in measures.items()})  # type: ignore[arg-type]


def split_metric(metric: str) -> tuple[str, str]:
    """A metric's measure and its statistic; ``value`` where it names none."""
    head, _, last = metric.rpartition(".")
    return (head, last) if head and last in STATISTICS else (metric, "value")
