"""What is drawn on: a copy of the picture, large enough to write on, and panels of text beneath or beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw

from omniform.pipelines.drawing.colours import FAINT, GROUND, INK, RGB, ink_on
from omniform.pipelines.drawing.texts import fitted, line

LEAST_LONG: Final = 512
"""Pictures whose longer side is under about this many pixels are enlarged."""
MOST_LONG: Final = 4096
"""Larger pictures are drawn on reduced to this."""
LEAST_SIDE: Final = 160
"""A side that is shorter, even so, gets margins."""
LEAST_TEXT: Final = 13
"""Letters are never smaller, in pixels."""
MOST_ENTRIES: Final = 120
"""So many entries a legend has at most; it says how many more there are."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; the last two are no longer part of it."""


@dataclass(slots=True)
class Canvas:
    """A picture that is drawn on.

    Attributes:
        image: its copy, in RGB.
        factor: how many times as large it is.
        left, top: where the picture begins in it.
        inner: the picture's size in it.
    """

    image: Image.Image
    factor: float
    left: int
    top: int
    inner: tuple[int, int]

    @classmethod
    def of(cls, picture: Image.Image) -> Canvas:
        """A canvas for a picture."""
        longest = max(picture.size)
        factor = min(float(max(1, round(LEAST_LONG / longest))), MOST_LONG / longest)
        if factor != 1:
            size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
            way = Image.Resampling.NEAREST if longest <= 64 else Image.Resampling.BICUBIC
            # Reduced in its own mode: a large picture is not held twice.
            picture = picture.resize(size, way, reducing_gap=2.0)
        picture = picture.convert("RGB") if picture.mode != "RGB" else picture
        width, height = max(picture.width, LEAST_SIDE), max(picture.height, LEAST_SIDE)
        left, top = (width - picture.width) // 2, (height - picture.height) // 2
        if (width, height) == picture.size:
            image = picture if factor != 1 else picture.copy()
        else:
            image = Image.new("RGB", (width, height), GROUND)
            image.paste(picture, (left, top))
        return cls(image, factor, left, top, picture.size)

    @property
    def text(self) -> int:
        """The size of letters, by the picture's extent."""
        extent = min(math.sqrt(self.image.width * self.image.height), 4 * min(self.image.size))
        return max(LEAST_TEXT, round(extent / 36))

    @property
    def stroke(self) -> int:
        """The width of lines."""
        return max(2, round(self.text / 6))

    def placed(self, box: Sequence[float]) -> Box:
        """A box of the picture on the canvas, whatever lies outside cut off."""
        left, top, right, bottom = (value * self.factor for value in box)
        width, height = self.inner
        x = sorted((min(max(left, 0), width), min(max(right, 0), width)))
        y = sorted((min(max(top, 0), height), min(max(bottom, 0), height)))
        return self.left + round(x[0]), self.top + round(y[0]), self.left + round(x[1]), self.top + round(y[1])


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a legend.

    Attributes:
        colour: its patch.
        text: what it is.
        end: what stands behind it and is never shortened.
        mark: what stands in the patch.
        share: a bar's length, from 0 to 1; None for no bar.
    """

    colour: RGB
    text: str
    end: str = ""
    mark: str = ""
    share: float | None = None


def with_legend(image: Image.Image, entries: Sequence[Entry], size: int, *, nothing: str) -> Image.Image:
    """A picture with a legend beneath, in as many columns as fit.

    Args:
        size: of the letters.
        nothing: what is written where there is no entry.
    """
    shown = list(entries[:MOST_ENTRIES])
    more = len(entries) - len(shown)
    note = nothing if not entries else f"and {more} more" if more else ""
    pad, patch = max(6, size // 2), round(size * 1.25)
    patch = max([patch, *(line(entry.mark, size).width + size // 2 for entry in shown if entry.mark)])
    row = round(size * 1.9)
    texts = [line(entry.text + entry.end, size).width for entry in shown]
    column = min(image.width - 2 * pad, patch + size // 2 + max(texts, default=0) + 2 * size)
    columns = max(1, min((image.width - 2 * pad) // max(column, 1), len(shown)))
    column = (image.width - 2 * pad) // columns
    rows = math.ceil(len(shown) / columns)
    height = 2 * pad + row * (rows + (1 if note else 0))
    whole = Image.new("RGB", (image.width, image.height + height), GROUND)
    whole.paste(image, (0, 0))
    draw = ImageDraw.Draw(whole)
    for number, entry in enumerate(shown):
        left = pad + (number // rows) * column
        top = image.height + pad + (number % rows) * row
        _patch(draw, (left, top, left + patch, top + round(size * 1.25)), entry, size)
        room = column - patch - size // 2 - size
        written = fitted(entry.text, size, room, entry.end)
        written.draw(draw, left + patch + size // 2, top + (round(size * 1.25) - written.height) // 2, INK)
    if note:
        fitted(note, size, image.width - 2 * pad).draw(draw, pad, image.height + pad + rows * row, FAINT)
    return whole


def _patch(draw: ImageDraw.ImageDraw, box: Box, entry: Entry, size: int) -> None:
    left, top, right, bottom = box
    draw.rectangle((left, top, right - 1, bottom - 1), fill=entry.colour, outline=FAINT)
    if entry.mark:
        mark = line(entry.mark, size)
        x, y = left + (right - left - mark.width) // 2, top + (bottom - top - mark.height) // 2
        mark.draw(draw, x, y, ink_on(entry.colour))
