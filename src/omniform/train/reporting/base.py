"""What every report holds to: it tells from one process, from the beginning of a training, and never stops it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, Final

from omniform.core.errors import MissingToolError, brief
from omniform.core.logs import get_logger
from omniform.train.callbacks import TrainerCallback
from omniform.train.reporting.values import kinds

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.state import TrainerControl, TrainerState

log = get_logger("omniform")

REST: Final = 20
"""A tool that failed is left alone for so many times as long as the failure took: it costs at most a twentieth."""

NOTHING: Final = 0.02
"""Seconds that do not count."""


class Reporter(TrainerCallback):
    """Base of callbacks that tell another tool about a training.

    A subclass says what to do at the beginning (:meth:`setup`), with logs (:meth:`report`), checkpoints
    (:meth:`keep`), a prediction's metrics (:meth:`report_prediction`) and at the end (:meth:`finish`). The tool is
    imported there, not before. Whatever it raises is one warning, and training goes on; if the beginning failed, the
    tool is not asked again before the next training.

    Class attributes:
        title: the tool's name.
        package: what ``pip install`` calls it.

    Raises:
        MissingToolError: the package is not installed.
    """

    title: ClassVar[str]
    package: ClassVar[str]
    handles: ClassVar[tuple[str, ...]] = ()
    """Attributes that belong to this process: connections and files, not carried to another one."""

    def __init__(self) -> None:
        if not self.available():
            raise MissingToolError(
                f"{type(self).__name__} reports to {self.title}, and the package {self.package} is not installed",
                where="report_to",
                remedy=f"pip install {self.package}, or leave {self.title} out of report_to",
            )
        self._initialized = False
        self._named: set[str] = set()
        self._warned = False
        self._resting_until = 0.0

    @classmethod
    def available(cls) -> bool:
        """Whether the tool is installed."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, object]:
        mine = {name: value for name, value in vars(self).items() if not isinstance(value, ModuleType)}
        return {**mine, **dict.fromkeys(self.handles), "_initialized": False, "_resting_until": 0.0}

    # -- what a subclass says ------------------------------------------------------------------------------------------

    def setup(self, args: TrainingArguments, state: TrainerState, model: object, **kw: object) -> None:
        """Begin a run of the tool's."""

    def report(self, args: TrainingArguments, state: TrainerState, logs: Mapping[str, object]) -> None:
        """Tell what was logged at ``state.global_step``."""

    def report_prediction(self, args: TrainingArguments, state: TrainerState, metrics: Mapping[str, object]) -> None:
        """Tell the metrics of a prediction; they are not among the logs."""

    def keep(self, args: TrainingArguments, state: TrainerState) -> None:
        """A checkpoint was written."""

    def finish(self, args: TrainingArguments, state: TrainerState, model: object, processing_class: object) -> None:
        """Training is over."""

    # -- events --------------------------------------------------------------------------------------------------------

    def tells(self, state: TrainerState) -> bool:
        """Whether this process is the one that reports."""
        return state.is_world_process_zero

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: object = None, **kw: object
    ) -> None:
        """Begin a run, unless one goes on."""
        self._warned, self._resting_until = False, 0.0
        if self.tells(state):
            self._begin(args, state, model, again=True)

    def _begin(self, args: TrainingArguments, state: TrainerState, model: object, *, again: bool = False) -> bool:
        if (again and self.begins_anew(state)) or not self._initialized:
            self._initialized = False
            if not self._try("begin a run", lambda: self.setup(args, state, model)):
                self._resting_until = float("inf")
            else:
                self._initialized = True
        return self._initialized

    def begins_anew(self, state: TrainerState) -> bool:
        """Whether a further training of the same trainer is a run of its own."""
        return False

    def on_log(  # type: ignore[override]
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, object] | None = None,
        model: object = None,
        **kw: object,
    ) -> None:
        """Report what was logged."""
        if logs and self.tells(state) and self._begin(args, state, model):
            self._try("report what was logged", lambda: self.report(args, state, logs))

    def on_predict(  # type: ignore[override]
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, object] | None = None,
        model: object = None,
        **kw: object,
    ) -> None:
        """Report a prediction's metrics."""
        if metrics and self.tells(state) and self._begin(args, state, model):
            self._try("report a prediction", lambda: self.report_prediction(args, state, metrics))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: object) -> None:
        """Keep the checkpoint, where that is asked for."""
        if self._initialized and self.tells(state):
            self._try("keep a checkpoint", lambda: self.keep(args, state))

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: object = None,
        processing_class: object = None,
        **kw: object,
    ) -> None:
        """End the run, or what of it ends with training."""
        if self._initialized and self.tells(state):
            self._resting_until = min(self._resting_until, 0.0)
            self._try("end a run", lambda: self.finish(args, state, model, processing_class))

    def abandon(self) -> None:
        """End what would stay open after an error."""
        if self._initialized:
            self._resting_until = 0.0
            self._try("end a run", self.break_off)

    def break_off(self) -> None:
        """Training ended with an error."""

    # -- trouble -------------------------------------------------------------------------------------------------------

    def _try(self, what: str, action: Callable[[], None]) -> bool:
        began = time.monotonic()
        if began < self._resting_until:
            return False
        try:
            action()
        except (Exception, SystemExit) as error:  # whatever a tool may do, the training is worth more
            now = time.monotonic()
            self._resting_until = now + REST * (now - began) if now - began > NOTHING else 0.0
            if not self._warned:
                self._warned = True
                log.warning(
                    "%s could not %s, and training goes on without (said once): %s: %s",
                    self.title, what, type(error).__name__, brief(str(error)),
                )  # fmt: skip
            return False
        return True

    def leave_out(self, values: Mapping[str, object], takes: str = "numbers") -> None:
        """Name, once each, the logs that the tool has no place for."""
        new = {name: value for name, value in values.items() if name not in self._named}
        if new:
            self._named.update(new)
            log.warning("%s takes %s; left out: %s", self.title, takes, kinds(new))
