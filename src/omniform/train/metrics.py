"""What evaluations give back, and how their numbers are named, shown and kept."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from omniform.core.files import write_text

T = TypeVar("T")

Array: TypeAlias = NDArray[np.generic]
Arrays: TypeAlias = "Array | tuple[Arrays, ...] | list[Arrays] | dict[str, Arrays]"
"""What a model gave for a whole dataset: an array, or several, nested as its outputs are."""
Metrics: TypeAlias = dict[str, float]


class EvalPrediction:
    """What ``compute_metrics`` gets.

    Args:
        predictions: the model's outputs besides the loss.
        label_ids: the labels; several as a tuple.
        inputs: the model's main input, where ``include_for_metrics`` has ``"inputs"``.
        losses: the loss of each example's batch, where it has ``"loss"``.

    It unpacks as a tuple of those that are there: ``predictions, labels = prediction``.
    """

    def __init__(
        self, predictions: Arrays, label_ids: Arrays, inputs: Arrays | None = None, losses: Arrays | None = None
    ) -> None:
        self.predictions = predictions
        self.label_ids = label_ids
        self.inputs = inputs
        self.losses = losses
        self.elements = (predictions, label_ids, *(x for x in (inputs, losses) if x is not None))

    def __iter__(self) -> Iterator[Arrays]:
        return iter(self.elements)

    def __getitem__(self, idx: int) -> Arrays:
        if not 0 <= idx < len(self.elements):
            raise IndexError(f"there are {len(self.elements)} elements, and none has the index {idx}")
        return self.elements[idx]


class EvalLoopOutput(NamedTuple):
    """What an evaluation loop gives: ``metrics`` have their prefix already."""

    predictions: Arrays | None
    label_ids: Arrays | None
    metrics: Metrics | None
    num_samples: int | None


class PredictionOutput(NamedTuple):
    """What ``Trainer.predict`` gives."""

    predictions: Arrays | None
    label_ids: Arrays | None
    metrics: Metrics | None


class TrainOutput(NamedTuple):
    """What ``Trainer.train`` gives: the steps done, the mean loss over them, speeds."""

    global_step: int
    training_loss: float
    metrics: Metrics


def speed_metrics(
    split: str,
    start_time: float,
    num_samples: int | None = None,
    num_steps: int | None = None,
    num_tokens: float | None = None,
) -> Metrics:
    """Seconds since ``start_time`` (of ``time.time()``), and what was done in each of them.

    Args:
        split: goes before the names: ``train``, ``eval``, ``test``.
    """
    seconds = time.time() - start_time
    found = {f"{split}_runtime": round(seconds, 4)}
    counts = (("samples", num_samples), ("steps", num_steps), ("tokens", num_tokens))
    if seconds > 0:
        found |= {f"{split}_{what}_per_second": round(n / seconds, 3) for what, n in counts if n is not None}
    return found


def denumpify_detensorize(metrics: T) -> T:
    """The same nested metrics with plain numbers where there were arrays or tensors of one number."""
    plain: object = metrics
    if isinstance(metrics, tuple | list):
        plain = type(metrics)(denumpify_detensorize(m) for m in metrics)
    elif isinstance(metrics, Mapping):
        plain = {key: denumpify_detensorize(value) for key, value in metrics.items()}
    elif isinstance(metrics, np.generic) or (isinstance(metrics, Tensor) and metrics.numel() == 1):
        plain = metrics.item()
    return plain  # type: ignore[return-value] # the same shape, plainer leaves


def prefixed(metrics: Mapping[str, float], prefix: str) -> Metrics:
    """The metrics under names that begin with ``prefix_``, those first that have it already."""
    own = {key: value for key, value in metrics.items() if key.startswith(f"{prefix}_")}
    return own | {f"{prefix}_{key}": value for key, value in metrics.items() if key not in own}


def metrics_format(metrics: Mapping[str, object]) -> dict[str, object]:
    """Metrics as people read them: memory in MB, times as h:mm:ss, other numbers with four decimals."""
    return {key: _shown(key, value) for key, value in metrics.items()}


def _shown(key: str, value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if "_mem_" in key:
            return f"{int(value) >> 20}MB"
        if "_runtime" in key:
            return f"{timedelta(seconds=int(value))}.{int(abs(value - int(value)) * 100):02d}"
        if key == "total_flos":
            return f"{int(value) >> 30}GF"
    return round(value, 4) if isinstance(value, float) else value


def print_metrics(split: str, metrics: Mapping[str, object]) -> None:
    """Print metrics as a table under a heading."""
    shown = {key: str(value) for key, value in metrics_format(metrics).items()}
    print(f"***** {split} metrics *****")
    key_width = max(map(len, shown), default=0)
    value_width = max(map(len, shown.values()), default=0)
    for key in sorted(shown):
        print(f"  {key: <{key_width}} = {shown[key]:>{value_width}}")


def keep_metrics(folder: str | os.PathLike[str], split: str, metrics: Mapping[str, object], combined: bool) -> None:
    """Write ``{split}_results.json``, and with ``combined`` join the numbers to those of ``all_results.json``."""
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    _write_json(home / f"{split}_results.json", metrics)
    if combined:
        whole = home / "all_results.json"
        before = json.loads(whole.read_text(encoding="utf-8")) if whole.exists() else {}
        _write_json(whole, {**before, **metrics})


def _write_json(path: Path, metrics: Mapping[str, object]) -> None:
    write_text(path, json.dumps(denumpify_detensorize(dict(metrics)), indent=4, sort_keys=True))


__all__ = [
    "EvalLoopOutput",
    "EvalPrediction",
    "PredictionOutput",
    "TrainOutput",
    "denumpify_detensorize",
    "metrics_format",
    "speed_metrics",
]
