"""Neptune, which omniform does not speak to."""

from __future__ import annotations

from omniform.core.errors import MissingToolError
from omniform.train.reporting.available import is_neptune_available
from omniform.train.reporting.base import Reporter


class NeptuneMissingConfiguration(Exception):  # noqa: N818 # the ecosystem's name
    """A Neptune run was given and no token or project: never raised here, for scripts that catch it."""


class NeptuneCallback(Reporter):
    """Refused by name: the ecosystem has given up its reports to Neptune, and omniform never had any.

    Raises:
        MissingToolError: always.
    """

    title = "Neptune"
    package = "neptune"

    def __init__(self, **kw: object) -> None:
        raise MissingToolError(
            "omniform does not report to Neptune",
            where="report_to",
            found="neptune",
            remedy="report to another tool (mlflow, wandb, tensorboard), or write a TrainerCallback whose "
            "on_log calls Neptune's client",
        )

    @classmethod
    def available(cls) -> bool:
        """Whether its client is installed."""
        return is_neptune_available()
