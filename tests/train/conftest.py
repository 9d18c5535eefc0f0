"""What accelerate writes into the environment belongs to the test that made it."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def own_environment():
    before = dict(os.environ)
    yield
    for name in set(os.environ) | set(before):
        if name.startswith(("ACCELERATE_", "FSDP_")) and os.environ.get(name) != before.get(name):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
