"""CodeCarbon: what a training costs the climate."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, Protocol

from omniform.train.reporting.artifacts import output
from omniform.train.reporting.available import is_codecarbon_available
from omniform.train.reporting.base import Reporter

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.state import TrainerControl, TrainerState


class Tracker(Protocol):
    """What is asked of CodeCarbon's trackers."""

    def start(self) -> None:
        """Measure from now on."""

    def stop(self) -> float | None:
        """Write ``emissions.csv``; kilograms of CO2 equivalents."""


class CodeCarbonCallback(Reporter):
    """Measures energy and writes ``emissions.csv`` into ``output_dir``; one process of every machine does.

    Settings are CodeCarbon's own (``CODECARBON_*``, ``.codecarbon.config``).
    """

    title = "CodeCarbon"
    package = "codecarbon"
    handles: ClassVar[tuple[str, ...]] = ("tracker",)

    def __init__(self) -> None:
        super().__init__()
        self.tracker: Tracker | None = None
        self._stopped = False

    @classmethod
    def available(cls) -> bool:
        """Whether CodeCarbon is installed."""
        return is_codecarbon_available()

    def tells(self, state: TrainerState) -> bool:
        """Every machine has a meter of its own."""
        return state.is_local_process_zero

    def begins_anew(self, state: TrainerState) -> bool:
        """Every training is measured by itself."""
        return True

    def setup(self, args: TrainingArguments, state: TrainerState, model: object, **kw: object) -> None:
        """Start the meter."""
        if self.tracker is None or self._stopped:
            os.makedirs(output(args), exist_ok=True)  # CodeCarbon makes none
            self.tracker = import_module("codecarbon").EmissionsTracker(output_dir=output(args))
        self._stopped = False
        self.tracker.start()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: object) -> None:  # type: ignore[override]
        """Nothing: it measures by itself."""

    def on_predict(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: object) -> None:  # type: ignore[override]
        """Nothing: only trainings are measured."""

    def finish(self, args: TrainingArguments, state: TrainerState, model: object, processing_class: object) -> None:
        """Stop the meter and write the file; ``tracker`` still tells what it measured."""
        self.break_off()

    def break_off(self) -> None:
        """What was used was used."""
        if self.tracker is not None:
            self.tracker.stop()
            self._stopped = True
