"""Reading a prompt, and writing on from it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ..backends.base import Backend, unheard
from ..job import Job
from .base import SECONDS, SPEED, Kind, Scenario, Values, at_least, tokens


@dataclass(frozen=True, kw_only=True)
class Generate(Scenario):
    """Answers to prompts, from the first token read to the last written.

    Attributes:
        prompt_tokens: of the longest prompt.
        new_tokens: of every answer.
        batch: prompts at once.
        ragged: whether prompts have all lengths from a quarter of the longest to it.
        shared: tokens that all prompts begin with alike.
        beams: of a search; with more than one, only the whole is timed.
        task: what the model is loaded for.
    """

    prompt_tokens: int = 32
    new_tokens: int = 32
    batch: int = 1
    ragged: bool = False
    shared: int = 0
    beams: int = 1
    task: str = "text-generation"

    NEEDS: ClassVar[tuple[str, ...]] = ("write",)
    GIVES: ClassVar[dict[str, Kind]] = {
        "generate.latency": SECONDS,
        "generate.throughput": SPEED,
        "first_token.latency": SECONDS,
        "prefill.latency": SECONDS,
        "prefill.throughput": SPEED,
        "decode.latency": SECONDS,
        "decode.throughput": SPEED,
        "per_token.latency": SECONDS,
        "per_token.throughput": SPEED,
    }

    def check(self) -> None:
        """Lengths must be lengths; what is shared must leave something that is not."""
        at_least(1, prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens, batch=self.batch, beams=self.beams)
        at_least(0, shared=self.shared)
        if self.shared >= self.prompt_tokens:
            raise ValueError(f"shared is {self.shared}: it leaves nothing of prompt_tokens {self.prompt_tokens}")
        if self.ragged and self.batch < 2:
            raise ValueError("ragged says that prompts differ in length, and batch that there is one")

    def prompts(self, name: str, vocabulary: int) -> list[list[int]]:
        """A batch of prompts; of another name, other tokens of the same lengths."""
        own = self.prompt_tokens - self.shared
        lengths = [own] * self.batch
        if self.ragged:
            least = max(1, own // 4)
            lengths = [least + (own - least) * row // (self.batch - 1) for row in range(self.batch)]
        common = tokens(f"{name} common", self.shared, vocabulary)
        return [common + tokens(f"{name} {row}", length, vocabulary) for row, length in enumerate(lengths)]

    def begin(self, backend: Backend, job: Job) -> Callable[[], Values]:
        """Load; every sample has prompts of its own, which no cache has seen."""
        backend.prepare()
        backend.load(self.task)
        vocabulary, turns = backend.vocabulary(), itertools.count()
        read = sum(map(len, self.prompts("", vocabulary)))

        def sample() -> Values:
            prompts = self.prompts(str(next(turns)), vocabulary)
            times: list[float] = []
            heard = unheard if self.beams > 1 else lambda: times.append(job.now())
            backend.wait()
            started = job.now()
            written = backend.write(prompts, self.new_tokens, heard, self.beams)
            backend.wait()
            ended = job.now()
            count = sum(map(len, written))
            values: dict[str, float | list[float]] = {
                "generate.latency": ended - started,
                "generate.throughput": count / max(ended - started, 1e-9),
            }
            if times:
                values |= self._by_step(started, times, read)
            return values

        return sample

    def _by_step(self, started: float, times: list[float], read: int) -> dict[str, float | list[float]]:
        first = max(times[0] - started, 1e-9)
        values: dict[str, float | list[float]] = {
            "first_token.latency": first,
            "prefill.latency": first,
            "prefill.throughput": read / first,
        }
        if len(times) > 1:
            steps = [max(after - before, 1e-9) for before, after in itertools.pairwise(times)]
            spent = max(times[-1] - times[0], 1e-9)
            values |= {
                "decode.latency": spent,
                "decode.throughput": self.batch * len(steps) / spent,
                "per_token.latency": steps,
                "per_token.throughput": [self.batch / step for step in steps],
            }
        return values

    def work(self, backend: Backend) -> tuple[float, float] | None:
        """Every step reads all weights; every row's steps, what they see of its own."""
        cost = backend.cost()
        if cost is None:
            return None
        flop, moved = 0.0, cost.read * self.new_tokens
        for row in self.prompts("", cost.vocabulary):
            first, later = cost.prefilled(len(row)), cost.answered(len(row), self.new_tokens)
            flop += first[0] + self.beams * later[0]
            moved += first[1] + self.beams * later[1]
        return flop, moved


@dataclass(frozen=True, kw_only=True)
class Prefill(Generate):
    """Reading prompts, to the first token of the answer."""

    prompt_tokens: int = 256
    new_tokens: int = 1
    GIVES: ClassVar[dict[str, Kind]] = {
        name: Generate.GIVES[name] for name in ("prefill.latency", "prefill.throughput", "first_token.latency")
    }

    def check(self) -> None:
        """One token is written."""
        super().check()
        if self.new_tokens != 1 or self.beams != 1:
            raise ValueError("prefill ends with the first token: new_tokens and beams are 1")


@dataclass(frozen=True, kw_only=True)
class Decode(Generate):
    """Writing, from the first token of the answer to its last."""

    new_tokens: int = 64
    GIVES: ClassVar[dict[str, Kind]] = {
        name: Generate.GIVES[name]
        for name in ("decode.latency", "decode.throughput", "per_token.latency", "per_token.throughput")
    }

    def check(self) -> None:
        """There must be a step after the first."""
        super().check()
        if self.new_tokens < 2:
            raise ValueError(f"new_tokens is {self.new_tokens}: decoding begins with the second token")
        if self.beams != 1:
            raise ValueError("decode times single steps, which beams do not tell of; take generate")

    def work(self, backend: Backend) -> tuple[float, float] | None:
        """Of all steps after the first."""
        cost = backend.cost()
        if cost is None:
            return None
        rows = [cost.answered(len(row), self.new_tokens) for row in self.prompts("", cost.vocabulary)]
        return sum(one[0] for one in rows), cost.read * (self.new_tokens - 1) + sum(one[1] for one in rows)
