"""What the value of an argument may be: kinds that read it, or refuse it by name.

A value may come from a script, a command line or a YAML file (where ``5e-5`` is a text and ``no`` is False), and means
the same wherever it comes from.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol, cast

from omniform.core.errors import InputError, brief, listed, nearest
from omniform.core.numbers import is_finite

TRUE: Final = ("yes", "true", "t", "y", "1", "on")
FALSE: Final = ("no", "false", "f", "n", "0", "off")


class Kind(Protocol):
    """A kind of value."""

    def read(self, name: str, value: object) -> object:
        """The value of the argument ``name`` as it is kept.

        Raises:
            InputError: it is not of this kind; the message names the argument.
        """


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number that is at least ``least``; ``none``: or None."""

    least: int | None = None
    none: bool = False
    most: int | None = None

    def read(self, name: str, value: object) -> int | None:
        """A whole number; a text and a float are one if they stand for one."""
        if value is None and self.none:
            return None
        number = _number(name, value, "a whole number")
        if number != int(number):
            raise _wrong(name, value, "a whole number")
        whole = int(number)
        if (self.least is not None and whole < self.least) or (self.most is not None and whole > self.most):
            upper = "" if self.most is None else f" and at most {self.most}"
            raise _wrong(name, value, f"a whole number, at least {self.least}{upper}")
        return whole


@dataclass(frozen=True, slots=True)
class Number:
    """A number from ``least`` up to, and not reaching, ``below``; ``none``: or None; ``infinite``: or infinity."""

    least: float | None = None
    below: float | None = None
    none: bool = False
    infinite: bool = False

    def read(self, name: str, value: object) -> float | None:
        """A number; whole ones stay whole."""
        if value is None and self.none:
            return None
        if self.infinite and value == math.inf:
            return math.inf
        number = _number(name, value, "a number")
        if self.least is not None and number < self.least:
            raise _wrong(name, value, f"a number, at least {self.least:g}")
        if self.below is not None and number >= self.below:
            raise _wrong(name, value, f"a number below {self.below:g}")
        return number


@dataclass(frozen=True, slots=True)
class Flag:
    """True or False. (None says nothing, and stays.)"""

    def read(self, name: str, value: object) -> bool | None:
        """A truth value; the words of command lines are read too."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            word = value.strip().lower()
            if word in TRUE or word in FALSE:
                return word in TRUE
        if isinstance(value, numbers.Integral) and value in (0, 1):
            return bool(value)
        if type(value).__name__ in ("bool_", "bool"):  # NumPy's
            return bool(value)
        raise _wrong(name, value, "True or False")


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a class of words."""

    choices: type[StrEnum]

    def read(self, name: str, value: object) -> StrEnum:
        """The word, whether it is given as such or as a text."""
        try:
            return self.choices(cast(str, value))
        except InputError as error:
            raise InputError(error.message, where=name, expected=error.expected, remedy=error.remedy) from None


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few texts; ``none``: or None."""

    texts: tuple[str, ...]
    none: bool = False

    def read(self, name: str, value: object) -> str | None:
        """That text."""
        if value is None and self.none:
            return None
        if not isinstance(value, str) or value not in self.texts:
            remedy = nearest(value, self.texts) if isinstance(value, str) else None
            raise InputError(
                "cannot be this", where=name, expected=f"one of {listed(self.texts)}", found=brief(value), remedy=remedy
            )
        return str(value)


@dataclass(frozen=True, slots=True)
class Text:
    """A text or a path; or None."""

    def read(self, name: str, value: object) -> str | None:
        """The text."""
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, Path):
            return str(value)
        raise _wrong(name, value, "a text")


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of texts; or None."""

    def read(self, name: str, value: object) -> list[str] | None:
        """The list; one text is a list of one."""
        if value is None:
            return None
        if isinstance(value, str):
            return [value]
        if isinstance(value, Sequence) and all(isinstance(one, str) for one in value):
            return [str(one) for one in value] if not isinstance(value, list) else value
        raise _wrong(name, value, "a list of texts")


@dataclass(frozen=True, slots=True)
class Anything:
    """Read elsewhere; or by ``reader``."""

    reader: Callable[[str, object], object] | None = None

    def read(self, name: str, value: object) -> object:
        """The value, as the reader makes it."""
        return value if self.reader is None else self.reader(name, value)


def _number(name: str, value: object, expected: str) -> int | float:
    if isinstance(value, str):
        try:
            number: int | float = float(value) if not value.strip().lstrip("+-").isdigit() else int(value)
        except ValueError:
            raise _wrong(name, value, expected) from None
    elif isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise _wrong(name, value, expected)
    elif isinstance(value, numbers.Integral):
        number = int(value)
    else:
        number = float(value)
    if not is_finite(number):
        raise _wrong(name, value, expected)
    return number


def _wrong(name: str, value: object, expected: str) -> InputError:
    return InputError("cannot be this", where=name, expected=expected, found=brief(value))
