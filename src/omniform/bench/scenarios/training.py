"""A training step: forward, loss, backward, optimizer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

from ..backends.base import Backend
from ..job import Job
from .base import SECONDS, SPEED, Kind, Scenario, Values, at_least
from .forward import lengths, text_rows


@dataclass(frozen=True, kw_only=True)
class TrainStep(Scenario):
    """Steps over batches of random tokens.

    Attributes:
        batch: rows.
        length: tokens of a row.
        ragged: whether rows have all lengths from a quarter of it to it, filled up on the right.
        by: a loop as one writes it, or the library's ``Trainer``.
        steps: of a sample of the Trainer, of which the first is not counted.
        optimizer: of ``torch.optim``, of a loop.
        rate: its learning rate.
        task: what the model is loaded for.
    """

    batch: int = 4
    length: int = 64
    ragged: bool = False
    by: Literal["loop", "trainer"] = "loop"
    steps: int = 6
    optimizer: str = "AdamW"
    rate: float = 1e-4
    task: str = "text-generation"
    NEEDS: ClassVar[tuple[str, ...]] = ("train",)
    GIVES: ClassVar[dict[str, Kind]] = {"train_step.latency": SECONDS, "train_step.throughput": SPEED}

    def check(self) -> None:
        """Rows have a token to be foretold, and the Trainer a step after the first."""
        at_least(1, batch=self.batch)
        at_least(2, length=self.length, steps=self.steps)

    def begin(self, backend: Backend, job: Job) -> Callable[[], Values]:
        """Load, and make the optimizer, or the Trainer's data."""
        backend.prepare()
        backend.load(self.task)
        model = backend.train()
        if self.by == "trainer":
            return self._trained(backend, job, model)
        rows = self._rows(backend, "0")
        optimizers: Any = import_module("torch.optim")
        if not hasattr(optimizers, self.optimizer):
            raise ValueError(f"torch.optim has no {self.optimizer}")
        optimizer = getattr(optimizers, self.optimizer)(model.parameters(), lr=self.rate)

        def sample() -> Values:
            backend.wait()
            started = job.now()
            loss = model(**rows).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            backend.wait()
            return self._told([job.now() - started])

        return sample

    def lengths(self) -> list[int]:
        """Tokens of the rows of a batch."""
        return lengths(self.batch, self.length, self.ragged)

    def _told(self, spent: Sequence[float]) -> Values:
        read = sum(self.lengths())
        seconds = [max(one, 1e-9) for one in spent]
        return {"train_step.latency": seconds, "train_step.throughput": [read / one for one in seconds]}

    def _rows(self, backend: Backend, name: str) -> dict[str, Any]:
        """A batch, with labels as its task wants them: a class of each row, or the token that follows."""
        rows = backend.tensors(text_rows(self.batch, self.length, backend.vocabulary(), self.ragged, name))
        if self.task == "text-classification":
            return {**rows, "labels": rows["input_ids"][:, 0] % 2}
        return {**rows, "labels": rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)}

    def _trained(self, backend: Backend, job: Job, model: Any) -> Callable[[], Values]:
        """Whole calls of ``train``, each of so many steps; what passes between the ends of two steps is one."""
        library, moments = import_module(str(backend.options["kind"])), list[float]()

        class Clock(library.TrainerCallback):  # type: ignore[misc, name-defined]
            def on_step_end(self, *given: object, **more: object) -> None:
                moments.append(job.now())

        batches = [self._rows(backend, str(step)) for step in range(self.steps)]
        data = [{name: one[row] for name, one in batch.items()} for batch in batches for row in range(self.batch)]

        def sample() -> Values:
            moments.clear()
            with TemporaryDirectory() as folder:
                how = library.TrainingArguments(
                    output_dir=folder, max_steps=self.steps, per_device_train_batch_size=self.batch,
                    learning_rate=self.rate, save_strategy="no", report_to="none", disable_tqdm=True,
                    use_cpu=backend.device == "cpu",
                )  # fmt: skip
                library.Trainer(
                    model=model, args=how, train_dataset=data, data_collator=stacked, callbacks=[Clock()]
                ).train()
            return self._told([after - before for before, after in itertools.pairwise(moments)])

        return sample

    def work(self, backend: Backend) -> tuple[float, float] | None:
        """A backward pass computes twice what a forward does; weights are read by both, and written with their
        gradient and two moments by the optimizer."""
        cost = backend.cost()
        return None if cost is None else (3 * sum(map(cost.pass_over, self.lengths())), 9 * cost.read)


def stacked(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows as a batch, as long as the longest of them."""
    torch = import_module("torch")
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    longest = int(batch["attention_mask"].sum(1).max())
    return {name: x[:, :longest] if x.dim() > 1 else x for name, x in batch.items()}


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
