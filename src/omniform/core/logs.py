"""What omniform says, and how much of it: the names that scripts of the ecosystem call."""

from __future__ import annotations

import functools
import logging
import os
from typing import cast

DEBUG, INFO, WARNING, ERROR, CRITICAL = (
    logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL,
)  # fmt: skip


class Logger(logging.Logger):
    """A logger that can say something once, and advise."""

    @functools.lru_cache(None)  # noqa: B019 # loggers live as long as the process
    def warning_once(self, msg: object, *args: object) -> None:
        """Warn, the first time that these words are said."""
        self.warning(msg, *args)

    @functools.lru_cache(None)  # noqa: B019
    def info_once(self, msg: object, *args: object) -> None:
        """Inform, the first time that these words are said."""
        self.info(msg, *args)

    def warning_advice(self, msg: object, *args: object) -> None:
        """Warn, unless ``TRANSFORMERS_NO_ADVISORY_WARNINGS`` is set."""
        if not os.environ.get("TRANSFORMERS_NO_ADVISORY_WARNINGS"):
            self.warning(msg, *args)


def get_logger(name: str | None = None) -> Logger:
    """A logger by name; omniform's own by default."""
    found = logging.getLogger(name or "omniform")
    if not isinstance(found, Logger):
        # It may have been asked for before, from the module logging, which then holds this very object.
        found.__class__ = Logger
    return cast(Logger, found)


def set_verbosity(verbosity: int) -> None:
    """Let through what is at least so important (``logging.WARNING``)."""
    get_logger().setLevel(verbosity)


def get_verbosity() -> int:
    """How important something must be to be said."""
    return get_logger().getEffectiveLevel()


def set_verbosity_debug() -> None:
    """Say everything."""
    set_verbosity(DEBUG)


def set_verbosity_info() -> None:
    """Say what may interest."""
    set_verbosity(INFO)


def set_verbosity_warning() -> None:
    """Say what should be looked at."""
    set_verbosity(WARNING)


def set_verbosity_error() -> None:
    """Say errors only."""
    set_verbosity(ERROR)
