"""Checks of arguments that pictures and sounds share: what a flag, a limit, a length and a fraction are."""

from __future__ import annotations

import contextlib
import operator
from numbers import Real
from typing import SupportsIndex

from omniform.core.errors import InputError, brief


def whole_limit(name: str, value: object) -> None:
    """Refuse a limit that is not a whole number from 1 on.

    Raises:
        InputError: as said.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError("this is no limit", where=name, expected="a whole number >= 1", found=brief(value))


def positive_limit(name: str, value: object) -> None:
    """Refuse a limit that is not a number above 0 (NaN is not).

    Raises:
        InputError: as said.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
        raise InputError("this is no limit", where=name, expected="a number above 0", found=brief(value))


def check_length(name: str, value: object) -> int | None:
    """A length in samples or frames, or None.

    Raises:
        InputError: it is neither.
    """
    if value is None:
        return None
    length = 0
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            length = operator.index(value)
    if not 1 <= length < 1 << 40:
        raise InputError("this is no length", where=name, expected="an integer >= 1, or None", found=brief(value))
    return length


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither true, false nor None.

    Raises:
        InputError: as said.
    """
    from numpy import bool_

    if value is not None and not isinstance(value, (bool, bool_)):
        raise InputError("this is neither true nor false", where=name, expected="True or False", found=brief(value))


def fraction(name: str, value: object) -> float:
    """A threshold: a real number that is not NaN.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not abs(float(value)) < 1e30:
        raise InputError("this is no threshold", where=name, expected="a number from 0 to 1", found=brief(value))
    return float(value)
