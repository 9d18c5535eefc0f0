"""Numbers that others give: which of them are some."""

from __future__ import annotations

import math
from typing import TypeGuard


def is_finite(value: object) -> TypeGuard[int | float]:
    """Whether this is a number, neither a truth value, nor infinite, nor more than a float can be."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # Python's whole numbers have no end
        return False
