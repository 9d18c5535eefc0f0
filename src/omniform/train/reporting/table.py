"""The tools that a training can be reported to: names, callbacks, packages; one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from omniform.core.errors import InputError, brief, nearest
from omniform.train.reporting import available as there
from omniform.train.reporting.base import Reporter
from omniform.train.reporting.clearml import ClearMLCallback
from omniform.train.reporting.clouds import AzureMLCallback, FlyteCallback, KubeflowCallback
from omniform.train.reporting.codecarbon import CodeCarbonCallback
from omniform.train.reporting.comet import CometCallback
from omniform.train.reporting.dvclive import DVCLiveCallback
from omniform.train.reporting.mlflow import DagsHubCallback, MLflowCallback
from omniform.train.reporting.neptune import NeptuneCallback
from omniform.train.reporting.swanlab import SwanLabCallback
from omniform.train.reporting.tensorboard import TensorBoardCallback
from omniform.train.reporting.trackio import TrackioCallback
from omniform.train.reporting.wandb import WandbCallback

INTEGRATION_TO_CALLBACK: Final[dict[str, type[Reporter]]] = {
    "azure_ml": AzureMLCallback,
    "comet_ml": CometCallback,
    "mlflow": MLflowCallback,
    "neptune": NeptuneCallback,
    "tensorboard": TensorBoardCallback,
    "trackio": TrackioCallback,
    "wandb": WandbCallback,
    "codecarbon": CodeCarbonCallback,
    "clearml": ClearMLCallback,
    "dagshub": DagsHubCallback,
    "flyte": FlyteCallback,
    "dvclive": DVCLiveCallback,
    "swanlab": SwanLabCallback,
    "kubeflow": KubeflowCallback,
}
"""What ``report_to`` may name, and what it means."""

_FOR_ALL: Final[dict[str, Callable[[], bool]]] = {
    # MLflow is Azure's own way of logging: not both.
    "azure_ml": lambda: there.is_azureml_available() and not there.is_mlflow_available(),
    "comet_ml": there.is_comet_available,
    "dagshub": there.is_dagshub_available,
    "dvclive": there.is_dvclive_available,
    "mlflow": there.is_mlflow_available,
    "tensorboard": there.is_tensorboard_available,
    "wandb": there.is_wandb_available,
    "codecarbon": there.is_codecarbon_available,
    "clearml": there.is_clearml_available,
    "swanlab": there.is_swanlab_available,
    "trackio": there.is_trackio_available,
    "kubeflow": there.is_kubeflow_available,
}
"""What ``"all"`` stands for: without Flyte, which has to be asked for, and Neptune, which is refused."""


def get_available_reporting_integrations() -> list[str]:
    """The names that ``report_to="all"`` stands for here."""
    return [name for name, is_there in _FOR_ALL.items() if is_there()]


def named_tools(report_to: str | Iterable[str] | None) -> list[str]:
    """The names in a ``report_to``: None and ``"none"`` are none, ``"all"`` is what is installed.

    Raises:
        InputError: a name that no tool has.
    """
    names = [report_to] if isinstance(report_to, str) else list(report_to or ())
    if names == ["none"]:
        return []
    if names == ["all"]:
        return get_available_reporting_integrations()
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            remedy = nearest(str(name), [*INTEGRATION_TO_CALLBACK, "all", "none"])
            raise InputError("no tool has this name", where="report_to", found=brief(name), remedy=remedy)
    return list(dict.fromkeys(names))


def also_told(names: list[str]) -> list[str]:
    """The names, and Kubeflow's where this process is part of a TrainJob that waits to be told."""
    waits = there.is_kubeflow_available() and "kubeflow" not in names
    return [*names, "kubeflow"] if waits else names


def get_reporting_integration_callbacks(report_to: str | Iterable[str] | None) -> list[type[Reporter]]:
    """The callbacks' classes for a ``report_to``.

    Raises:
        InputError: a name that no tool has.
    """
    return [INTEGRATION_TO_CALLBACK[name] for name in named_tools(report_to)]


def hp_params(trial: object) -> dict[str, object]:
    """What a search has chosen for a trial: optuna's trials tell it, Ray's and W&B's are mappings.

    Raises:
        InputError: neither.
    """
    if isinstance(trial, dict):
        return trial
    # Only who has imported optuna can have one of its trials.
    optuna = there.imported("optuna.trial")
    if optuna is not None and isinstance(trial, optuna.BaseTrial):
        return dict(trial.params)
    raise InputError(
        "no trial of a search",
        expected="an optuna trial, or a dictionary of Ray's or W&B's",
        found=type(trial).__name__,
    )
