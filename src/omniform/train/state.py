"""What a training run knows of itself: :class:`TrainerState`, and what callbacks ask of it: :class:`TrainerControl`.

Names, fields and the JSON file are the ecosystem's (``trainer_state.json``), so that either library reads the other's.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias, cast

from omniform.core.errors import InputError, check_arguments

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments

Kept: TypeAlias = dict[str, dict[str, object]]
"""What is kept of a callback: ``args`` of its constructor, and ``attributes`` to be set afterwards."""


class ExportableState:
    """Something whose state is saved with a checkpoint and comes back with it.

    A subclass writes :meth:`state`: two plain dictionaries that JSON can hold.
    """

    def state(self) -> Kept:
        """``{"args": what the constructor takes, "attributes": what is set on the instance then}``."""
        raise NotImplementedError(f"{type(self).__name__} is an ExportableState and has to say its state()")

    @classmethod
    def from_state(cls, state: Kept) -> Self:
        """An instance as it was when ``state`` was taken."""
        made = cls(**state["args"])
        for name, value in state["attributes"].items():
            setattr(made, name, value)
        return made


@dataclass
class TrainerControl(ExportableState):
    """What callbacks want the loop to do next.

    Attributes:
        should_training_stop: end training after this step; stays until training begins again.
        should_epoch_stop: end this epoch; taken back when the next one begins.
        should_save: write a checkpoint; taken back when the next step begins, as the other two are.
        should_evaluate: run an evaluation.
        should_log: report the loss.
    """

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False

    def _new_training(self) -> None:
        self.should_training_stop = False

    def _new_epoch(self) -> None:
        self.should_epoch_stop = False

    def _new_step(self) -> None:
        self.should_save = self.should_evaluate = self.should_log = False

    def state(self) -> Kept:
        """All its wishes are arguments."""
        return {"args": dataclasses.asdict(self), "attributes": {}}


@dataclass
class TrainerState:
    """How far a run has come. A step is one step of the optimizer, whatever number of batches went into it.

    Attributes:
        epoch: how many epochs are done, with the part of the present one.
        global_step: how many steps are done.
        max_steps: how many there are to be.
        logging_steps: report every so many steps; shares of all steps are counted out, here and in the next two.
        train_batch_size: rows per batch and process.
        num_input_tokens_seen: tokens read so far, if they are counted.
        total_flos: floating-point operations so far, about.
        log_history: every report so far, oldest first.
        best_metric: the best value of the metric that is watched, found at ``best_global_step``.
        best_model_checkpoint: the folder of that step's checkpoint.
        stateful_callbacks: what is kept of each :class:`ExportableState`, by its class's name; given as a list of the
            objects themselves, it is asked of them.
    """

    epoch: float = 0
    global_step: int = 0
    max_steps: int = 0
    logging_steps: float = 500
    eval_steps: float = 500
    save_steps: float = 500
    train_batch_size: int | None = None
    num_train_epochs: int = 0
    num_input_tokens_seen: int = 0
    total_flos: float = 0
    log_history: list[dict[str, float]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    trial_params: dict[str, str | float | int | bool] | None = None
    stateful_callbacks: dict[str, Kept | list[Kept]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What a progress bar counts; no field: the file's fields are the ecosystem's.
        self.tokens_read = 0
        self.log_history = [] if self.log_history is None else self.log_history
        if not isinstance(self.stateful_callbacks, dict):
            self.stateful_callbacks = states_of(self.stateful_callbacks or ())

    def to_json_text(self) -> str:
        """All of it as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    def save_to_json(self, json_path: str | os.PathLike[str]) -> None:
        """Write all of it to a file."""
        Path(json_path).write_text(self.to_json_text(), "utf-8")

    @classmethod
    def load_from_json(cls, json_path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save_to_json` wrote.

        Raises:
            InputError: the file holds something else.
        """
        try:
            read = json.loads(Path(json_path).read_text("utf-8"))
        except ValueError as mistake:
            raise InputError("this is no JSON", where=str(json_path), found=str(mistake)) from mistake
        if not isinstance(read, Mapping):
            raise InputError("no state of a trainer", where=str(json_path), expected="an object", found=str(type(read)))
        check_arguments(f"{json_path}: {cls.__name__}", read, (f.name for f in dataclasses.fields(cls)))
        return cls(**read)

    def compute_steps(self, args: TrainingArguments, max_steps: int) -> None:
        """Take over how often to log, evaluate and save; less than 1 is a share of all steps."""
        for name in ("logging_steps", "eval_steps", "save_steps"):
            wanted = cast("float | None", vars(args)[name])
            if wanted is not None:
                setattr(self, name, math.ceil(max_steps * wanted) if wanted < 1 else wanted)


def states_of(objects: Iterable[object]) -> dict[str, Kept | list[Kept]]:
    """What is to be kept of each, by its class's name: a list where a class has several."""
    found: dict[str, list[Kept]] = {}
    for one in objects:
        if not isinstance(one, ExportableState):
            raise InputError(
                "only an ExportableState can be kept", where="stateful_callbacks", found=type(one).__name__
            )
        found.setdefault(type(one).__name__, []).append(one.state())
    return {name: states[0] if len(states) == 1 else states for name, states in found.items()}


__all__ = ["ExportableState", "TrainerControl", "TrainerState"]
