"""How families turn a size from a file into the size of a resized picture, where they have a way of their own.

As in :mod:`omniform.inputs.images.sizes` the arithmetic is the reference's, to the last truncation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from omniform.core.errors import InputError
from omniform.inputs.images.sizes import EdgeRange, Exact, LongestEdge, ShortestEdge, Size, size_entries


class Target(Protocol):
    """The new ``(height, width)`` of a picture of a height and a width."""

    def target(self, height: int, width: int) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True)
class RoundedDown:
    """What another makes of a picture, less what no multiple of ``step`` fills (YOLOS)."""

    inner: Target
    step: int

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The new ``(height, width)`` of a picture of this height and width."""
        height, width = self.inner.target(height, width)
        return height - height % self.step, width - width % self.step


@dataclass(frozen=True, slots=True)
class RoundedUp:
    """What another makes of a picture, up to the next multiples of ``step`` (MaskFormer)."""

    inner: Target
    step: int

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The new ``(height, width)`` of a picture of this height and width."""
        height, width = self.inner.target(height, width)
        return math.ceil(height / self.step) * self.step, math.ceil(width / self.step) * self.step


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The picture's own size."""

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The same ``(height, width)``."""
        return height, width


@dataclass(frozen=True, slots=True)
class Multiple:
    """Height and width as multiples of ``step`` near those of the size (DPT, ZoeDepth).

    Attributes:
        size: what is asked for.
        keep_aspect_ratio: scale both edges alike, by the factor of the one that changes least.
        step: what both are multiples of; ZoeDepth's default is a fraction.
    """

    size: Exact
    keep_aspect_ratio: bool
    step: float

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The new ``(height, width)`` of a picture of this height and width."""
        tall, wide = self.size.height / height, self.size.width / width
        if self.keep_aspect_ratio:
            tall = wide = wide if abs(1 - wide) < abs(1 - tall) else tall
        return self._nearest(tall * height), self._nearest(wide * width)

    def _nearest(self, length: float) -> int:
        return int(round(length / self.step) * self.step)


@dataclass(frozen=True, slots=True)
class Longest:
    """The longer edge gets a length, the shape is kept, both are rounded to the nearest pixel (SAM)."""

    longest_edge: int

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The new ``(height, width)`` of a picture of this height and width."""
        scale = self.longest_edge * 1.0 / max(height, width)
        return int(height * scale + 0.5), int(width * scale + 0.5)


@dataclass(frozen=True, slots=True)
class CocoEdges:
    """The shorter edge gets a length, the longer one at most 1333/800 of it, and both become multiples (ViLT).

    Attributes:
        shorter: the length.
        step: what both are multiples of; None where any number will do.
    """

    shorter: int
    step: int | None

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The new ``(height, width)`` of a picture of this height and width."""
        longer = int(1333 / 800 * self.shorter)
        scale = self.shorter / min(height, width)
        tall, wide = (self.shorter, scale * width) if height < width else (scale * height, self.shorter)
        if max(tall, wide) > longer:
            scale = longer / max(tall, wide)
            tall, wide = scale * tall, scale * wide
        step = self.step or 1
        return int(tall + 0.5) // step * step, int(wide + 0.5) // step * step


def enlarged(size: Size, factor: float) -> Size:
    """A size for the shorter edge, divided by the share that a crop leaves of it (PoolFormer)."""
    if not isinstance(size, Exact):
        return ShortestEdge(int(shortest(size) / factor))
    if size.height == size.width:
        return ShortestEdge(int(size.height / factor))
    return Exact(int(size.height / factor), int(size.width / factor))


def shortest(size: Size) -> int:
    """The length of the shorter edge, whatever is said of the longer one.

    Raises:
        InputError: nothing is said of it.
    """
    if not isinstance(size, (ShortestEdge, EdgeRange)):
        raise unusable(size, "shortest_edge")
    return size.shortest_edge


def longest(size: Size) -> Longest:
    """A size for the longer edge, whatever is said of the shorter one.

    Raises:
        InputError: nothing is said of it.
    """
    if not isinstance(size, (LongestEdge, EdgeRange)):
        raise unusable(size, "longest_edge")
    return Longest(size.longest_edge)


def bounded(size: Size) -> Size:
    """A size that DETR and its kin can resize to: not one of a shorter edge alone.

    Raises:
        InputError: it is such a one.
    """
    if isinstance(size, ShortestEdge):
        raise unusable(size, "height and width, shortest_edge and longest_edge, or max_height and max_width")
    return size


def stepped(size: Size, step: int) -> Target:
    """YOLOS': sizes of edges are rounded down, exact ones stay."""
    return RoundedDown(size, step) if isinstance(size, EdgeRange) else bounded(size)


def unusable(size: Size, expected: str) -> InputError:
    """The error for a size of a form that a processor has no use for."""
    return InputError(
        "this processor cannot resize to a size of this form", where="size", expected=expected, found=size_entries(size)
    )


def depth_border(height: float, width: float) -> tuple[int, int]:
    """ZoeDepth's border above and left of a picture of a size, in pixels: 3 times the root of half its edges."""
    return int(np.sqrt(height / 2) * 3), int(np.sqrt(width / 2) * 3)
