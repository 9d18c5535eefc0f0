"""Vectors of fewer bits: a byte for each number, or one bit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from omniform.core.errors import InputError, nearest

log = logging.getLogger("omniform")

Numbers = npt.NDArray[np.floating]
Array = npt.NDArray[np.generic]

FEW: Final = 100
"""Ranges that are taken from fewer vectors are said to be rough."""


def _bytes(vectors: Numbers) -> npt.NDArray[np.uint8]:
    """Each number's place between the least and the greatest of its column, from 0 to 255."""
    if len(vectors) < 2:
        raise InputError(
            "the ranges of bytes are those of many vectors",
            where="precision",
            expected="two texts at least",
            found=f"{len(vectors)}",
            remedy="Embed many texts at once, or ask for 'binary', which needs no ranges.",
        )
    if len(vectors) < FEW:
        log.warning("bytes in ranges that %d vectors span: of %d or more they are steadier", len(vectors), FEW)
    low, high = vectors.min(0).astype(np.float32), vectors.max(0).astype(np.float32)
    steps = (high - low) / 255
    steps = np.where(steps == 0, 1, steps)
    places: npt.NDArray[np.uint8] = np.clip(np.floor((vectors - low) / steps), 0, 255).astype(np.uint8)
    return places


def _signed(vectors: Numbers) -> Array:
    return (_bytes(vectors).astype(np.int16) - 128).astype(np.int8)


def _bits(vectors: Numbers) -> Array:
    return np.packbits(vectors > 0, axis=-1)


def _signed_bits(vectors: Numbers) -> Array:
    return (_bits(vectors).astype(np.int16) - 128).astype(np.int8)


PRECISIONS: Final[Mapping[str, Callable[[Numbers], Array]]] = {
    "float32": lambda vectors: vectors,
    "int8": _signed,
    "uint8": _bytes,
    "binary": _signed_bits,
    "ubinary": _bits,
}
"""What each makes of vectors ``[N, D]``: ``[N, D]`` bytes, or one bit for each number, ``[N, D / 8]``."""


def check_precision(name: object) -> str:
    """The name of a precision.

    Raises:
        InputError: there is none of this name.
    """
    if name is None:
        return "float32"
    if not isinstance(name, str) or name not in PRECISIONS:
        raise InputError(
            "no such precision", where="precision", found=repr(name), remedy=nearest(str(name), PRECISIONS)
        )
    return name
