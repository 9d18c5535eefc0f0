"""Reports to other tools, by the ecosystem's names (``report_to="tensorboard"``); none unless named.

A tool is imported when training begins, told from the main process only, and never stops a training: see
:class:`~omniform.train.reporting.base.Reporter`. Which there are stands in :mod:`omniform.train.reporting.table`.
"""

from __future__ import annotations

from omniform.train.reporting.available import (
    is_azureml_available,
    is_clearml_available,
    is_codecarbon_available,
    is_comet_available,
    is_dagshub_available,
    is_dvclive_available,
    is_flyte_deck_standard_available,
    is_flytekit_available,
    is_kubeflow_available,
    is_mlflow_available,
    is_neptune_available,
    is_optuna_available,
    is_ray_available,
    is_ray_tune_available,
    is_swanlab_available,
    is_tensorboard_available,
    is_trackio_available,
    is_wandb_available,
)  # fmt: skip
from omniform.train.reporting.clearml import ClearMLCallback
from omniform.train.reporting.clouds import AzureMLCallback, FlyteCallback, KubeflowCallback
from omniform.train.reporting.codecarbon import CodeCarbonCallback
from omniform.train.reporting.comet import CometCallback
from omniform.train.reporting.dvclive import DVCLiveCallback
from omniform.train.reporting.mlflow import DagsHubCallback, MLflowCallback
from omniform.train.reporting.neptune import NeptuneCallback, NeptuneMissingConfiguration
from omniform.train.reporting.swanlab import SwanLabCallback
from omniform.train.reporting.table import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
    get_reporting_integration_callbacks,
    hp_params,
)
from omniform.train.reporting.tensorboard import TensorBoardCallback, default_logdir
from omniform.train.reporting.trackio import TrackioCallback
from omniform.train.reporting.values import rewrite_logs
from omniform.train.reporting.wandb import WandbCallback, WandbLogModel

__all__ = [
    "INTEGRATION_TO_CALLBACK", "AzureMLCallback", "ClearMLCallback", "CodeCarbonCallback", "CometCallback",
    "DVCLiveCallback", "DagsHubCallback", "FlyteCallback", "KubeflowCallback", "MLflowCallback", "NeptuneCallback",
    "NeptuneMissingConfiguration", "SwanLabCallback", "TensorBoardCallback", "TrackioCallback", "WandbCallback",
    "WandbLogModel", "default_logdir", "get_available_reporting_integrations", "get_reporting_integration_callbacks",
    "hp_params", "is_azureml_available", "is_clearml_available", "is_codecarbon_available", "is_comet_available",
    "is_dagshub_available", "is_dvclive_available", "is_flyte_deck_standard_available", "is_flytekit_available",
    "is_kubeflow_available", "is_mlflow_available", "is_neptune_available", "is_optuna_available",
    "is_ray_available", "is_ray_tune_available", "is_swanlab_available", "is_tensorboard_available",
    "is_trackio_available", "is_wandb_available", "rewrite_logs",
]  # fmt: skip
