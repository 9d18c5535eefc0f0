"""Asking the Hub: with patience where it is in trouble, and without where it does not answer at all."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from omniform.hub import refusals

log = logging.getLogger("omniform")

T = TypeVar("T")

PATIENCE = 6.0
"""Seconds after which a Hub that has not answered is taken to be out of reach."""

QUIET = 60.0
"""Seconds for which it is then left alone."""

TRIES = (0.3, 1.0, 2.0)
"""Seconds between tries where the Hub answers that it is in trouble, or the connection breaks."""

SILENT: dict[str, float] = {}
"""Hubs that did not answer, and until when they are left alone."""


def is_silent() -> bool:
    """Whether the Hub has not answered of late."""
    from huggingface_hub import constants

    return SILENT.get(constants.ENDPOINT, 0.0) > time.monotonic()


def fell_silent() -> None:
    """Leave the Hub alone for a while."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        SILENT[constants.ENDPOINT] = time.monotonic() + QUIET


def patiently(ask: Callable[[], T], what: str) -> T:
    """What a request gives, tried again a few times where that may help.

    Args:
        what: what it is about, for the log.
    """
    for usual in TRIES:
        try:
            return ask()
        except Exception as error:
            wait = refusals.pause(error, usual)
            if wait is None:
                raise
            log.debug("%s: %s; asked again in %s s", what, error, wait)
        time.sleep(wait)
    return ask()


def within(seconds: float, ask: Callable[[], T]) -> T:
    """What a call gives, if it does within so many seconds: looking up a name has no limit of its own.

    Raises:
        TimeoutError: it does not.
    """
    found: list[T] = []
    failed: list[Exception] = []

    def work() -> None:
        try:
            found.append(ask())
        except Exception as error:
            failed.append(error)

    asking = threading.Thread(target=work, name="omniform-hub", daemon=True)
    asking.start()
    asking.join(seconds)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError(f"no answer within {seconds:.0f} seconds")
    return found[0]
