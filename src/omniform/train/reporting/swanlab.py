"""SwanLab."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from omniform.train.reporting.available import is_swanlab_available
from omniform.train.reporting.base import Reporter
from omniform.train.reporting.values import SUMMARY, parameters_of, rewrite_logs, settings, sort

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.state import TrainerState


class SwanLabCallback(Reporter):
    """Reports to SwanLab.

    Environment: ``SWANLAB_PROJECT``, ``SWANLAB_RUN_ID``, ``SWANLAB_RESUME``, and SwanLab's own (``SWANLAB_MODE``).
    SwanLab keeps no models: ``SWANLAB_LOG_MODEL`` is inert.
    """

    title = "SwanLab"
    package = "swanlab"

    @classmethod
    def available(cls) -> bool:
        """Whether SwanLab is installed."""
        return is_swanlab_available()

    @cached_property
    def _swanlab(self) -> ModuleType:
        return import_module("swanlab")

    def setup(self, args: TrainingArguments, state: TrainerState, model: object, **kw: object) -> None:
        """Begin a run, unless one goes on."""
        if self._swanlab.get_run() is None:
            self._swanlab.init(**self._named_as(args, state))
        told = settings(args.to_dict(), model)
        count = parameters_of(model)
        self._swanlab.config.update(told if count is None else {**told, "model_num_parameters": count})

    @staticmethod
    def _named_as(args: TrainingArguments, state: TrainerState) -> dict[str, str | None]:
        name = "-".join(part for part in (args.run_name, state.trial_name) if part is not None)
        resume = os.environ.get("SWANLAB_RESUME") or ("allow" if args.resume_from_checkpoint else None)
        optional = {"experiment_name": name or None, "id": os.environ.get("SWANLAB_RUN_ID"), "resume": resume}
        project = {"project": os.environ.get("SWANLAB_PROJECT")}
        return project | {key: value for key, value in optional.items() if value is not None}

    def report(self, args: TrainingArguments, state: TrainerState, logs: Mapping[str, object]) -> None:
        """Curves; what is known once is ``single_value/...``."""
        once = {f"single_value/{name}": logs[name] for name in logs if name in SUMMARY}
        curves = rewrite_logs({name: value for name, value in logs.items() if name not in SUMMARY})
        found = sort({**once, **curves})
        self.leave_out({**found.texts, **found.others})
        self._swanlab.log({**found.numbers, "train/global_step": state.global_step}, step=state.global_step)

    def report_prediction(self, args: TrainingArguments, state: TrainerState, metrics: Mapping[str, object]) -> None:
        """Metrics of ``predict`` are ``test/...``."""
        found = sort(rewrite_logs(metrics))
        self.leave_out({**found.texts, **found.others})
        self._swanlab.log(found.numbers)
