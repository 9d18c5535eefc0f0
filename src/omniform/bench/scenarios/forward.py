"""One pass of a model over a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ..backends.base import Backend
from ..job import Job
from .base import SECONDS, Kind, Scenario, Values, at_least, tokens


@dataclass(frozen=True, kw_only=True)
class Forward(Scenario):
    """One pass.

    Attributes:
        batch: rows.
        length: tokens of a row, where it is text.
        ragged: whether rows of text have all lengths from a quarter of it to it, filled up on the right.
        modality: what the rows are: token ids, or pictures of the size that the model's config names.
        picture: rows and columns of a picture, where that size is not to be the config's.
        inputs: by its name, the shape of a row of each input, where they are to be others than that: ``pixel_values:
            [3, 800, 1066]``. They hold random numbers; token ids those of random tokens, and masks ones.
        task: what the model is loaded for.
    """

    batch: int = 1
    length: int = 128
    ragged: bool = False
    modality: Literal["text", "image"] = "text"
    picture: int = 0
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    task: str = "text-generation"
    NEEDS: ClassVar[tuple[str, ...]] = ("forward",)
    GIVES: ClassVar[dict[str, Kind]] = {
        "forward.latency": SECONDS,
        "forward.throughput": Kind("rows/s", "higher"),
    }

    def check(self) -> None:
        """Rows and tokens are at least one."""
        at_least(1, batch=self.batch, length=self.length)
        at_least(0, picture=self.picture)
        for name, shape in self.inputs.items():
            at_least(1, **{f"inputs.{name}": min(shape, default=0)})

    def begin(self, backend: Backend, job: Job) -> Callable[[], Values]:
        """Load, and make the rows."""
        backend.prepare()
        backend.load(self.task)
        inputs = self.made(backend)

        def sample() -> Values:
            backend.wait()
            started = job.now()
            backend.forward(inputs)
            backend.wait()
            spent = max(job.now() - started, 1e-9)
            return {"forward.latency": spent, "forward.throughput": self.batch / spent}

        return sample

    def made(self, backend: Backend) -> dict[str, object]:
        """The batch, the same for everyone."""
        if self.inputs:
            return backend.shaped(self.inputs, self.batch)
        if self.modality == "text" and self.ragged:
            return backend.tensors(text_rows(self.batch, self.length, backend.vocabulary(), ragged=True))
        return backend.rows(self.modality, self.batch, self.length, self.picture)

    def answer(self, backend: Backend) -> Sequence[float]:
        """Some of the numbers of the first output."""
        return backend.told(backend.forward(self.made(backend)))

    def work(self, backend: Backend) -> tuple[float, float] | None:
        """By weights and attention; of pictures it is not known."""
        cost = backend.cost()
        if cost is None or self.modality != "text" or self.inputs:
            return None
        return sum(cost.pass_over(n) for n in lengths(self.batch, self.length, self.ragged)), cost.read


def lengths(rows: int, longest: int, ragged: bool) -> list[int]:
    """Of rows: all alike, or from a quarter of the longest to it."""
    least = max(1, longest // 4) if ragged else longest
    return [least + (longest - least) * row // max(rows - 1, 1) for row in range(rows)]


def text_rows(
    batch: int, length: int, vocabulary: int, ragged: bool = False, name: str = ""
) -> dict[str, list[list[int]]]:
    """Token ids, filled up on the right with zeros, and a mask that says so."""
    long = lengths(batch, length, ragged)
    rows = [tokens(f"{name}row {row}", own, vocabulary) + [0] * (length - own) for row, own in enumerate(long)]
    return {"input_ids": rows, "attention_mask": [[1] * own + [0] * (length - own) for own in long]}
