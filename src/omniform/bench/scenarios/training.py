"""A training step: forward, loss, backward, optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from ..backends.base import Backend
from ..job import Job
from .base import SECONDS, SPEED, Kind, Scenario, Values, at_least


@dataclass(frozen=True, kw_only=True)
class TrainStep(Scenario):
    """Steps over the same batch of random tokens.

    Attributes:
        batch: rows.
        length: tokens of a row.
        optimizer: of ``torch.optim``.
        rate: its learning rate.
    """

    batch: int = 4
    length: int = 64
    optimizer: str = "AdamW"
    rate: float = 1e-4
    task: str = "text-generation"
    NEEDS: ClassVar[tuple[str, ...]] = ("train",)
    GIVES: ClassVar[dict[str, Kind]] = {"train_step.latency": SECONDS, "train_step.throughput": SPEED}

    def check(self) -> None:
        """Rows have a token to be foretold."""
        at_least(1, batch=self.batch)
        at_least(2, length=self.length)

    def begin(self, backend: Backend, job: Job) -> Callable[[], Values]:
        """Load, and make the optimizer."""
        backend.prepare()
        backend.load(self.task)
        model = backend.train()
        rows: dict[str, Any] = backend.rows("text", self.batch, self.length, 0)
        optimizers: Any = import_module("torch.optim")
        if not hasattr(optimizers, self.optimizer):
            raise ValueError(f"torch.optim has no {self.optimizer}")
        optimizer = getattr(optimizers, self.optimizer)(model.parameters(), lr=self.rate)

        def sample() -> Values:
            backend.wait()
            started = job.now()
            loss = model(**rows, labels=rows["input_ids"]).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            backend.wait()
            spent = max(job.now() - started, 1e-9)
            return {"train_step.latency": spent, "train_step.throughput": self.batch * self.length / spent}

        return sample

    def work(self, backend: Backend) -> tuple[float, float] | None:
        """A backward pass computes twice what a forward does; weights are read by both, and written with their
        gradient and two moments by the optimizer."""
        cost = backend.cost()
        return None if cost is None else (3 * cost.flop * self.batch * self.length, 9 * cost.read)


@dataclass(frozen=True, kw_only=True)
class Export(Scenario):
    """Writing a model in another format.

    Attributes:
        format: as ``model.export`` takes it.
        task: what the model is loaded and exported for.
    """

    format: str = "onnx"
    task: str = "text-generation"
    NEEDS: ClassVar[tuple[str, ...]] = ("export",)
    GIVES: ClassVar[dict[str, Kind]] = {"export.latency": SECONDS, "export.size": Kind("B")}
    FRESH: ClassVar[bool] = True

    def begin(self, backend: Backend, job: Job) -> Callable[[], Values]:
        """Load."""
        from pathlib import Path
        from tempfile import TemporaryDirectory

        backend.prepare()
        backend.load(self.task)

        def sample() -> Values:
            with TemporaryDirectory() as folder:
                started = job.now()
                backend.export(self.format, folder)
                spent = job.now() - started
                size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
                return {"export.latency": spent, "export.size": float(size)}

        return sample
