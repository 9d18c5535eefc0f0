"""ClearML."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, cast

from omniform.train.reporting.artifacts import output
from omniform.train.reporting.available import is_clearml_available
from omniform.train.reporting.base import Reporter
from omniform.train.reporting.mlflow import switched_on
from omniform.train.reporting.values import SUMMARY, Number, config_of, sort

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.state import TrainerState

_ONCE: Final = SUMMARY | {"epoch"}


class Curves(Protocol):
    """What is asked of ``clearml.Logger``."""

    def report_single_value(self, name: str, value: Number) -> None:
        """A fact."""

    def report_scalar(self, title: str, series: str, value: Number, iteration: int) -> None:
        """One point of a curve."""


class Task(Protocol):
    """What is asked of ``clearml.Task``."""

    def get_logger(self) -> Curves:
        """Where numbers go."""

    def set_parameters(self, parameters: Mapping[str, object]) -> None:
        """What the run is made with."""

    def set_configuration_object(self, *, name: str, config_dict: Mapping[str, object], description: str) -> None:
        """A config of its own."""

    def close(self) -> None:
        """All is told."""


class ClearMLCallback(Reporter):
    """Reports to ClearML: to the task that runs, or to one of its own.

    Environment: ``CLEARML_PROJECT``, ``CLEARML_TASK``; ``CLEARML_LOG_MODEL`` keeps checkpoints. Settings that somebody
    has changed in ClearML's pages are not taken over: what a script says counts.
    """

    title = "ClearML"
    package = "clearml"
    handles: ClassVar[tuple[str, ...]] = ("_clearml_task",)

    def __init__(self) -> None:
        super().__init__()
        self._clearml_task: Task | None = None
        self._mine = False

    @classmethod
    def available(cls) -> bool:
        """Whether ClearML is installed."""
        return is_clearml_available()

    @cached_property
    def _clearml(self) -> ModuleType:
        return import_module("clearml")

    def begins_anew(self, state: TrainerState) -> bool:
        """A trial is a task of its own, and so is what follows one that was closed."""
        return state.is_hyper_param_search or self._clearml_task is None

    def setup(self, args: TrainingArguments, state: TrainerState, model: object, **kw: object) -> None:
        """Find the task, or begin one."""
        task = self._clearml.Task.current_task()
        self._mine = task is None
        if task is None:
            task = self._clearml.Task.init(
                project_name=os.environ.get("CLEARML_PROJECT", "HuggingFace Transformers"),
                task_name=os.environ.get("CLEARML_TASK", "Trainer"),
                auto_connect_frameworks={"tensorboard": False, "pytorch": False},
                output_uri=True,
            )
        self._clearml_task = found = cast(Task, task)
        found.set_parameters({f"Transformers/{name}": value for name, value in args.to_dict().items()})
        config = config_of(model)
        if config is not None:
            said = "The configuration of model number 1."
            found.set_configuration_object(name="Model Configuration", config_dict=config, description=said)

    def report(self, args: TrainingArguments, state: TrainerState, logs: Mapping[str, object]) -> None:
        """Curves by kind (train, eval, test); what is known once is a fact."""
        if self._clearml_task is None:
            return
        curves, found = self._clearml_task.get_logger(), sort(logs)
        self.leave_out({**found.texts, **found.others})
        for name, value in found.numbers.items():
            kind, _, rest = name.partition("_")
            if name in _ONCE:
                curves.report_single_value(name=name, value=value)
            elif rest and kind in ("eval", "test"):
                curves.report_scalar(title=kind, series=rest, value=value, iteration=state.global_step)
            else:
                curves.report_scalar(title="train", series=name, value=value, iteration=state.global_step)

    def keep(self, args: TrainingArguments, state: TrainerState) -> None:
        """Send a checkpoint, if checkpoints are kept."""
        unsaid = "CLEARML_LOG_MODEL" not in os.environ and self._mine
        if self._clearml_task is not None and (unsaid or switched_on("CLEARML_LOG_MODEL")):
            name = f"checkpoint-{state.global_step}"
            model = self._clearml.OutputModel(task=self._clearml_task, name=name)
            model.update_weights_package(
                weights_path=os.path.join(output(args), name),
                target_filename=name,
                iteration=state.global_step,
                auto_delete_file=False,
            )

    def finish(self, args: TrainingArguments, state: TrainerState, model: object, processing_class: object) -> None:
        """Close the task, if it was begun here."""
        if self._mine and self._clearml_task is not None:
            self._clearml_task.close()
            self._clearml_task = None
