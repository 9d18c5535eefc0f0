"""Proving on a user's own training that a stop in its midst changes nothing, and finding what does if something does.

The training runs through once, and once more to see that it is reproducible at all; then it is killed after a
checkpoint and gone on with in a new process. Every step leaves a line of digests (its batches, the generators' states,
loss, weights, the optimizer's state), and the first line that differs tells the cause.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from omniform.core.errors import InputError, OmniformError
from omniform.train.callbacks import TrainerCallback
from omniform.train.model_files import plain
from omniform.train.random_states import global_states

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.state import TrainerControl, TrainerState
    from omniform.train.trainer import Trainer

Line: TypeAlias = dict[str, object]

_TIMED: Final = ("runtime", "per_second", "_time")
"""Parts of the names of logged numbers that are measured times."""


@dataclass(frozen=True, slots=True)
class ResumeReport:
    """What came out of :func:`verify_resume`.

    Attributes:
        exact: whether the training that was stopped ended with the same weights, optimizer and logs, bit for bit.
        steps: how many steps were run.
        stopped_after: the step after which it was killed.
        cause: what broke it, in a sentence; empty if nothing did.
        step: the first step that differs.
        compared: what was compared, and whether it was the same.
    """

    exact: bool
    steps: int
    stopped_after: int
    cause: str = ""
    step: int | None = None
    compared: tuple[tuple[str, bool], ...] = ()

    def __str__(self) -> str:
        head = f"{self.steps} steps, killed after step {self.stopped_after} and gone on with: "
        if self.exact:
            return f"{head}the same bit for bit ({', '.join(name for name, _ in self.compared)})"
        differ = ", ".join(name for name, same in self.compared if not same)
        where = "" if self.step is None else f" First at step {self.step}."
        return f"{head}not the same ({differ}).{where} {self.cause}"


def verify_resume(
    make: Callable[[], Trainer],
    *,
    steps: int = 8,
    stop_after: int | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> ResumeReport:
    """Run a training straight through and once stopped, and compare.

    Args:
        make: makes the Trainer, in each process anew. Its arguments are used as they are, but for ``output_dir``, the
            number of steps, when it saves and logs, and that it reports to nobody.
        steps: how many steps each run has.
        stop_after: the step after which it is killed; half of them by default.
        folder: where the runs write; a temporary one by default, removed afterwards.

    Raises:
        InputError: there is no step after the stop.
        OmniformError: a run fails; its error is shown.
    """
    stop = steps // 2 if stop_after is None else stop_after
    if not 0 < stop < steps:
        raise InputError("there is nothing to compare", where="stop_after", expected=f"1 to {steps - 1}", found=stop)
    place = Path(tempfile.mkdtemp(prefix="omniform-verify-") if folder is None else folder)
    place.mkdir(parents=True, exist_ok=True)
    try:
        runs = [
            _Run(place / "straight", steps, stop),
            _Run(place / "again", steps, stop),
            _Run(place / "stopped", steps, stop, kill=True),
            _Run(place / "stopped", steps, stop, resume=True),
        ]
        for run in runs:
            run.start(make)
        return _report(_Trace.of(runs[0]), _Trace.of(runs[1]), _Trace.of(runs[3]), steps, stop)
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


# -- a run, in a process of its own ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Run:
    folder: Path
    steps: int
    stop: int
    kill: bool = False
    resume: bool = False

    @property
    def trace(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}{'-on' if self.resume else ''}.jsonl")

    def start(self, make: Callable[[], Trainer]) -> None:
        """Run to the end, or to the kill.

        Raises:
            OmniformError: it failed.
        """
        process = _context(make).Process(target=_child, args=(make, self))
        process.start()
        process.join()
        expected = -signal.SIGKILL if self.kill else 0
        if process.exitcode != expected:
            failed = self.trace.with_suffix(".error")
            found = failed.read_text() if failed.is_file() else f"exit code {process.exitcode}"
            name = "going on from the checkpoint" if self.resume else f"the run {self.folder.name!r}"
            raise OmniformError(f"{name} failed", found=found)


def _context(make: Callable[[], Trainer]) -> SpawnContext | ForkContext:
    """A fresh interpreter, where the function can be sent there; a fork of this one, where it is a closure."""
    try:
        ForkingPickler.dumps(make)
    except Exception:  # whatever objects raise that cannot be sent
        return multiprocessing.get_context("fork")
    started = torch.cuda.is_available() and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    return multiprocessing.get_context("spawn") if started else multiprocessing.get_context("fork")


def _child(make: Callable[[], Trainer], run: _Run) -> None:
    try:
        trainer = make()
        _prepare(trainer, run)
        trainer.train(resume_from_checkpoint=True if run.resume else None)
        end = _end_of(trainer)
        with run.trace.open("a") as file:
            file.write(json.dumps(end) + "\n")
    except BaseException as error:
        run.trace.with_suffix(".error").write_text(f"{type(error).__name__}: {error}")
        raise


def _prepare(trainer: Trainer, run: _Run) -> None:
    args = trainer.args
    args.output_dir = str(run.folder)
    args.max_steps = run.steps
    args.save_steps, args.logging_steps = run.stop, 1
    vars(args).update(
        save_strategy=type(args.save_strategy)("steps"), push_to_hub=False, report_to=[], disable_tqdm=True
    )
    vars(args).update(
        save_total_limit=None, save_only_model=False, load_best_model_at_end=False, logging_first_step=True
    )
    follower = _Follower(trainer, run)
    trainer.add_callback(follower)
    trainer.training_step = follower.step  # type: ignore[method-assign]


class _Follower(TrainerCallback):
    """Writes a line per step, and kills the process where it is to be killed."""

    def __init__(self, trainer: Trainer, run: _Run) -> None:
        self.trainer, self.run = trainer, run
        self.inner = trainer.training_step
        self.batches: list[Line] = []
        run.trace.unlink(missing_ok=True)

    def step(self, model: nn.Module, inputs: dict[str, object], num_items_in_batch: object = None) -> Tensor:
        """A micro-batch: what goes in, and the loss."""
        before = _digest(global_states())
        loss = self.inner(model, inputs, num_items_in_batch)  # type: ignore[arg-type]
        self.batches.append(
            {"batch": _digest(inputs), "rows": _rows(inputs), "random": before, "loss": _digest(loss),
             "items": _digest(num_items_in_batch)}
        )  # fmt: skip
        return loss

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: object
    ) -> None:
        """Kill, once the checkpoint is written."""
        if self.run.kill and state.global_step == self.run.stop:
            self.trainer._finish_writing()
            os.kill(os.getpid(), signal.SIGKILL)
        if not self.batches:
            self.weights = _digest(_weights(self.trainer))
            self.optimizer = _digest(_optimizer(self.trainer))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: object
    ) -> None:
        """Write what the step was like."""
        line = {
            "step": state.global_step, "before": self.weights, "optimizer": self.optimizer, "batches": self.batches,
            "rate": [group["lr"] for group in cast("torch.optim.Optimizer", self.trainer.optimizer).param_groups],
            "after": _digest(_weights(self.trainer)),
        }  # fmt: skip
        self.batches = []
        with self.run.trace.open("a") as file:
            file.write(json.dumps(line, default=str) + "\n")


def _weights(trainer: Trainer) -> Mapping[str, object]:
    return dict(plain(trainer).state_dict())


def _optimizer(trainer: Trainer) -> object:
    return {} if trainer.optimizer is None else trainer.optimizer.state_dict()["state"]


def _end_of(trainer: Trainer) -> Line:
    history = [
        {name: value for name, value in one.items() if not any(part in name for part in _TIMED)}
        for one in trainer.state.log_history
    ]
    return {
        "end": True,
        "weights": {name: _digest(value) for name, value in _weights(trainer).items()},
        "optimizer": _digest(_optimizer(trainer)),
        "logs": [{name: repr(value) for name, value in one.items()} for one in history],
    }


def _digest(value: object) -> str:
    made = hashlib.blake2b(digest_size=12)
    _feed(made, value)
    return made.hexdigest()


def _feed(made: hashlib.blake2b, value: object) -> None:
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous()
        made.update(f"{flat.dtype}{tuple(flat.shape)}".encode())
        made.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    elif isinstance(value, np.ndarray):
        made.update(value.tobytes())
    elif isinstance(value, Mapping):
        for name, one in value.items():
            made.update(repr(name).encode())
            _feed(made, one)
    elif isinstance(value, list | tuple):
        for one in value:
            _feed(made, one)
    else:
        made.update(repr(value).encode())


def _rows(inputs: Mapping[str, object]) -> list[str]:
    """A digest of each row, padding aside as far as zeros and masks tell."""
    tensors = [one for one in inputs.values() if isinstance(one, Tensor) and one.dim() > 0]
    if not tensors:
        return []
    first = tensors[0]
    return [_digest(row) for row in first]


# -- comparing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Trace:
    steps: Mapping[int, Line]
    end: Line

    @classmethod
    def of(cls, run: _Run) -> _Trace:
        lines = [json.loads(line) for line in run.trace.read_text().splitlines()]
        return cls({line["step"]: line for line in lines if "step" in line}, lines[-1])


def _report(straight: _Trace, again: _Trace, resumed: _Trace, steps: int, stop: int) -> ResumeReport:
    compared = tuple((name, straight.end[name] == resumed.end[name]) for name in ("weights", "optimizer", "logs"))
    if all(same for _, same in compared):
        return ResumeReport(True, steps, stop, compared=compared)
    for step in range(1, steps + 1):
        found = _difference(straight.steps.get(step), again.steps.get(step), "two runs from the start")
        if found:
            cause = f"The training is not reproducible even without a stop: {found}"
            return ResumeReport(False, steps, stop, cause, step, compared)
        if step > stop:
            found = _difference(straight.steps.get(step), resumed.steps.get(step), "after going on")
            if found:
                return ResumeReport(False, steps, stop, found, step, compared)
    return ResumeReport(False, steps, stop, _of_end(straight.end, resumed.end), None, compared)


def _difference(one: Line | None, other: Line | None, when: str) -> str:
    if one is None or other is None:
        return f"The step was run in one of both only ({when})." if one is not other else ""
    a = cast("Sequence[Line]", one["batches"])
    b = cast("Sequence[Line]", other["batches"])
    if one["before"] != other["before"]:
        return f"The weights before the step differ ({when}): something in the model is not in its checkpoint."
    if one["optimizer"] != other["optimizer"]:
        return f"The optimizer's state before the step differs ({when}): it keeps something outside of its state_dict."
    if len(a) != len(b):
        return f"The step had {len(a)} batches, and {len(b)} {when}: the data's length differs."
    for number, (x, y) in enumerate(zip(a, b, strict=True)):
        found = _of_batch(x, y, number, when)
        if found:
            return found
    if one["rate"] != other["rate"]:
        return f"The learning rate differs ({when}): the schedule keeps something outside of its state_dict."
    if one["after"] != other["after"]:
        return (
            f"Weights, batches and losses are the same before the step and the weights differ after it ({when}): a "
            "kernel of the backward or the optimizer gives other bits from run to run. full_determinism=True asks "
            "torch for others."
        )
    return ""


def _of_batch(x: Line, y: Line, number: int, when: str) -> str:
    if x["batch"] != y["batch"]:
        rows, others = cast("list[str]", x["rows"]), cast("list[str]", y["rows"])
        if sorted(rows) == sorted(others) and rows != others:
            what = "holds the same rows in another order: the sampler's order does not come back"
        elif set(rows) & set(others):
            what = "holds other rows in part: the data's order does not come back"
        else:
            what = (
                "holds other numbers: other examples (a dataset or sampler whose order comes from what is not saved), "
                "or the same ones made otherwise (a collator or dataset that draws from a generator that is not found)"
            )
        return f"Batch {number} of the step {what} ({when})."
    if x["items"] != y["items"]:
        return f"The count of what is scored differs though the batches are the same ({when})."
    if x["random"] != y["random"]:
        return (
            f"Batch {number} is the same, but the generators of random numbers (dropout) are in other states ({when}): "
            "something draws numbers in one run and not in the other."
        )
    if x["loss"] != y["loss"]:
        return (
            f"Batch {number}, weights and generators are the same and the loss differs ({when}): a kernel of the "
            "forward gives other bits each time, or the model keeps what is neither weight nor buffer."
        )
    return ""


def _of_end(one: Line, other: Line) -> str:
    first, second = cast("dict[str, str]", one["weights"]), cast("dict[str, str]", other["weights"])
    names = [name for name in first if first[name] != second.get(name)]
    if names:
        return f"All steps were the same, and afterwards these weights differ: {', '.join(names[:5])}."
    logs, others = cast("list[dict[str, str]]", one["logs"]), cast("list[dict[str, str]]", other["logs"])
    for x, y in zip(logs, others, strict=False):
        if x != y:
            return f"The weights are the same and the logs differ: {x} and {y}."
    return f"The weights are the same and there are {len(logs)} logs and {len(others)}."
