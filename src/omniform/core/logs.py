"""What omniform says, and how much of it: the names that scripts of the ecosystem call."""

from __future__ import annotations

import functools
import logging
import os
from typing import cast

from omniform.core.errors import InputError

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


warning_once = Logger.warning_once
info_once = Logger.info_once
warning_advice = Logger.warning_advice


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


log_levels: dict[str, int] = {
    "detail": DEBUG, "debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR, "critical": CRITICAL,
}  # fmt: skip
"""Words for how important something is."""

FATAL, WARN, NOTSET = logging.FATAL, logging.WARNING, logging.NOTSET


def get_log_levels_dict() -> dict[str, int]:
    """Words for how important something is."""
    return log_levels


# -- where it is said ------------------------------------------------------------------------------------------------
# omniform says things to whatever the program has set up; a handler of its own is put there only when asked for.


@functools.cache
def _handler() -> logging.Handler:
    made = logging.StreamHandler()
    made.setFormatter(logging.Formatter("[omniform] %(message)s"))
    return made


def enable_default_handler() -> None:
    """Write to stderr, and no longer to what the program has set up as well."""
    add_handler(_handler())
    disable_propagation()


def disable_default_handler() -> None:
    """Undo :func:`enable_default_handler`, but for the program's own handlers: see :func:`enable_propagation`."""
    get_logger().removeHandler(_handler())


def add_handler(handler: logging.Handler) -> None:
    """Hand over what is said to one more."""
    get_logger().addHandler(handler)


def remove_handler(handler: logging.Handler) -> None:
    """No longer hand over to this one.

    Raises:
        InputError: it is not there.
    """
    if handler not in get_logger().handlers:
        raise InputError("this handler is not there", where="remove_handler", found=repr(handler))
    get_logger().removeHandler(handler)


def enable_propagation() -> None:
    """Hand over to what the program has set up, which is so from the start."""
    get_logger().propagate = True


def disable_propagation() -> None:
    """Do not hand over to what the program has set up."""
    get_logger().propagate = False


def enable_explicit_format() -> None:
    """Say level, file, line and time with every message, in all handlers that are there now."""
    for handler in get_logger().handlers:
        handler.setFormatter(logging.Formatter("[%(levelname)s|%(filename)s:%(lineno)s] %(asctime)s >> %(message)s"))


def reset_format() -> None:
    """Say messages only."""
    for handler in get_logger().handlers:
        handler.setFormatter(None)


def captureWarnings(capture: bool) -> None:  # noqa: N802 # the ecosystem's name
    """Treat what the module ``warnings`` says as something that is logged."""
    get_logger("py.warnings").setLevel(get_verbosity())
    logging.captureWarnings(capture)


__all__ = [
    "CRITICAL",
    "DEBUG",
    "ERROR",
    "FATAL",
    "INFO",
    "NOTSET",
    "WARN",
    "WARNING",
    "add_handler",
    "captureWarnings",
    "disable_default_handler",
    "disable_propagation",
    "enable_default_handler",
    "enable_explicit_format",
    "enable_propagation",
    "get_log_levels_dict",
    "get_logger",
    "get_verbosity",
    "info_once",
    "log_levels",
    "remove_handler",
    "reset_format",
    "set_verbosity",
    "set_verbosity_debug",
    "set_verbosity_error",
    "set_verbosity_info",
    "set_verbosity_warning",
    "warning_advice",
    "warning_once",
]
