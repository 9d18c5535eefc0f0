"""The guard of the loss: a step whose loss is no number, or far above those before it, never reaches the weights.

A :class:`LossGuard` is among every Trainer's callbacks and stops at a loss that is no number;
``callbacks=[LossGuard(8)]`` stops also at one above eight times the median of the last steps, and
``trainer.remove_callback(LossGuard)`` at nothing.
The weights stay those before the step, and are written as a checkpoint; the error names the step and its examples.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, cast

from torch import Tensor

from omniform.core.errors import InputError, OmniformError, listed
from omniform.core.logs import get_logger
from omniform.train.callbacks import TrainerCallback
from omniform.train.state import ExportableState

if TYPE_CHECKING:
    from omniform.train.loop import Run
    from omniform.train.trainer import Trainer

logger = get_logger(__name__)

REMEMBERED: Final = 50
"""Steps whose losses a new one is compared with."""
ENOUGH: Final = 10
"""Steps that have to be known before a loss can be called a spike."""


class LossError(OmniformError, ArithmeticError):
    """Training stopped since its loss is no number, or jumped.

    Attributes:
        step: the step that was not taken, counted from 1.
        loss: its loss.
        checkpoint: where the state before it was written; None if it could not be.
        examples: indices into the training set of what the step read, over all its batches; empty for a stream.
    """

    step: int
    loss: float
    checkpoint: str | None
    examples: tuple[int, ...]


class LossGuard(TrainerCallback, ExportableState):
    """Watches the losses of steps, and ends a training before one that would spoil the weights.

    Args:
        spike: how many times the median of the last steps a loss may be; infinite: only what is no number stops.
    """

    def __init__(self, spike: float = math.inf) -> None:
        self.spike = float(spike)
        if not self.spike > 1:
            raise InputError("every loss would be a spike", where="spike", expected="more than 1", found=spike)
        self.losses: deque[float] = deque(maxlen=REMEMBERED)

    def state(self) -> dict[str, dict[str, object]]:
        """What a checkpoint keeps of it."""
        return {"args": {"spike": self.spike}, "attributes": {"losses": list(self.losses)}}

    def complaint(self, loss: float) -> str | None:
        """What is wrong with a step's loss; None if nothing is, and it is remembered."""
        if not math.isfinite(loss):
            return "the loss is no number"
        if len(self.losses) >= ENOUGH and loss > self.spike * (usual := statistics.median(self.losses)) > 0:
            return f"the loss jumped: it was {usual:.4g} in the median of {len(self.losses)} steps"
        self.losses = deque([*self.losses, loss], maxlen=REMEMBERED)  # after a resume it was a list
        return None


def check(trainer: Trainer, run: Run, epoch: int, read: int, count: int) -> None:
    """Stop before the optimizer's step if the loss of the batches just read says so.

    Args:
        epoch: which pass it is.
        read: batches of it that came before those.
        count: how many those are.

    Raises:
        LossError: as said.
    """
    guard = next((one for one in trainer.callback_handler.callbacks if isinstance(one, LossGuard)), None)
    if guard is None:
        return
    mean = cast(Tensor, trainer.accelerator.reduce(trainer._step_loss, reduction="mean"))
    loss = mean.item()
    problem = guard.complaint(loss)
    if problem is None:
        return
    trainer.optimizer.zero_grad()  # type: ignore[union-attr] # there is one in a training
    step = trainer.state.global_step + 1
    error = LossError(
        problem,
        where=f"step {step} (epoch {epoch}, batches {read} to {read + count - 1} of it)",
        found=loss,
        expected="a finite loss" if not math.isfinite(loss) else f"at most {guard.spike:g} times as much",
        remedy=_remedy(trainer, run, examples := _examples(run, read, count), kept := _kept(trainer, run)),
    )
    error.step, error.loss, error.checkpoint, error.examples = step, loss, kept, examples
    raise error


def _remedy(trainer: Trainer, run: Run, examples: Sequence[int], kept: str | None) -> str:
    which = f" Look at the examples {listed(examples)} of the training set." if examples else ""
    where = "" if kept is None else f" The state before it is {kept}: whoever goes on from there leaves the step out."
    return f"The weights are as they were before this step.{where}{which} remove_callback(LossGuard) lets it go on."


def _kept(trainer: Trainer, run: Run) -> str | None:
    """Write the state before the step; where, or None where nothing may be written."""
    if trainer.args.save_strategy == "no":
        return None
    try:
        trainer._save_checkpoint(run.model, run.trial)
        trainer._finish_writing()  # nobody else waits for it after an error
    except OSError as error:
        logger.warning("The state before the step cannot be written: %s", error)
        return None
    return f"{trainer._get_output_dir(run.trial)}/checkpoint-{trainer.state.global_step}"


def _examples(run: Run, read: int, count: int) -> tuple[int, ...]:
    """Indices of the examples in some batches of this epoch, by asking its sampler once more for the same order."""
    sampler = getattr(run.loader, "batch_sampler", None)
    if sampler is None:
        return ()
    found: list[int] = []
    for place, batch in enumerate(cast("Iterable[list[int]]", sampler)):
        if place >= read + count:
            break
        if place >= read:
            found += [int(i) for i in batch]
    return tuple(found)


__all__ = [
    "LossError",
    "LossGuard",
]
