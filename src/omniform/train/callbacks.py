"""Callbacks: what may look at a run at every turn, and ask for a report, an evaluation, a checkpoint or its end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from torch import nn
from torch.optim import Optimizer

from omniform.core.errors import InputError, listed
from omniform.core.logs import get_logger
from omniform.train.state import ExportableState, Kept, TrainerControl, TrainerState

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments

logger = get_logger(__name__)

Args: TypeAlias = "TrainingArguments"
State: TypeAlias = TrainerState
Control: TypeAlias = TrainerControl
Metrics: TypeAlias = dict[str, float]

Asked: TypeAlias = TrainerControl | None
"""What an event gives back: the wishes it changed, or None where it changed none (or changed them in place)."""


class TrainerCallback:
    """Base of callbacks; a subclass overrides the events that it cares for.

    Every event is given ``args``, ``state`` and ``control`` by position and, by name, ``model``, ``processing_class``,
    ``optimizer``, ``lr_scheduler``, ``train_dataloader`` and ``eval_dataloader``; ``on_evaluate`` and ``on_predict``
    also ``metrics``, ``on_log`` also ``logs``. Only ``control`` is meant to be changed.
    """

    def on_init_end(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """The trainer is made."""

    def on_train_begin(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """Training begins."""

    def on_train_end(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """Training is over; the best model is loaded, if it was asked for."""

    def on_epoch_begin(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """An epoch begins; no batch of it was read yet."""

    def on_epoch_end(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """An epoch is over."""

    def on_step_begin(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """A step begins; its batches are read."""

    def on_pre_optimizer_step(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """Gradients are clipped, and not used yet."""

    def on_optimizer_step(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """The optimizer has stepped; gradients are still there."""

    def on_substep_end(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """One batch of several that make a step is done."""

    def on_step_end(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """A step is done and counted."""

    def on_evaluate(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """An evaluation is done; ``metrics`` is what it found."""

    def on_predict(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """A prediction is done; ``metrics`` is what it found."""

    def on_save(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """A checkpoint is written."""

    def on_log(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """``logs`` were reported."""

    def on_prediction_step(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """One batch of an evaluation is done."""

    def on_push_begin(self, args: Args, state: State, control: Control, **kwargs: object) -> Asked:
        """Something is about to be sent to the Hub."""

    def abandon(self) -> None:
        """Training broke off with an error, and ``on_train_end`` will not come: let go of terminals and files."""


class CallbackHandler(TrainerCallback):
    """Asks all callbacks, one after the other.

    Args:
        callbacks: classes or instances, in the order in which they are asked.
        model: what they are shown, as the next three.
    """

    def __init__(
        self,
        callbacks: Iterable[type[TrainerCallback] | TrainerCallback],
        model: nn.Module | None,
        processing_class: object,
        optimizer: Optimizer | None,
        lr_scheduler: object,
    ) -> None:
        self.callbacks: list[TrainerCallback] = []
        self.model = model
        self.processing_class = processing_class
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.train_dataloader: Iterable[object] | None = None
        self.eval_dataloader: Iterable[object] | None = None
        for callback in callbacks:
            self.add_callback(callback)
        if not any(isinstance(one, DefaultFlowCallback) for one in self.callbacks):
            logger.warning(
                "No DefaultFlowCallback among the callbacks (%s): nothing will log, evaluate, save or end training "
                "unless one of them asks for it",
                listed(type(one).__name__ for one in self.callbacks),
            )

    def add_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> None:
        """Put one more behind the others; a class is instantiated."""
        made = callback() if isinstance(callback, type) else callback
        if any(type(one) is type(made) for one in self.callbacks):
            logger.warning("There is a %s already; both will be asked: %s", type(made).__name__, self.callback_list)
        self.callbacks.append(made)

    def pop_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> TrainerCallback | None:
        """Take out that one, or the first of that class, and give it back; None if there is none."""
        for place, one in enumerate(self.callbacks):
            if isinstance(one, callback) if isinstance(callback, type) else one == callback:
                return self.callbacks.pop(place)
        return None

    def remove_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> None:
        """Take out that one, or the first of that class.

        Raises:
            InputError: an instance that is not there.
        """
        if self.pop_callback(callback) is None and not isinstance(callback, type):
            raise InputError(
                "this callback is not among the trainer's", found=type(callback).__name__, expected=self.callback_list
            )

    @property
    def callback_list(self) -> str:
        """Their classes' names, one a line."""
        return "\n".join(type(one).__name__ for one in self.callbacks)

    def on_init_end(self, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        return self.call_event("on_init_end", args, state, control, **kwargs)

    def on_train_begin(self, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        control._new_training()
        return self.call_event("on_train_begin", args, state, control, **kwargs)

    def on_train_end(self, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        return self.call_event("on_train_end", args, state, control, **kwargs)

    def on_epoch_begin(self, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        control._new_epoch()
        return self.call_event("on_epoch_begin", args, state, control, **kwargs)

    def on_epoch_end(self, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        return self.call_event("on_epoch_end", args, state, control, **kwargs)

    def on_step_begin(self, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        control._new_step()
        return self.call_event("on_step_begin", args, state, control, **kwargs)

    def on_pre_optimizer_step(self, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        return self.call_event("on_pre_optimizer_step", args, state, control, **kwargs)

    def on_optimizer_step(self, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        return self.call_event("on_optimizer_step", args, state, control, **kwargs)

    def on_substep_end(self, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        return self.call_event("on_substep_end", args, state, control, **kwargs)

    def on_step_end(self, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        return self.call_event("on_step_end", args, state, control, **kwargs)

    def on_evaluate(self, args: Args, state: State, control: Control, metrics: Metrics, **kwargs: object) -> Control:  # type: ignore[override]
        control.should_evaluate = False
        return self.call_event("on_evaluate", args, state, control, metrics=metrics, **kwargs)

    def on_predict(self, args: Args, state: State, control: Control, metrics: Metrics, **kwargs: object) -> Control:  # type: ignore[override]
        return self.call_event("on_predict", args, state, control, metrics=metrics, **kwargs)

    def on_save(self, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        control.should_save = False
        return self.call_event("on_save", args, state, control, **kwargs)

    def on_log(self, args: Args, state: State, control: Control, logs: Metrics, **kwargs: object) -> Control:  # type: ignore[override]
        control.should_log = False
        return self.call_event("on_log", args, state, control, logs=logs, **kwargs)

    def on_prediction_step(self, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        return self.call_event("on_prediction_step", args, state, control, **kwargs)

    def on_push_begin(self, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        return self.call_event("on_push_begin", args, state, control, **kwargs)

    def abandon(self) -> None:
        for callback in self.callbacks:
            callback.abandon()

    def call_event(self, event: str, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        """Ask every callback's method of that name; what one changes, the next one sees."""
        for callback in self.callbacks:
            asked: Asked = getattr(callback, event)(
                args,
                state,
                control,
                model=self.model,
                processing_class=self.processing_class,
                optimizer=self.optimizer,
                lr_scheduler=self.lr_scheduler,
                train_dataloader=self.train_dataloader,
                eval_dataloader=self.eval_dataloader,
                **kwargs,
            )
            control = control if asked is None else asked
        return control


class DefaultFlowCallback(TrainerCallback):
    """When to log, to evaluate, to save and to end, as the arguments say."""

    def on_step_end(self, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        """Every so many steps; at the last step also what would not have been due."""
        step, last = state.global_step, state.global_step >= state.max_steps
        if (step == 1 and args.logging_first_step) or (
            args.logging_strategy == "steps" and _due(step, state.logging_steps)
        ):
            control.should_log = True
        if args.eval_strategy == "steps" and args.eval_delay <= step and (last or _due(step, state.eval_steps)):
            control.should_evaluate = True
        if args.save_strategy == "steps" and (last or _due(step, state.save_steps)):
            control.should_save = True
        if last:
            control.should_training_stop = True
        return control

    def on_epoch_end(self, args: Args, state: State, control: Control, **kwargs: object) -> Control:
        """Once an epoch."""
        if args.logging_strategy == "epoch":
            control.should_log = True
        if args.eval_strategy == "epoch" and args.eval_delay <= state.epoch:
            control.should_evaluate = True
        if args.save_strategy == "epoch":
            control.should_save = True
        return control


def _due(step: int, every: float) -> bool:
    return every > 0 and step % every == 0


class PrinterCallback(TrainerCallback):
    """Prints every report in one line: the plainest progress there is."""

    def on_log(self, args: Args, state: State, control: Control, logs: Metrics | None = None, **kwargs: object) -> None:  # type: ignore[override]
        """Print the report, numbers to four digits."""
        shown = {name: value for name, value in (logs or {}).items() if name != "total_flos"}
        if state.is_local_process_zero:
            print({name: f"{value:.4g}" if isinstance(value, float) else value for name, value in shown.items()})


class EarlyStoppingCallback(TrainerCallback, ExportableState):
    """Ends training when the metric that is watched has not become better for some evaluations.

    Args:
        early_stopping_patience: so many evaluations.
        early_stopping_threshold: what is better by this or less is not better.
    """

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float | None = 0.0) -> None:
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_threshold = early_stopping_threshold
        self.early_stopping_patience_counter = 0

    def check_metric_value(self, args: Args, state: State, control: Control, metric_value: float) -> None:
        """Count an evaluation that is no better than the best one so far."""
        best, least = state.best_metric, self.early_stopping_threshold or 0.0
        gain = 0.0 if best is None else (metric_value - best if args.greater_is_better else best - metric_value)
        self.early_stopping_patience_counter = (
            0 if best is None or gain > least else self.early_stopping_patience_counter + 1
        )

    def on_train_begin(self, args: Args, state: State, control: Control, **kwargs: object) -> None:
        """Check that there is something to watch.

        Raises:
            InputError: no metric is named, or nothing is evaluated.
        """
        if not args.load_best_model_at_end:
            logger.warning("Early stopping without load_best_model_at_end: the last model is kept, not the best one")
        if args.metric_for_best_model is None:
            raise InputError("early stopping has no metric to watch", where="metric_for_best_model", found=None)
        if args.eval_strategy == "no":
            raise InputError(
                "early stopping never sees an evaluation", where="eval_strategy", expected="steps or epoch", found="no"
            )

    def on_evaluate(self, args: Args, state: State, control: Control, metrics: Metrics, **kwargs: object) -> None:  # type: ignore[override]
        """Look at the metric."""
        name = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
        if name not in metrics:
            logger.warning("Early stopping watches %s, which is not among %s: it is off", name, listed(metrics))
            return
        self.check_metric_value(args, state, control, metrics[name])
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True

    def state(self) -> Kept:
        """The settings, and how often in a row nothing became better."""
        return {
            "args": {
                "early_stopping_patience": self.early_stopping_patience,
                "early_stopping_threshold": self.early_stopping_threshold,
            },
            "attributes": {"early_stopping_patience_counter": self.early_stopping_patience_counter},
        }


__all__ = ["CallbackHandler", "DefaultFlowCallback", "EarlyStoppingCallback", "PrinterCallback", "TrainerCallback"]
