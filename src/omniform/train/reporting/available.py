"""Which tools are there. Nothing is imported to find out."""

from __future__ import annotations

import configparser
import importlib.util
import os
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Final

from omniform.core.logs import get_logger

log = get_logger("omniform")

OLDEST_COMET: Final = (3, 43, 2)


def installed(name: str) -> bool:
    """Whether a package or a module in it can be imported.

    A folder without ``__init__.py`` does not count: ``./wandb`` and ``./mlruns`` are what the tools themselves write.
    """
    if name in sys.modules:
        return sys.modules[name] is not None
    parent, _, _ = name.rpartition(".")
    if parent and parent not in sys.modules and importlib.util.find_spec(parent.partition(".")[0]) is None:
        return False
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a parent that cannot be imported, or is no package
        return False
    return spec is not None and spec.origin is not None


def _unless(variable: str) -> bool:
    return os.environ.get(variable, "FALSE").upper() != "TRUE"


def is_azureml_available() -> bool:
    """Whether Azure Machine Learning's SDK of the first generation is installed."""
    return installed("azureml.core.run")


def is_clearml_available() -> bool:
    """Whether ClearML is installed."""
    return installed("clearml")


def is_codecarbon_available() -> bool:
    """Whether CodeCarbon is installed."""
    return installed("codecarbon")


def comet_is_installed() -> bool:
    """Whether a Comet is installed that is new enough."""
    try:
        version = metadata.version("comet_ml")
    except metadata.PackageNotFoundError:
        return False
    digits = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    return installed("comet_ml") and digits >= OLDEST_COMET


def is_comet_available() -> bool:
    """Whether Comet is installed and has a key, in ``COMET_API_KEY`` or a ``.comet.config``; without one, it can
    still be named, and writes offline."""
    if not comet_is_installed():
        return False
    if os.environ.get("COMET_API_KEY") or any(_has_key(path) for path in _comet_files()):
        return True
    log.warning("Comet is installed and has no API key: set COMET_API_KEY, or name it (report_to='comet_ml')")
    return False


def _comet_files() -> list[Path]:
    named = os.environ.get("COMET_CONFIG")
    places = [Path.cwd() / ".comet.config", Path.home() / ".comet.config"]
    return [Path(named).expanduser(), *places] if named else places


def _has_key(path: Path) -> bool:
    reader = configparser.ConfigParser(interpolation=None)
    try:
        reader.read(path, encoding="utf-8")
    except (OSError, configparser.Error, UnicodeDecodeError):
        return False
    return bool(reader.get("comet", "api_key", fallback=""))


def is_dagshub_available() -> bool:
    """Whether DagsHub's client is installed, and MLflow, which it goes through."""
    return installed("dagshub") and installed("mlflow")


def is_dvclive_available() -> bool:
    """Whether DVCLive is installed."""
    return installed("dvclive")


def is_flytekit_available() -> bool:
    """Whether Flyte's kit is installed."""
    return installed("flytekit")


def is_flyte_deck_standard_available() -> bool:
    """Whether Flyte's standard decks are installed."""
    return is_flytekit_available() and installed("flytekitplugins.deck")


def is_kubeflow_available() -> bool:
    """Whether this process is part of a Kubeflow TrainJob that wants to be told; off by
    ``DISABLE_KUBEFLOW_INTEGRATION=TRUE``."""
    return _unless("DISABLE_KUBEFLOW_INTEGRATION") and "KUBEFLOW_TRAINER_SERVER_URL" in os.environ


def is_mlflow_available() -> bool:
    """Whether MLflow (or its skinny form) is installed; off by ``DISABLE_MLFLOW_INTEGRATION=TRUE``."""
    return _unless("DISABLE_MLFLOW_INTEGRATION") and installed("mlflow")


def is_neptune_available() -> bool:
    """Whether Neptune's client is installed."""
    return installed("neptune")


def is_optuna_available() -> bool:
    """Whether Optuna is installed."""
    return installed("optuna")


def is_ray_available() -> bool:
    """Whether Ray is installed."""
    return installed("ray")


def is_ray_tune_available() -> bool:
    """Whether Ray's Tune is installed."""
    return is_ray_available() and installed("ray.tune")


def is_swanlab_available() -> bool:
    """Whether SwanLab is installed."""
    return installed("swanlab")


def is_tensorboard_available() -> bool:
    """Whether TensorBoard is installed, or tensorboardX."""
    return installed("tensorboard") or installed("tensorboardX")


def is_trackio_available() -> bool:
    """Whether Trackio is installed."""
    return installed("trackio")


def is_wandb_available() -> bool:
    """Whether Weights & Biases is installed."""
    return installed("wandb")


def imported(name: str) -> ModuleType | None:
    """A module, if something has imported it already."""
    return sys.modules.get(name)
