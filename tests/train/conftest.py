"""What accelerate writes into the environment belongs to the test that made it."""

from __future__ import annotations

import gc
import os

import pytest


@pytest.fixture(autouse=True, scope="module")
def nothing_old_is_walked():
    """Every training collects once (``accelerate``), which walks all that a whole session has made and imported.

    In a process that was forked from here it would copy all of that besides.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_environment():
    before = dict(os.environ)
    yield
    for name in set(os.environ) | set(before):
        if name.startswith(("ACCELERATE_", "FSDP_")) and os.environ.get(name) != before.get(name):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
