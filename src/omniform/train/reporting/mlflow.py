"""MLflow, and DagsHub, which is an MLflow server beside a repository."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Final

from omniform.core.errors import InputError
from omniform.train.reporting.artifacts import output
from omniform.train.reporting.available import is_dagshub_available, is_mlflow_available
from omniform.train.reporting.base import Reporter
from omniform.train.reporting.values import config_of, flat, sort

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.state import TrainerState

_YES: Final = ("1", "ON", "YES", "TRUE")
_UNFIT: Final = re.compile(r"[^0-9A-Za-z_\-\.\ :/]")
"""What may not stand in the name of one of MLflow's metrics."""


def switched_on(variable: str) -> bool:
    """Whether a variable of the environment says yes."""
    return os.environ.get(variable, "").upper() in _YES


class MLflowCallback(Reporter):
    """Reports to MLflow: metrics under the names that they are logged with, arguments and config as parameters.

    Environment: MLflow's own (``MLFLOW_TRACKING_URI``, ``MLFLOW_RUN_ID``), ``MLFLOW_EXPERIMENT_NAME``,
    ``MLFLOW_TAGS`` (a JSON object), ``MLFLOW_NESTED_RUN``, ``MLFLOW_FLATTEN_PARAMS``, ``MLFLOW_MAX_LOG_PARAMS``,
    ``HF_MLFLOW_LOG_ARTIFACTS`` (copies every checkpoint). A run that is active before training is used and stays
    active; else one is begun, and ended with the training. What is evaluated later is still written into it.
    """

    title = "MLflow"
    package = "mlflow"

    def __init__(self) -> None:
        super().__init__()
        self._auto_end_run = False
        self._at_once = False
        self._run: str | None = None

    @classmethod
    def available(cls) -> bool:
        """Whether MLflow is installed and not switched off."""
        return is_mlflow_available()

    @cached_property
    def _ml_flow(self) -> ModuleType:
        return import_module("mlflow")

    def begins_anew(self, state: TrainerState) -> bool:
        """A run that ended with a training is not gone on with by the next."""
        return self._run is None or self._ml_flow.active_run() is None

    def setup(self, args: TrainingArguments, state: TrainerState, model: object, **kw: object) -> None:
        """Begin a run and write what it is made with."""
        nested = switched_on("MLFLOW_NESTED_RUN")
        # A server is told in the background; a store on this disk is quick, and one of files is not read meanwhile.
        self._at_once = not str(self._ml_flow.get_tracking_uri()).startswith(("http", "databricks", "uc"))
        self._log_artifacts = switched_on("HF_MLFLOW_LOG_ARTIFACTS")
        if self._ml_flow.active_run() is None or nested or os.environ.get("MLFLOW_RUN_ID"):
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME")
            if experiment:
                self._ml_flow.set_experiment(experiment)
            self._ml_flow.start_run(run_name=state.trial_name or args.run_name, nested=nested)
            self._auto_end_run = True
        self._run = str(self._ml_flow.active_run().info.run_id)
        self._log_parameters({**(config_of(model) or {}), **args.to_dict()})
        tags = os.environ.get("MLFLOW_TAGS")
        if tags:
            self._ml_flow.set_tags(json.loads(tags))

    def _log_parameters(self, settings: dict[str, object]) -> None:
        rules = import_module("mlflow.utils.validation")
        if switched_on("MLFLOW_FLATTEN_PARAMS"):
            empty = {name: value for name, value in settings.items() if isinstance(value, Mapping) and not value}
            settings = {**flat(settings, "."), **empty}
        long = {name: value for name, value in settings.items() if len(str(value)) > rules.MAX_PARAM_VAL_LENGTH}
        self.leave_out(long, f"parameters of {rules.MAX_PARAM_VAL_LENGTH} characters (MLFLOW_FLATTEN_PARAMS may help)")
        fit = [(name, value) for name, value in settings.items() if name not in long]
        most = os.environ.get("MLFLOW_MAX_LOG_PARAMS", "")
        fit = fit[: int(most)] if most.isdigit() else fit
        step = rules.MAX_PARAMS_TAGS_PER_BATCH
        for start in range(0, len(fit), step):
            self._ml_flow.log_params(dict(fit[start : start + step]), synchronous=self._at_once, run_id=self._run)

    def report(self, args: TrainingArguments, state: TrainerState, logs: Mapping[str, object]) -> None:
        """Numbers only."""
        found = sort(logs)
        self.leave_out({**found.texts, **found.others})
        metrics = {_UNFIT.sub("_", name): value for name, value in found.numbers.items()}
        self._ml_flow.log_metrics(metrics, step=state.global_step, synchronous=self._at_once, run_id=self._run)

    def keep(self, args: TrainingArguments, state: TrainerState) -> None:
        """Copy a checkpoint to the run's artifacts, if ``HF_MLFLOW_LOG_ARTIFACTS`` says so."""
        if self._log_artifacts:
            name = f"checkpoint-{state.global_step}"
            self._ml_flow.log_artifacts(os.path.join(output(args), name), name, run_id=self._run)

    def finish(self, args: TrainingArguments, state: TrainerState, model: object, processing_class: object) -> None:
        """Wait until all is written, and end the run, if it began with the training."""
        if not self._at_once:
            self._ml_flow.flush_async_logging()
        if self._auto_end_run:
            self._end_run()

    def break_off(self) -> None:
        """The run has failed, and says so."""
        if self._auto_end_run:
            self._end_run("FAILED")

    def _end_run(self, status: str = "FINISHED") -> None:
        active = self._ml_flow.active_run()
        if active is not None and active.info.run_id == self._run:
            self._ml_flow.end_run(status)
        self._auto_end_run = False

    def __del__(self) -> None:
        # After a training that broke off, the next one would be written into the same run.
        if self.__dict__.get("_auto_end_run"):
            with suppress(Exception):
                self._end_run()


class DagsHubCallback(MLflowCallback):
    """Reports to DagsHub's MLflow server, whose address ``MLFLOW_TRACKING_URI`` holds after ``dagshub.init()``.

    Environment: ``HF_DAGSHUB_LOG_ARTIFACTS`` sends ``output_dir`` into the repository's ``artifacts`` at the end;
    ``BRANCH`` (``main``).
    """

    title = "DagsHub"
    package = "dagshub"

    @classmethod
    def available(cls) -> bool:
        """Whether DagsHub and MLflow are installed."""
        return is_dagshub_available()

    def setup(self, args: TrainingArguments, state: TrainerState, model: object, **kw: object) -> None:
        """Find the repository in the server's address, then begin a run."""
        address = os.environ.get("MLFLOW_TRACKING_URI", "")
        parts = address.rstrip("/").split("/")
        if len(parts) < 2:
            raise InputError("DagsHub's address is not set", where="MLFLOW_TRACKING_URI", remedy="dagshub.init()")
        self._owner, self._name = parts[-2], parts[-1].split(".")[0]
        super().setup(args, state, model, **kw)

    def finish(self, args: TrainingArguments, state: TrainerState, model: object, processing_class: object) -> None:
        """End the run; send the folder, if that is asked for."""
        super().finish(args, state, model, processing_class)
        if switched_on("HF_DAGSHUB_LOG_ARTIFACTS"):
            branch = os.environ.get("BRANCH") or "main"
            repository = import_module("dagshub.upload").Repo(owner=self._owner, name=self._name, branch=branch)
            repository.directory("artifacts").add_dir(output(args))
