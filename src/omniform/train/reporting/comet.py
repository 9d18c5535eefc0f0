"""Comet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, Protocol, cast

from torch import nn

from omniform.core.errors import InputError, nearest
from omniform.train.reporting.artifacts import output
from omniform.train.reporting.available import comet_is_installed
from omniform.train.reporting.base import Reporter
from omniform.train.reporting.values import adapters_of, config_of, rewrite_logs, sort

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.state import TrainerState

_MODES = ("get_or_create", "create", "get")


class Experiment(Protocol):
    """What is asked of Comet's experiments, online and offline."""

    def log_metrics(self, dic: dict[str, object], *, step: int, epoch: float | None) -> None:
        """Points of curves."""

    def log_parameters(self, parameters: dict[str, object], *, nested_support: bool) -> None:
        """What the run is made with."""

    def log_optimization(self, optimization_id: str | None, parameters: Mapping[str, object] | None) -> None:
        """Which trial of a search it is."""

    def log_asset_folder(self, folder: str, *, step: int, log_file_name: bool, recursive: bool) -> object:
        """Send files."""

    def set_model_graph(self, graph: object) -> None:
        """The model's diagram."""

    def end(self) -> None:
        """All is sent, or written."""


class CometCallback(Reporter):
    """Reports to Comet.

    Environment: ``COMET_MODE`` (``get_or_create``, ``create``, ``get``), ``COMET_START_ONLINE=0`` (an archive in
    ``COMET_OFFLINE_DIRECTORY``), ``COMET_PROJECT_NAME`` and the like are Comet's own; ``COMET_LOG_ASSETS=TRUE`` sends
    ``output_dir`` at the end. The experiment ends with the process, so that a later evaluation is part of it; in a
    search, every trial is one.
    """

    title = "Comet"
    package = "comet_ml"
    handles: ClassVar[tuple[str, ...]] = ("_experiment",)

    def __init__(self) -> None:
        super().__init__()
        self._experiment: Experiment | None = None

    @classmethod
    def available(cls) -> bool:
        """Whether Comet is installed; a key it needs only online."""
        return comet_is_installed()

    def setup(self, args: TrainingArguments, state: TrainerState, model: object, **kw: object) -> None:
        """Start an experiment, or go on with one."""
        mode = (os.environ.get("COMET_MODE") or "").lower() or None
        if mode not in (None, *_MODES):
            raise InputError("no such mode", where="COMET_MODE", found=mode, remedy=nearest(mode or "", _MODES))
        comet = import_module("comet_ml")
        named = comet.ExperimentConfig(name=args.run_name)
        new = "create" if state.is_hyper_param_search else mode
        self._experiment = experiment = cast(Experiment, comet.start(mode=new, experiment_config=named))
        if isinstance(model, nn.Module):
            experiment.set_model_graph(model)
        told = {"args": args.to_dict(), "config": config_of(model), "peft_config": adapters_of(model)}
        experiment.log_parameters({k: v for k, v in told.items() if v is not None}, nested_support=True)
        if state.is_hyper_param_search:
            experiment.log_optimization(optimization_id=state.trial_name, parameters=state.trial_params)

    def report(self, args: TrainingArguments, state: TrainerState, logs: Mapping[str, object]) -> None:
        """Curves, at a step and an epoch."""
        if self._experiment is not None:
            found = sort(rewrite_logs(logs))
            self.leave_out(found.others, "numbers and texts")
            told: dict[str, object] = {**found.numbers, **found.texts}
            self._experiment.log_metrics(told, step=state.global_step, epoch=state.epoch)

    def report_prediction(self, args: TrainingArguments, state: TrainerState, metrics: Mapping[str, object]) -> None:
        """Metrics of ``predict`` are ``test/...``."""
        self.report(args, state, metrics)

    def finish(self, args: TrainingArguments, state: TrainerState, model: object, processing_class: object) -> None:
        """Send the folder, if that is asked for; end a trial's experiment."""
        if self._experiment is None:
            return
        if os.environ.get("COMET_LOG_ASSETS", "FALSE").upper() in ("TRUE", "1"):
            self._experiment.log_asset_folder(output(args), step=state.global_step, log_file_name=True, recursive=True)
        if state.is_hyper_param_search:
            self._experiment.end()
            self._experiment, self._initialized = None, False
