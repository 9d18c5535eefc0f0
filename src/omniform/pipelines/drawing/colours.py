"""Colours of classes: the same class has the same colour in every picture, and neighbours differ as far as can be.

Differences are distances in OKLab (https://bottosson.github.io/posts/oklab/), where equal steps look equal.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

RGB: TypeAlias = tuple[int, int, int]
"""Red, green, blue, each from 0 to 255."""

Numbers: TypeAlias = npt.NDArray[np.float64]

BLACK: Final[RGB] = (0, 0, 0)
WHITE: Final[RGB] = (255, 255, 255)
GROUND: Final[RGB] = (24, 26, 31)
"""What stands behind legends."""
INK: Final[RGB] = (236, 238, 242)
"""Text on :data:`GROUND`."""
FAINT: Final[RGB] = (150, 155, 165)
"""Text and lines on :data:`GROUND` that matter less."""

MOST: Final = 256
"""So many colours are made; classes beyond share them."""

_FIRST: Final[RGB] = (0, 135, 255)
_STEPS: Final = 18


def colour_of(label: str, classes: Mapping[int, str]) -> RGB:
    """A class's colour: by its index among the model's classes, or by its name where they do not name it."""
    index = next((at for at, name in classes.items() if name == label), None)
    return colour(zlib.crc32(label.encode()) if index is None else index)


def colour(index: int) -> RGB:
    """The colour of a number: the first few are far from one another, and all are far from black, white and grey."""
    return _palette()[index % MOST]


def shade(rgb: RGB, turn: int) -> RGB:
    """The same colour for another object of a class: as it is, lighter, darker, and so on."""
    step = (0.0, 0.35, -0.3, 0.6, -0.5)[turn % 5]
    target = 255 if step > 0 else 0
    red, green, blue = (round(part + abs(step) * (target - part)) for part in rgb)
    return red, green, blue


def luminance(rgb: RGB) -> float:
    """How bright a colour is, from 0 to 1 (relative luminance, WCAG 2)."""
    red, green, blue = (float(part) for part in _linear(np.array(rgb, dtype=np.float64)))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: RGB, other: RGB) -> float:
    """How far two colours are apart for a reader, from 1 to 21 (contrast ratio, WCAG 2)."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def ink_on(rgb: RGB) -> RGB:
    """Black or white, whichever is read better on a colour."""
    return max((BLACK, WHITE), key=lambda ink: contrast(ink, rgb))


@cache
def heat() -> npt.NDArray[np.uint8]:
    """A scale of colours, dark to light in even steps: indigo, violet, red, orange, pale yellow. Shape: [256, 3]."""
    stops = np.array([(16, 12, 60), (92, 24, 122), (190, 48, 92), (243, 120, 44), (252, 245, 170)], dtype=np.float64)
    places = np.linspace(0, 1, len(stops))
    lab = _oklab(stops)
    lab[:, 0] = np.linspace(lab[0, 0], lab[-1, 0], len(stops))  # evenly from dark to light
    even = np.stack([np.interp(np.linspace(0, 1, 256), places, lab[:, axis]) for axis in range(3)], axis=1)
    return _rgb(even)


@cache
def _palette() -> list[RGB]:
    """Colours, each of them as far from all before it (and from greys) as any candidate is."""
    ramp = np.linspace(0, 255, _STEPS)
    candidates = np.stack(np.meshgrid(ramp, ramp, ramp), axis=-1).reshape(-1, 3)
    lab = _oklab(candidates)
    vivid = (np.hypot(lab[:, 1], lab[:, 2]) > 0.1) & (lab[:, 0] > 0.5) & (lab[:, 0] < 0.9)
    candidates, lab = candidates[vivid], lab[vivid]
    greys = _oklab(np.repeat(np.linspace(0, 255, 6)[:, None], 3, axis=1))
    nearest = np.min(np.linalg.norm(lab[:, None] - greys[None], axis=-1), axis=1)
    found = [np.array(_FIRST, dtype=np.float64)]
    while len(found) < MOST:
        nearest = np.minimum(nearest, np.linalg.norm(lab - _oklab(found[-1][None]), axis=-1))
        found.append(candidates[int(nearest.argmax())])
    return [(round(float(r)), round(float(g)), round(float(b))) for r, g, b in found]


def _linear(rgb: Numbers) -> Numbers:
    parts = rgb / 255
    found: Numbers = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return found


_TO_CONES = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929],
     [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
_TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468],
     [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


def _oklab(rgb: Numbers) -> Numbers:
    """Colours in OKLab. Shape: [N, 3] both."""
    found: Numbers = np.cbrt(_linear(rgb) @ _TO_CONES.T) @ _TO_LAB.T
    return found


def _rgb(lab: Numbers) -> npt.NDArray[np.uint8]:
    linear = ((lab @ np.linalg.inv(_TO_LAB).T) ** 3) @ np.linalg.inv(_TO_CONES).T
    linear = linear.clip(0, 1)
    parts = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (parts * 255).round().astype(np.uint8)
