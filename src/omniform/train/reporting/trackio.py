"""Trackio: Weights & Biases' words, kept on one's own disk or in a Space."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from omniform.train.reporting.available import is_trackio_available
from omniform.train.reporting.base import Reporter
from omniform.train.reporting.values import SUMMARY, parameters_of, rewrite_logs, settings, with_numbers

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments
    from omniform.train.state import TrainerControl, TrainerState


class TrackioCallback(Reporter):
    """Reports to Trackio.

    Arguments: ``project``, ``run_name``, ``trackio_space_id``, ``trackio_bucket_id``, ``hub_private_repo``; with
    ``trackio_static_space_id`` a Space that stands still is made, of a Space when training ends, of local runs when
    the model is pushed (False: never).
    """

    title = "Trackio"
    package = "trackio"

    def __init__(self) -> None:
        super().__init__()
        self._space_id: str | None = None
        self._static_space_id: str | None = None

    @classmethod
    def available(cls) -> bool:
        """Whether Trackio is installed."""
        return is_trackio_available()

    @cached_property
    def _trackio(self) -> ModuleType:
        return import_module("trackio")

    def setup(self, args: TrainingArguments, state: TrainerState, model: object, **kw: object) -> None:
        """Begin a run, or go on with the one of that name."""
        self._trackio.init(
            project=args.project,
            name=args.run_name,
            space_id=args.trackio_space_id,
            resume="allow",
            private=args.hub_private_repo,
            bucket_id=args.trackio_bucket_id,
        )
        # The Space's full name, wherever its short one came from.
        self._space_id = self._trackio.context_vars.current_space_id.get()
        self._trackio.config.update(settings(args.to_dict(), model), allow_val_change=True)
        count = parameters_of(model)
        if count is not None:
            self._trackio.config["model/num_parameters"] = count

    def report(self, args: TrainingArguments, state: TrainerState, logs: Mapping[str, object]) -> None:
        """Curves; what is known once is left to the others."""
        curves = rewrite_logs({name: with_numbers(value) for name, value in logs.items() if name not in SUMMARY})
        self._trackio.log({**curves, "train/global_step": state.global_step})

    def report_prediction(self, args: TrainingArguments, state: TrainerState, metrics: Mapping[str, object]) -> None:
        """Metrics of ``predict`` are ``test/...``."""
        self._trackio.log({name: with_numbers(value) for name, value in rewrite_logs(metrics).items()})

    def finish(self, args: TrainingArguments, state: TrainerState, model: object, processing_class: object) -> None:
        """End the run."""
        self._initialized = False
        self._trackio.finish()
        if self._space_id and args.trackio_static_space_id is not False:
            self._static_space_id = self._trackio.freeze(
                space_id=self._space_id,
                project=args.project,
                new_space_id=self._still(args),
                private=args.hub_private_repo,
            )

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: object
    ) -> None:
        """Send what was kept here into a Space that stands still."""
        if self.tells(state) and args.trackio_static_space_id is not False and not self._space_id:
            self._try("send its runs to a Space", lambda: self._send(args))

    def _send(self, args: TrainingArguments) -> None:
        project = self._trackio.context_vars.current_project.get()
        if project is not None:
            self._static_space_id = self._trackio.sync(
                project=project,
                sdk="static",
                space_id=self._still(args),
                private=args.hub_private_repo,
                bucket_id=args.trackio_bucket_id,
                force=True,
            )

    def _still(self, args: TrainingArguments) -> str:
        plain = re.sub(r"-+", "-", re.sub(r"[^a-z0-9._-]", "-", args.project.strip().lower())).strip("-_.")
        made = f"{(plain or 'trackio-project')[:81].rstrip('-')}-static-{secrets.token_hex(3)}"
        return self._static_space_id or args.trackio_static_space_id or made
