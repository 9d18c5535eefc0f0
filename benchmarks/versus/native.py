"""What omniform's native library says about itself; nothing where this omniform has none."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PARTS = {"matmul": "weights", "attention": "attention", "sample": "sampling"}
"""The part of a step that an operation of the library belongs to, by what its name begins with; others are others."""


def _module(name: str) -> Any:
    full = f"omniform.native.{name}"
    if importlib.util.find_spec("omniform.native") is None or importlib.util.find_spec(full) is None:
        return None
    return importlib.import_module(full)


def kernels() -> str:
    """Which kernels compute here: the library's variant, or torch's."""
    module = _module("library")
    library = None if module is None else module.library()
    return "torch" if library is None else str(library.variant)


@contextmanager
def operations() -> Iterator[dict[str, float]]:
    """Seconds within the library's operations, by name, while this lasts; filled when it ends.

    They come from ``omniform.native.times.recorded()``, a context manager of the same shape.
    """
    module = _module("times")
    if module is None:
        yield {}
        return
    with module.recorded() as seconds:
        yield seconds


def part_of(operation: str) -> str:
    """Which part of a step an operation belongs to."""
    return next((part for start, part in PARTS.items() if operation.startswith(start)), "other kernels")
