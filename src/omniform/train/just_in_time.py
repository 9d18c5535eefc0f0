"""A checkpoint when the machine is about to be taken away: at SIGTERM (``enable_jit_checkpoint``)."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING

from omniform.core.logs import get_logger
from omniform.train.callbacks import TrainerCallback
from omniform.train.state import TrainerControl, TrainerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from omniform.train.arguments import TrainingArguments
    from omniform.train.trainer import Trainer

    Handler = Callable[[int, FrameType | None], object] | int | None

logger = get_logger(__name__)


class JITCheckpointCallback(TrainerCallback):
    """At SIGTERM: finishes the step under way, writes a checkpoint and ends the training.

    Between steps only: a checkpoint in the midst of one could not be gone on from exactly. The training that goes on
    from it does what was still due, and does not know that it was interrupted.
    """

    def __init__(self) -> None:
        self.trainer: Trainer | None = None
        self._asked = threading.Event()
        self._before: Handler = None
        self._listening = False

    def set_trainer(self, trainer: Trainer) -> None:
        """Listen for the signal, if the arguments want it."""
        self.trainer = trainer
        if trainer.args.enable_jit_checkpoint and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
            self._listening = True

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._asked.set()

    def _ask(self, control: TrainerControl) -> None:
        """A checkpoint instead of whatever else is due; an evaluation may take longer than there is time."""
        if self.trainer is None or not self._asked.is_set():
            return
        self._asked.clear()
        logger.warning(
            "SIGTERM: a checkpoint is written after step %s, and training ends", self.trainer.state.global_step
        )
        self.trainer._interrupted = True
        self.trainer._due = (control.should_evaluate, control.should_save)
        control.should_evaluate, control.should_save, control.should_training_stop = False, True, True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: object
    ) -> None:
        """After a step, before what is due then."""
        self._ask(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: object
    ) -> None:
        """At an epoch's end."""
        self._ask(control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: object
    ) -> None:
        """Give the signal back to whoever listened before."""
        if self._listening:
            self._listening = False
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)


__all__ = ["JITCheckpointCallback"]
