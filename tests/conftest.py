"""Shared settings of all tests: no network, one thread."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    # A shell starts what runs behind it so, and a program that a test starts and interrupts would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The fixture `hub`: a Hub on this machine (tests/loopback). These need the path above.
import thinning
from loopback.fixtures import hub as hub


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(thinning)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Two million objects are made here that all stay: to look for garbage among them took a quarter of the time, and
    more than a second each time that a test asks for it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def warnings_are_heard() -> Iterator[None]:
    """What is logged reaches ``caplog``, and each test's settings of the logger end with it."""
    logger = logging.getLogger("omniform")
    level, logger.propagate = logger.level, True
    yield
    logger.setLevel(level)


@pytest.fixture(autouse=True, scope="session")
def nobody_is_told_to_wait() -> None:
    """What a command prints does not depend on how busy the machine is: that a model is being loaded is said to those
    who have waited, not to tests of what else is said."""
    from omniform.cli import loading

    loading.PATIENCE = 600.0


def pytest_report_header() -> str:
    """Which kernels this run is about, since machines differ."""
    from omniform.native.library import library, why_not

    found = library()
    return f"native kernels: {why_not() if found is None else found.variant}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The same where a quiet run says its last words."""
    terminalreporter.write_line(pytest_report_header())
