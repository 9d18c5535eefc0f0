"""What omniform says, and how much of it: the names that scripts of the ecosystem call."""

from __future__ import annotations

import logging

DEBUG, INFO, WARNING, ERROR, CRITICAL = (
    logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL,
)  # fmt: skip


def get_logger(name: str | None = None) -> logging.Logger:
    """A logger by name; omniform's own by default."""
    return logging.getLogger(name or "omniform")


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
