"""TensorBoard."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from omniform.train.reporting.artifacts import output
from omniform.train.reporting.available import installed, is_tensorboard_available
from omniform.train.reporting.base import Reporter
from omniform.train.reporting.values import config_text, rewrite_logs, sort

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.state import TrainerState


class Writer(Protocol):
    """What torch's and tensorboardX's ``SummaryWriter`` share."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Write one point of a curve."""

    def add_text(self, tag: str, text_string: str, global_step: int | None = None) -> None:
        """Write a text."""

    def flush(self) -> None:
        """Put all that was written on the disk."""

    def close(self) -> None:
        """Close the file."""


def default_logdir() -> str:
    """``runs/Jan31_12-30-00_host``, as torch names it."""
    return os.path.join("runs", f"{datetime.now():%b%d_%H-%M-%S}_{socket.gethostname()}")


class TensorBoardCallback(Reporter):
    """Writes TensorBoard's event files.

    Curves are named ``train/loss``, ``eval/loss`` and so on; the arguments and the model's config are texts.

    Args:
        tb_writer: a ``SummaryWriter`` of your own; by default one for ``TENSORBOARD_LOGGING_DIR``, or for
            ``output_dir/runs/DATE_HOST``.
    """

    title = "TensorBoard"
    package = "tensorboard"
    handles = ("tb_writer", "_given")

    def __init__(self, tb_writer: Writer | None = None) -> None:
        super().__init__()
        self.tb_writer = self._given = tb_writer
        folder = os.environ.get("TENSORBOARD_LOGGING_DIR")
        self.logging_dir = None if folder is None else os.path.expanduser(folder)

    @classmethod
    def available(cls) -> bool:
        """Whether there is a writer of event files."""
        return is_tensorboard_available()

    def begins_anew(self, state: TrainerState) -> bool:
        """The arguments may have changed, and the writer was closed."""
        return True

    def setup(self, args: TrainingArguments, state: TrainerState, model: object, **kw: object) -> None:
        """Open the file and write what the run is made with."""
        if state.is_hyper_param_search and state.trial_name is not None:
            if self.tb_writer is not self._given:
                self.finish(args, state, model, None)  # what was evaluated after the last trial
            self.logging_dir = os.path.join(output(args), default_logdir(), state.trial_name)
        writer = self._writer(args)
        writer.add_text("args", args.to_json_string())
        config = config_text(model)
        if config is not None:
            writer.add_text("model_config", config)

    def _writer(self, args: TrainingArguments) -> Writer:
        if self.logging_dir is None:
            self.logging_dir = os.path.join(output(args), default_logdir())
        if self.tb_writer is None:
            self._init_summary_writer(args)
        return cast(Writer, self.tb_writer)

    def _init_summary_writer(self, args: TrainingArguments) -> None:
        # torch's writer needs tensorboard itself.
        torchs = installed("tensorboard")
        home = import_module("torch.utils.tensorboard") if torchs else import_module("tensorboardX")
        self.tb_writer = home.SummaryWriter(log_dir=self.logging_dir)

    def report(self, args: TrainingArguments, state: TrainerState, logs: Mapping[str, object]) -> None:
        """Numbers are curves, texts are texts."""
        writer = self._writer(args)
        found = sort(rewrite_logs(logs))
        for name, value in found.numbers.items():
            writer.add_scalar(name, value, state.global_step)
        for name, text in found.texts.items():
            writer.add_text(name, text, state.global_step)
        self.leave_out(found.others, "numbers and texts")
        writer.flush()

    def finish(self, args: TrainingArguments, state: TrainerState, model: object, processing_class: object) -> None:
        """Close the file; a later evaluation opens another in the same folder."""
        self.break_off()

    def break_off(self) -> None:
        """Close the file."""
        if self.tb_writer is not None:
            self.tb_writer.close()
            self.tb_writer = None
