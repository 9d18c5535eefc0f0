"""The forms in which a processor's file states a size, and the size in pixels that each makes of a picture.

The arithmetic (where it truncates, where it rounds, in which order it divides) is the reference's: one pixel more or
less would shift every patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final, TypeAlias

from omniform.core.errors import InputError

MAX_EDGE: Final = 65_536
"""The longest edge, in pixels, that a size may ask for."""


@dataclass(frozen=True, slots=True)
class Exact:
    """``{"height", "width"}``: that size, whatever the picture's shape."""

    height: int
    width: int

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The new ``(height, width)`` of a picture of this height and width."""
        return self.height, self.width


@dataclass(frozen=True, slots=True)
class ShortestEdge:
    """``{"shortest_edge"}``: the shorter edge gets that length, the shape is kept."""

    shortest_edge: int

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The new ``(height, width)`` of a picture of this height and width."""
        edge = self.shortest_edge
        if width <= height:
            return int(edge * height / width), edge
        return edge, int(edge * width / height)


@dataclass(frozen=True, slots=True)
class EdgeRange:
    """``{"shortest_edge", "longest_edge"}``: as :class:`ShortestEdge`, or less, so that the longer edge fits too."""

    shortest_edge: int
    longest_edge: int

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The new ``(height, width)`` of a picture of this height and width."""
        short, long = float(min(height, width)), float(max(height, width))
        edge: int = self.shortest_edge
        exact: float = edge
        if long / short * edge > self.longest_edge:
            exact = self.longest_edge * short / long
            edge = round(exact)
        if min(height, width) == edge:
            return height, width
        if width < height:
            return int(exact * height / width), edge
        return edge, int(exact * width / height)


@dataclass(frozen=True, slots=True)
class Within:
    """``{"max_height", "max_width"}``: as large as fits that frame, the shape is kept; small pictures grow."""

    max_height: int
    max_width: int

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The new ``(height, width)`` of a picture of this height and width."""
        scale = min(self.max_height / height, self.max_width / width)
        return int(height * scale), int(width * scale)


@dataclass(frozen=True, slots=True)
class LongestEdge:
    """``{"longest_edge"}``: a form that files may hold and none of these processors can resize to."""

    longest_edge: int

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Always refuses."""
        raise _unusable(self)


@dataclass(frozen=True, slots=True)
class PixelRange:
    """``{"min_pixels", "max_pixels"}``: a form that files may hold and none of these processors can resize to."""

    min_pixels: int
    max_pixels: int

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Always refuses."""
        raise _unusable(self)


Size: TypeAlias = Exact | ShortestEdge | EdgeRange | Within | LongestEdge | PixelRange

_FORMS: Final = (Exact, ShortestEdge, EdgeRange, Within, LongestEdge, PixelRange)
_BY_KEYS: Final = {frozenset(field.name for field in fields(form)): form for form in _FORMS}
FORMS_TEXT: Final = (
    "a length, [height, width], or an object with "
    + " or ".join("{" + ", ".join(field.name for field in fields(form)) + "}" for form in _FORMS)
    + f", of whole numbers from 1 to {MAX_EDGE}"
)
"""What a size may be written as, for error messages."""


def size_entries(size: Size) -> dict[str, int]:
    """The size as a file states it: ``{"height": 224, "width": 224}``."""
    return {field.name: getattr(size, field.name) for field in fields(size)}


def parse_size(value: object, *, square: bool, longest_edge: int | None = None) -> Size:
    """Read a size in any of its forms.

    Args:
        value: a length, a pair ``[height, width]``, an object, or a size.
        square: whether a bare length means both edges, or the shorter one.
        longest_edge: the bound that goes with a bare length for the shorter edge (``max_size`` of old files).

    Raises:
        ValueError: it is none of these; the caller knows where it stands.
    """
    if isinstance(value, _FORMS):
        return value
    if isinstance(value, Mapping):
        # Newer files write every form's keys, and null in those that are not meant.
        entries = {name: number for name, number in value.items() if number is not None}
        form = _BY_KEYS.get(frozenset(entries))
        if form is None:
            raise ValueError("keys")
        bound = MAX_EDGE**2 if form is PixelRange else MAX_EDGE
        return form(**{name: _length(number, bound) for name, number in entries.items()})
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise ValueError("not a pair")
        return Exact(_length(value[0]), _length(value[1]))
    edge = _length(value)
    if square:
        return Exact(edge, edge)
    return ShortestEdge(edge) if longest_edge is None else EdgeRange(edge, longest_edge)


def exact(size: Size | None, where: str) -> Exact:
    """The size as height and width, which cropping and padding need.

    Raises:
        InputError: it has another form, or there is none.
    """
    if isinstance(size, Exact):
        return size
    found = None if size is None else size_entries(size)
    raise InputError("this needs a height and a width", where=where, expected="{height, width}", found=found)


def _length(value: object, bound: int = MAX_EDGE) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= bound:
        raise ValueError("length")
    return value


def _unusable(size: LongestEdge | PixelRange) -> InputError:
    return InputError(
        "this processor cannot resize to a size of this form",
        where="size",
        expected="height and width, shortest_edge (and longest_edge), or max_height and max_width",
        found=size_entries(size),
    )
