"""Scenarios of the tests' own: work of a known length, and work that goes wrong."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from omniform_bench import SECONDS, Kind, Scenario


@dataclass(frozen=True, kw_only=True)
class Spin(Scenario):
    """Spin for so many seconds of processor time; more of them where the contender's environment says so."""

    seconds: float = 0.02
    GIVES: ClassVar = {"spin.latency": SECONDS, "spin.throughput": Kind("spins/s", "higher")}

    def begin(self, backend: object, job: object) -> Callable[[], dict[str, float]]:
        longer = float(os.environ.get("SPIN_LONGER", "1"))
        mark = os.environ.get("SPIN_ONCE")
        if mark is not None and not os.path.exists(mark):  # the first process alone is slower
            longer *= 1.2
            open(mark, "w").close()

        def sample() -> dict[str, float]:
            started = time.process_time()
            while time.process_time() - started < self.seconds * longer:
                pass
            spent = time.process_time() - started
            return {"spin.latency": spent, "spin.throughput": 1 / spent}

        return sample


@dataclass(frozen=True, kw_only=True)
class Sum(Scenario):
    """Come to what the contender's environment says."""

    GIVES: ClassVar = {"sum.latency": SECONDS}

    def begin(self, backend: object, job: object) -> Callable[[], dict[str, float]]:
        return lambda: {"sum.latency": 0.001}

    def answer(self, backend: object) -> list[float]:
        return [float(number) for number in os.environ["SUM"].split()]


@dataclass(frozen=True, kw_only=True)
class Again(Sum):
    """The same, in a process of its own each time."""

    FRESH: ClassVar = True


@dataclass(frozen=True, kw_only=True)
class Toy(Scenario):
    """Call what the package ``toy`` of the contender's environment does."""

    GIVES: ClassVar = {"toy.latency": SECONDS}

    def begin(self, backend: object, job: object) -> Callable[[], dict[str, float]]:
        import toy

        def sample() -> dict[str, float]:
            started = time.process_time()
            toy.spin()
            return {"toy.latency": time.process_time() - started}

        return sample


@dataclass(frozen=True, kw_only=True)
class Wrong(Scenario):
    """Go wrong in the way that the contender's environment says, after some turns."""

    after: int = 0
    GIVES: ClassVar = {"wrong.latency": SECONDS}

    def begin(self, backend: object, job: object) -> Callable[[], dict[str, float]]:
        way, count = os.environ.get("WRONG", ""), iter(range(10**9))
        if way == "begin":
            raise RuntimeError("this library is broken")

        def sample() -> dict[str, float]:
            if next(count) >= self.after:
                if way == "kill":
                    print("these are my last words", flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)
                if way == "exit":
                    os._exit(3)
                if way == "hang":
                    time.sleep(1000)
                if way == "raise":
                    raise ValueError("no more")
                if way == "print":
                    print("noise on standard output")
            time.sleep(0.001)
            return {"wrong.latency": 0.001}

        return sample


@dataclass(frozen=True, kw_only=True)
class Once(Scenario):
    """Say which process does it."""

    FRESH: ClassVar = True
    GIVES: ClassVar = {"once.latency": SECONDS}

    def begin(self, backend: object, job: object) -> Callable[[], dict[str, float]]:
        return lambda: {"once.latency": float(os.getpid())}
