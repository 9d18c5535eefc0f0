"""Requests that arrive as they do in life: at random moments, whoever else is being answered."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..backends.base import Answering, Backend
from ..job import Job
from .base import SECONDS, SPEED, Kind, Scenario, Values, at_least, tokens

ARRIVING: dict[str, Kind] = {
    "requests.latency": SECONDS,
    "requests.throughput": SPEED,
    "first_token.latency": SECONDS,
    "per_token.latency": SECONDS,
}


@dataclass(frozen=True, kw_only=True)
class Engine(Scenario):
    """Requests to an engine, at the moments of a Poisson process, the same in every sample.

    Attributes:
        requests: of a sample.
        rate: requests a second; 0 for all at once.
        prompt_tokens: of the longest prompt; prompts have all lengths from a quarter of it.
        new_tokens: of every answer.
        shared: tokens that all prompts begin with alike.
    """

    requests: int = 16
    rate: float = 8.0
    prompt_tokens: int = 64
    new_tokens: int = 16
    shared: int = 0
    task: str = "text-generation"
    NEEDS: ClassVar[tuple[str, ...]] = ("engine",)
    GIVES: ClassVar[dict[str, Kind]] = ARRIVING

    def check(self) -> None:
        """There are requests, at a rate that is none below zero."""
        at_least(1, requests=self.requests, prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens)
        at_least(0, shared=self.shared)
        if self.rate < 0:
            raise ValueError(f"rate is {self.rate}, and must be 0 or more")
        if self.shared >= self.prompt_tokens:
            raise ValueError(f"shared is {self.shared}: it leaves nothing of prompt_tokens {self.prompt_tokens}")

    def begin(self, backend: Backend, job: Job) -> Callable[[], Values]:
        """Load, and open an engine."""
        backend.prepare()
        backend.load(self.task)
        answering = backend.answering()
        vocabulary, turns = backend.vocabulary(), itertools.count()

        def sample() -> Values:
            return arrived(answering, self.prompts(str(next(turns)), vocabulary), self.new_tokens, self.rate, job)

        return sample

    def prompts(self, name: str, vocabulary: int) -> list[list[int]]:
        """Prompts of a sample."""
        own = self.prompt_tokens - self.shared
        least = max(1, own // 4)
        chance = random.Random("lengths")
        common = tokens(f"{name} common", self.shared, vocabulary)
        return [common + tokens(f"{name} {row}", chance.randint(least, own), vocabulary)
                for row in range(self.requests)]  # fmt: skip


def arrived(answering: Answering, prompts: Sequence[object], new: int, rate: float, job: Job) -> Values:
    """Let prompts arrive, and wait for all answers.

    What a request waits is on the wall's clock whatever the job's is: between requests, nobody works.
    """
    chance, at, moments = random.Random("arrivals"), 0.0, []
    for _ in prompts:
        moments.append(at)
        at += chance.expovariate(rate) if rate else 0.0
    times: list[list[float]] = [[] for _ in prompts]
    wrong: list[BaseException] = []
    begun = time.perf_counter()

    def one(place: int) -> None:
        try:
            arrival = begun + moments[place]
            time.sleep(max(arrival - time.perf_counter(), 0.0))
            times[place].append(time.perf_counter())
            answering(prompts[place], new, lambda: times[place].append(time.perf_counter()))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=one, args=(place,), daemon=True) for place in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]
    seconds = time.perf_counter() - begun
    written = sum(len(row) - 1 for row in times)
    steps = [after - before for row in times for before, after in itertools.pairwise(row[1:])]
    return {
        "requests.latency": [row[-1] - row[0] for row in times],
        "requests.throughput": written / seconds,
        "first_token.latency": [row[1] - row[0] for row in times if len(row) > 1],
        **({"per_token.latency": [max(step, 1e-9) for step in steps]} if steps else {}),
    }
