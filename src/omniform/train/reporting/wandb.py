"""Weights & Biases."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from enum import Enum
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from torch import nn

from omniform.core.logs import get_logger
from omniform.train.reporting.artifacts import checkpoint, output, save_whole
from omniform.train.reporting.available import is_wandb_available
from omniform.train.reporting.base import Reporter
from omniform.train.reporting.values import (
    SUMMARY,
    config_of,
    number,
    parameters_of,
    rewrite_logs,
    settings,
    with_numbers,
)  # fmt: skip

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.state import TrainerState

log = get_logger("omniform")


class WandbLogModel(str, Enum):  # noqa: UP042 # its text is the ecosystem's: WandbLogModel.END
    """Which models are kept as artifacts: ``WANDB_LOG_MODEL``."""

    CHECKPOINT = "checkpoint"
    END = "end"
    FALSE = "false"

    @property
    def is_enabled(self) -> bool:
        """Whether any is."""
        return self is not WandbLogModel.FALSE

    @classmethod
    def _missing_(cls, value: object) -> WandbLogModel:
        if not isinstance(value, str):
            raise TypeError(f"WANDB_LOG_MODEL is a text ({', '.join(one.value for one in cls)}), not {type(value)}")
        log.warning("WANDB_LOG_MODEL is %r, which is none of checkpoint, end and false: no model is kept", value)
        return cls.FALSE


class WandbCallback(Reporter):
    """Reports to Weights & Biases: curves, the arguments and the config, models as artifacts.

    Environment: ``WANDB_PROJECT`` (``huggingface``); ``WANDB_LOG_MODEL``: ``end`` keeps the last model,
    ``checkpoint`` every checkpoint; ``WANDB_WATCH``: ``gradients``, ``parameters`` or ``all`` are drawn; and W&B's own
    (``WANDB_MODE=offline``). A run that was begun before is used. It is not ended with the training, so that a later
    evaluation is part of it; in a search, every trial is a run of its own.
    """

    title = "Weights & Biases"
    package = "wandb"

    def __init__(self) -> None:
        super().__init__()
        self._log_model = WandbLogModel(os.environ.get("WANDB_LOG_MODEL", "false"))

    @classmethod
    def available(cls) -> bool:
        """Whether wandb is installed."""
        return is_wandb_available()

    @cached_property
    def _wandb(self) -> ModuleType:
        return import_module("wandb")

    def begins_anew(self, state: TrainerState) -> bool:
        """A trial is a run of its own."""
        return state.is_hyper_param_search

    def setup(self, args: TrainingArguments, state: TrainerState, model: object, **kw: object) -> None:
        """Begin a run, unless one goes on; override it to begin it in another way."""
        if state.is_hyper_param_search and self._wandb.run is not None:
            self._wandb.finish()
        if self._wandb.run is None:
            self._wandb.init(project=os.environ.get("WANDB_PROJECT", "huggingface"), **self._named_as(args, state))
        self._initialized = True
        self._wandb.config.update(settings(args.to_dict(), model), allow_val_change=True)
        self._wandb.define_metric("train/global_step")
        self._wandb.define_metric("*", step_metric="train/global_step", step_sync=True)
        watched = os.environ.get("WANDB_WATCH", "false")
        if watched in ("all", "parameters", "gradients") and isinstance(model, nn.Module):
            self._wandb.watch(model, log=watched, log_freq=max(100, int(state.logging_steps)))
        count = parameters_of(model)
        if count is not None:
            self._wandb.config.update({"model/num_parameters": count}, allow_val_change=True)
        if self._log_model.is_enabled and isinstance(model, nn.Module):
            facts = {"model_config": config_of(model), "num_parameters": count, "initial_model": True}
            with tempfile.TemporaryDirectory() as folder:
                _draw(model, Path(folder))
                self._send(folder, args, facts, ["base_model"])

    @staticmethod
    def _named_as(args: TrainingArguments, state: TrainerState) -> dict[str, str]:
        if state.trial_name is not None:
            return {"name": state.trial_name, "group": args.run_name or output(args)}
        return {} if args.run_name is None else {"name": args.run_name}

    def report(self, args: TrainingArguments, state: TrainerState, logs: Mapping[str, object]) -> None:
        """Curves; what is known once goes to the summary. Tables, pictures and the like are W&B's to show."""
        for name in SUMMARY & logs.keys():
            self._wandb.run.summary[name] = with_numbers(logs[name])
        curves = rewrite_logs({name: value for name, value in logs.items() if name not in SUMMARY})
        told = {name: with_numbers(value) for name, value in curves.items()}
        self._wandb.log({**told, "train/global_step": state.global_step})

    def report_prediction(self, args: TrainingArguments, state: TrainerState, metrics: Mapping[str, object]) -> None:
        """Metrics of ``predict`` are ``test/...``."""
        self._wandb.log({name: with_numbers(value) for name, value in rewrite_logs(metrics).items()})

    def keep(self, args: TrainingArguments, state: TrainerState) -> None:
        """Send a checkpoint, if ``WANDB_LOG_MODEL`` is ``checkpoint``."""
        if self._log_model is not WandbLogModel.CHECKPOINT:
            return
        facts = {**self._summary(), "model/num_parameters": self._wandb.config.get("model/num_parameters")}
        folder = checkpoint(args, state)
        marks = [f"epoch_{round(state.epoch or 0, 2)}", f"checkpoint_global_step_{state.global_step}"]
        self._send(folder, args, facts, marks)

    def finish(self, args: TrainingArguments, state: TrainerState, model: object, processing_class: object) -> None:
        """Send the model, if ``WANDB_LOG_MODEL`` is ``end`` or ``checkpoint``."""
        if not self._log_model.is_enabled or not isinstance(model, nn.Module):
            return
        facts = self._summary()
        if args.load_best_model_at_end:
            facts = {
                f"eval/{args.metric_for_best_model}": state.best_metric,
                "train/total_floss": state.total_flos,  # as it has always been spelled
                "model/num_parameters": self._wandb.config.get("model/num_parameters"),
            }
        with tempfile.TemporaryDirectory() as folder:
            save_whole(model, processing_class, args, Path(folder))
            _draw(model, Path(folder))
            self._send(folder, args, {**facts, "final_model": True}, ["final_model"])

    def _summary(self) -> dict[str, object]:
        found = dict(self._wandb.summary)
        return {k: v for k, v in found.items() if number(v) is not None and not k.startswith("_")}

    def _send(self, folder: str, args: TrainingArguments, facts: Mapping[str, object], marks: list[str]) -> None:
        run = self._wandb.run
        named = args.run_name is not None and args.run_name != output(args)
        artifact = self._wandb.Artifact(
            name=f"model-{run.name if named else run.id}", type="model", metadata=dict(facts)
        )
        artifact.add_dir(folder)
        run.log_artifact(artifact, aliases=marks)


def _draw(model: nn.Module, folder: Path) -> None:
    (folder / "model_architecture.txt").write_text(f"{model}\n", "utf-8")
