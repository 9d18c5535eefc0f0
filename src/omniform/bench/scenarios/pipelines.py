"""A pipeline's whole way: from a text, a picture or a sound to an answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ..backends.base import Backend
from ..job import Job
from .base import SECONDS, Kind, Scenario, Values, at_least
from .made_inputs import MODALITIES, made


@dataclass(frozen=True, kw_only=True)
class Pipeline(Scenario):
    """Calls of a pipeline.

    Attributes:
        task: of the pipeline.
        modality: of what is made for it, where no input is given: ``text``, ``image``, ``audio`` or ``video``.
        inputs: what it is given: texts, or files.
        count: inputs of a call, each the next of those that there are.
        size: of what is made: words of a text, rows and columns of a picture, seconds of a sound, frames of a video.
        shortest: size of the smallest, where inputs are to have all sizes from it to ``size``, in no order.
        settings: keywords of the call.
    """

    task: str = "text-generation"
    modality: str = "text"
    inputs: tuple[str, ...] = ()
    count: int = 1
    size: int = 0
    shortest: int = 0
    settings: Mapping[str, object] = field(default_factory=dict)
    NEEDS: ClassVar[tuple[str, ...]] = ("pipeline",)
    GIVES: ClassVar[dict[str, Kind]] = {
        "pipeline.latency": SECONDS,
        "pipeline.throughput": Kind("inputs/s", "higher"),
    }

    def check(self) -> None:
        """There is something to be given."""
        at_least(1, count=self.count)
        at_least(0, size=self.size, shortest=self.shortest)
        if self.shortest > self.size:
            raise ValueError(f"shortest is {self.shortest}, and size {self.size}")
        if self.modality not in MODALITIES:
            raise ValueError(f"modality is {self.modality!r}, and must be one of {', '.join(MODALITIES)}")

    def made(self) -> list[object]:
        """What is given, where no input is named."""
        if not self.shortest:
            return [made(self.modality, place, self.size) for place in range(min(self.count, 8))]
        chance = random.Random("sizes")
        return [made(self.modality, place, chance.randint(self.shortest, self.size)) for place in range(self.count)]

    def begin(self, backend: Backend, job: Job) -> Callable[[], Values]:
        """Make the pipeline."""
        backend.prepare()
        pipe = backend.pipeline(self.task)
        given = list(self.inputs) or self.made()
        several = [given[place % len(given)] for place in range(self.count)]
        inputs = several[0] if self.count == 1 else several

        def sample() -> Values:
            backend.wait()
            started = job.now()
            answer = pipe(inputs, **self.settings)
            if not isinstance(answer, (list, dict)) and hasattr(answer, "__iter__"):
                list(answer)
            backend.wait()
            spent = max(job.now() - started, 1e-9)
            return {"pipeline.latency": spent, "pipeline.throughput": self.count / spent}

        return sample


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Scenario):
    """What comes before a model: a text becomes token ids, a picture, a sound or a video becomes numbers.

    Attributes:
        modality: of the inputs.
        count: inputs at once.
        size: words of a text, rows and columns of a picture, seconds of a sound, frames of a video.
    """

    modality: str = "text"
    count: int = 8
    size: int = 0
    NEEDS: ClassVar[tuple[str, ...]] = ("preprocess",)
    GIVES: ClassVar[dict[str, Kind]] = {
        "preprocessing.latency": SECONDS,
        "preprocessing.throughput": Kind("inputs/s", "higher"),
    }

    def check(self) -> None:
        """There is something, of a kind that is known."""
        at_least(1, count=self.count)
        at_least(0, size=self.size)
        if self.modality not in MODALITIES:
            raise ValueError(f"modality is {self.modality!r}, and must be one of {', '.join(MODALITIES)}")

    def begin(self, backend: Backend, job: Job) -> Callable[[], Values]:
        """Load what reads such inputs."""
        backend.prepare()
        reader = backend.reader(self.modality)
        inputs = [made(self.modality, place, self.size) for place in range(self.count)]

        def sample() -> Values:
            started = job.now()
            reader(inputs)
            spent = max(job.now() - started, 1e-9)
            return {"preprocessing.latency": spent, "preprocessing.throughput": self.count / spent}

        return sample
