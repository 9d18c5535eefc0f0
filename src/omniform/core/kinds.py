"""Kinds of values that settings take, and how what the ecosystem passes (tensors, arrays, their scalars) is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.core.numbers import is_finite

LARGEST = 2**53
"""No whole number is larger: beyond it, JSON's numbers are no longer exact."""


class PerRow(tuple[object, ...]):
    """One value for each row of a call."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The values that a setting takes.

    Attributes:
        expected: what they are, in words.
        read: makes the typed value of a plain one; raises ValueError or TypeError where it is of another kind.
        fits: whether a value of the kind is in range, which is asked only where the setting acts.
    """

    expected: str
    read: Callable[[object], object]
    fits: Callable[[object], bool] = lambda value: True


def plain(value: object) -> object:
    """A value as JSON would hold it: tensors, arrays and their scalars as numbers and lists, sets as sorted lists.

    What is none of these stays as it is.

    Raises:
        InputError: a tensor that has no values, or that is too large to be a setting.
    """
    if isinstance(value, (Tensor, np.ndarray)):
        if isinstance(value, Tensor) and value.is_meta:
            raise InputError("a tensor without values is no setting", found=f"a meta tensor of shape {[*value.shape]}")
        if math.prod(value.shape) > _MOST_VALUES:
            raise InputError("this is no setting", expected="a few values", found=f"{math.prod(value.shape)} of them")
        dense = value.to_dense() if isinstance(value, Tensor) and value.layout is not torch.strided else value
        made: object = dense.tolist()
        return made
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {k if isinstance(k, (str, tuple)) else plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(v) for v in value)
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(v) for v in value), key=repr)
    return value


_MOST_VALUES: Final = 2**22


def switch(name: str, value: object) -> bool:
    """A value as true or false, as Python sees it.

    Raises:
        InputError: it is neither: a tensor of several numbers.
    """
    try:
        return bool(value)
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        raise InputError(
            "this is neither true nor false", where=name, expected="True or False", found=brief(value)
        ) from None


def _alone(value: object) -> object:
    """The value of a list of one, as a tensor of one element reads."""
    while isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    return value


def _as_whole(value: object) -> int:
    value = _alone(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    return value


def _as_number(value: object) -> float:
    value = _alone(value)
    if not is_finite(value):
        raise ValueError
    return float(value)


def _as_flag(value: object) -> bool:
    value = _alone(value)
    if not isinstance(value, bool):
        raise ValueError
    return value


def _as_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _as_ids(value: object) -> tuple[int, ...]:
    ids = value if isinstance(value, (list, tuple)) else (value,)
    found = tuple(_as_whole(i) for i in ids)
    if any(not -1 <= i <= LARGEST for i in found):
        raise ValueError
    return tuple(i for i in found if i >= 0)  # some published files hold -1 for "no such token"


def _as_run(value: object) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError
    run = tuple(_as_whole(i) for i in value)
    if any(not 0 <= i <= LARGEST for i in run):
        raise ValueError
    return run


def as_runs(value: object) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError
    return tuple(_as_run(run) for run in value)


def as_words(value: object) -> tuple[tuple[int, ...] | tuple[tuple[int, ...], ...], ...]:
    """Runs of tokens, and lists of runs of which any one will do."""
    if not isinstance(value, (list, tuple)):
        raise ValueError
    several = [isinstance(word, (list, tuple)) and bool(word) and isinstance(word[0], (list, tuple)) for word in value]
    return tuple(as_runs(word) if many else _as_run(word) for word, many in zip(value, several, strict=True))


def as_layers(value: object) -> str | tuple[int, ...]:
    """A group of layers by name, or their numbers."""
    if isinstance(value, str):
        if value not in ("low", "high"):
            raise ValueError
        return value
    return _as_run(value)


def as_biases(value: object) -> tuple[tuple[tuple[int, ...], float], ...]:
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, (list, tuple)):
        raise ValueError
    found: dict[tuple[int, ...], float] = {}
    for run, bias in pairs:
        # Said twice of one run, the last counts, as in the ecosystem. Minus infinity is a ban.
        never = isinstance(bias, float) and bias == -math.inf
        found[_as_run(run)] = -math.inf if never else _as_number(bias)
    return tuple(found.items())


def as_decay(value: object) -> tuple[int, float]:
    if not isinstance(value, (list, tuple)):
        raise ValueError
    start, factor = value
    whole, number = _as_whole(start), _as_number(factor)
    if number <= 0 or abs(whole) > LARGEST:
        raise ValueError
    return whole, number


def _as_texts(value: object) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(t, str) and t for t in texts):
        raise ValueError
    return tuple(texts)


def as_early_stopping(value: object) -> bool | str:
    value = _alone(value)
    if not isinstance(value, bool) and value != "never":
        raise ValueError
    return value if isinstance(value, bool) else "never"


def as_schedule(value: object) -> str:
    """How the number of guesses goes on from one to the next."""
    if value in ("constant", "heuristic", "heuristic_transient"):
        return str(value)
    raise ValueError


def as_mapping(value: object) -> dict[str, object]:
    """Settings of something by name."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise TypeError
    return dict(value)


def one_of(*names: str) -> Kind:
    """One of a few names."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError
        return value

    return Kind(", ".join(map(repr, names)), read)


def whole(least: int, most: int = LARGEST) -> Kind:
    """Whole numbers from ``least`` on."""
    return Kind(
        f"a whole number from {least}" if most == LARGEST else f"a whole number from {least} to {most}",
        _as_whole,
        lambda value: isinstance(value, int) and least <= value <= most,
    )


def number(expected: str, fits: Callable[[float], bool]) -> Kind:
    """Finite numbers in a range, which ``expected`` says in words."""
    return Kind(expected, _as_number, lambda value: isinstance(value, float) and fits(value))


FLAG: Final = Kind("true or false", _as_flag)
TEXT: Final = Kind("a text", _as_text)
TEXTS: Final = Kind("a text or a list of texts, none of them empty", _as_texts)
ANYTHING: Final = Kind("anything", lambda value: value)
IDS: Final = Kind("a token id or a list of them", _as_ids)
NUMBER: Final = number("a finite number", lambda v: True)
POSITIVE: Final = number("a number > 0", lambda v: v > 0)
