"""DVCLive."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from torch import nn

from omniform.core.errors import InputError
from omniform.train.reporting.artifacts import output, save_whole
from omniform.train.reporting.available import is_dvclive_available
from omniform.train.reporting.base import Reporter
from omniform.train.reporting.mlflow import switched_on
from omniform.train.reporting.values import Number, sort

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.state import TrainerState


class Live(Protocol):
    """What is asked of ``dvclive.Live``."""

    def log_params(self, params: dict[str, object]) -> None:
        """What the run is made with."""

    def log_metric(self, name: str, val: Number) -> None:
        """One point of a curve."""

    def next_step(self) -> None:
        """All of a step is told."""

    def log_artifact(self, path: str, type: str = ..., name: str = ..., *, copy: bool = ...) -> None:
        """Keep a file or folder."""

    def end(self) -> None:
        """All is told."""


class DVCLiveCallback(Reporter):
    """Reports to DVCLive.

    Args:
        live: a ``Live`` of your own.
        log_model: True keeps the last (or best) model, ``"all"`` the whole folder at every checkpoint; by default
            what ``HF_DVCLIVE_LOG_MODEL`` says.
    """

    title = "DVCLive"
    package = "dvclive"
    handles: ClassVar[tuple[str, ...]] = ("live",)

    def __init__(self, live: Live | None = None, log_model: Literal["all"] | bool | None = None) -> None:
        super().__init__()
        if live is not None and not isinstance(live, import_module("dvclive").Live):
            raise InputError("live is no dvclive.Live", found=type(live).__name__)
        self.live = live
        if log_model is None:
            everything = os.environ.get("HF_DVCLIVE_LOG_MODEL", "").lower() == "all"
            log_model = "all" if everything else switched_on("HF_DVCLIVE_LOG_MODEL")
        self._log_model = log_model

    @classmethod
    def available(cls) -> bool:
        """Whether DVCLive is installed."""
        return is_dvclive_available()

    def setup(self, args: TrainingArguments, state: TrainerState, model: object, **kw: object) -> None:
        """Begin."""
        if self.live is None:
            self.live = import_module("dvclive").Live()
        self.live.log_params(args.to_dict())

    def report(self, args: TrainingArguments, state: TrainerState, logs: Mapping[str, object]) -> None:
        """Curves, by DVCLive's own way of naming those of training scripts."""
        if self.live is None:
            return
        named = import_module("dvclive.utils").standardize_metric_name
        found = sort(logs)
        self.leave_out({**found.texts, **found.others})
        for name, value in found.numbers.items():
            self.live.log_metric(named(name, "dvclive.huggingface"), value)
        self.live.next_step()

    def keep(self, args: TrainingArguments, state: TrainerState) -> None:
        """Keep the folder, if all is to be kept."""
        if self.live is not None and self._log_model == "all":
            self.live.log_artifact(output(args))

    def finish(self, args: TrainingArguments, state: TrainerState, model: object, processing_class: object) -> None:
        """Keep the model, if it is to be kept, and end."""
        if self.live is None:
            return
        if self._log_model is True and isinstance(model, nn.Module):
            name = "best" if args.load_best_model_at_end else "last"
            folder = Path(output(args), name)
            folder.mkdir(parents=True, exist_ok=True)
            save_whole(model, processing_class, args, folder)
            self.live.log_artifact(str(folder), type="model", name=name, copy=True)
        self.live.end()
