"""Tools of whole platforms, which a training is told about where it runs inside them: Azure ML, Flyte, Kubeflow."""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Protocol
from urllib.request import Request, urlopen

from omniform.core.errors import InputError
from omniform.train.reporting.artifacts import checkpoint
from omniform.train.reporting.available import (
    installed,
    is_azureml_available,
    is_flyte_deck_standard_available,
    is_flytekit_available,
    is_kubeflow_available,
)  # fmt: skip
from omniform.train.reporting.base import Reporter, log
from omniform.train.reporting.values import Number, sort

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.state import TrainerControl, TrainerState


class AzureRun(Protocol):
    """What is asked of ``azureml.core.Run``."""

    def log(self, name: str, value: Number, description: str = ...) -> None:
        """One point of a curve."""


class AzureMLCallback(Reporter):
    """Reports to Azure Machine Learning's run.

    Args:
        azureml_run: a run of your own; by default the one that this process is part of.
    """

    title = "Azure ML"
    package = "azureml-sdk"
    handles: ClassVar[tuple[str, ...]] = ("azureml_run",)

    def __init__(self, azureml_run: AzureRun | None = None) -> None:
        super().__init__()
        self.azureml_run = azureml_run

    @classmethod
    def available(cls) -> bool:
        """Whether the SDK is installed."""
        return is_azureml_available()

    def setup(self, args: TrainingArguments, state: TrainerState, model: object, **kw: object) -> None:
        """Find the run."""
        if self.azureml_run is None:
            self.azureml_run = import_module("azureml.core.run").Run.get_context()

    def report(self, args: TrainingArguments, state: TrainerState, logs: Mapping[str, object]) -> None:
        """Numbers, under the names that they are logged with."""
        found = sort(logs)
        self.leave_out({**found.texts, **found.others})
        for name, value in found.numbers.items():
            if self.azureml_run is not None:
                self.azureml_run.log(name, value, description=name)


class FlyteCallback(Reporter):
    """Inside a Flyte task: keeps checkpoints with Flyte, and shows the history of logs as a deck.

    Args:
        save_log_history: make the deck; needs ``flytekitplugins-deck-standard`` and pandas.
        sync_checkpoints: hand every checkpoint to the task's checkpointer.
    """

    title = "Flyte"
    package = "flytekit"

    def __init__(self, save_log_history: bool = True, sync_checkpoints: bool = True) -> None:
        super().__init__()
        if save_log_history and not (is_flyte_deck_standard_available() and installed("pandas")):
            log.warning("Flyte's deck of logs needs flytekitplugins-deck-standard and pandas: it is left out")
            save_log_history = False
        self.save_log_history = save_log_history
        self.sync_checkpoints = sync_checkpoints

    @classmethod
    def available(cls) -> bool:
        """Whether Flyte's kit is installed."""
        return is_flytekit_available()

    def keep(self, args: TrainingArguments, state: TrainerState) -> None:
        """Hand over a checkpoint."""
        if self.sync_checkpoints:
            folder = checkpoint(args, state)
            import_module("flytekit").current_context().checkpoint.save(folder)

    def finish(self, args: TrainingArguments, state: TrainerState, model: object, processing_class: object) -> None:
        """Make the deck."""
        if self.save_log_history:
            table = import_module("pandas").DataFrame(state.log_history)
            shown = import_module("flytekitplugins.deck.renderer").TableRenderer().to_html(table)
            import_module("flytekit").Deck("Log History", shown)


class KubeflowCallback(Reporter):
    """Inside a Kubeflow TrainJob: tells its controller how far training is, at most every five seconds.

    Environment, set by the controller: ``KUBEFLOW_TRAINER_SERVER_URL``, ``KUBEFLOW_TRAINER_SERVER_CA_CERT`` (a path),
    ``KUBEFLOW_TRAINER_SERVER_TOKEN`` (a path).
    """

    title = "Kubeflow"
    package = "a Kubeflow TrainJob (KUBEFLOW_TRAINER_SERVER_URL)"

    EVERY: Final = 5.0

    def __init__(self) -> None:
        super().__init__()
        self._metrics: dict[str, Number] = {}
        self._began = self._told = 0.0
        self._first = 0

    @classmethod
    def available(cls) -> bool:
        """Whether there is a controller to tell."""
        return is_kubeflow_available()

    def begins_anew(self, state: TrainerState) -> bool:
        """Time is counted anew."""
        return True

    def setup(self, args: TrainingArguments, state: TrainerState, model: object, **kw: object) -> None:
        """Tell that training begins."""
        self._metrics, self._began, self._first = {}, time.monotonic(), state.global_step
        self._tell(0, None, {"total_steps": state.max_steps} if state.max_steps else {})

    def report(self, args: TrainingArguments, state: TrainerState, logs: Mapping[str, object]) -> None:
        """Keep what is logged for the next message."""
        self._metrics.update(sort(logs).numbers)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: object) -> None:
        """Tell how far it is, if the last message is old."""
        due = time.monotonic() - self._told >= self.EVERY
        if due and self._initialized and self.tells(state) and state.max_steps > 0:
            self._try("tell its progress", lambda: self._tell_progress(state))

    def _tell_progress(self, state: TrainerState) -> None:
        done = state.global_step - self._first
        left = (time.monotonic() - self._began) / done * (state.max_steps - state.global_step) if done else None
        facts: dict[str, Number] = {"current_step": state.global_step, "total_steps": state.max_steps}
        if state.epoch is not None:
            facts["current_epoch"] = round(state.epoch, 2)
        # The last hundredth is said when all is done.
        self._tell(min(99, 100 * state.global_step // state.max_steps), left, {**self._metrics, **facts})

    def finish(self, args: TrainingArguments, state: TrainerState, model: object, processing_class: object) -> None:
        """Tell that training is over."""
        self._tell(100, 0, self._metrics)

    def _tell(self, percent: int, left: float | None, metrics: Mapping[str, Number]) -> None:
        self._told = time.monotonic()
        token = os.environ.get("KUBEFLOW_TRAINER_SERVER_TOKEN")
        if not token:
            raise InputError("no token to speak to the controller with", where="KUBEFLOW_TRAINER_SERVER_TOKEN")
        status: dict[str, object] = {
            "lastUpdatedTime": datetime.now(UTC).isoformat(),
            "progressPercentage": percent,
            **({} if left is None else {"estimatedRemainingSeconds": int(left)}),
            **({"metrics": [{"name": k, "value": str(v)} for k, v in metrics.items()]} if metrics else {}),
        }
        # Tokens are renewed while a job runs: the file is read each time.
        allowed = {"Authorization": f"Bearer {Path(token).read_text('utf-8').strip()}"}
        message = Request(
            os.environ["KUBEFLOW_TRAINER_SERVER_URL"],
            json.dumps({"trainerStatus": status}).encode(),
            {**allowed, "Content-Type": "application/json"},
            method="POST",
        )
        authority = os.environ.get("KUBEFLOW_TRAINER_SERVER_CA_CERT")
        context = ssl.create_default_context(cafile=authority) if authority else None
        with urlopen(message, timeout=5, context=context):
            pass
