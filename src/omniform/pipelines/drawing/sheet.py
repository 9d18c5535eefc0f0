"""A contact sheet: small pictures side by side, and under each of them what is to be said of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw

from omniform.pipelines.drawing.colours import FAINT, GROUND, INK
from omniform.pipelines.drawing.texts import fitted, line

SIDE: Final = 192
"""Pixels of the square that a picture is fitted into."""

_TEXT: Final = 14
_GAP: Final = 10
MOST_WIDE: Final = 6
"""So many pictures stand side by side at most."""


@dataclass(frozen=True, slots=True)
class Print:
    """A picture of the sheet.

    Attributes:
        image: the picture; None where it cannot be shown.
        name: what it is called; shortened where it is too long.
        note: what stands before the name, and is never shortened.
    """

    image: Image.Image | None
    name: str
    note: str = ""


def draw_sheet(title: str, prints: Iterable[Print]) -> Image.Image:
    """Pictures in rows, in their order, below a title."""
    cells = [_cell(one) for one in prints]
    columns = min(MOST_WIDE, max(1, math.ceil(math.sqrt(len(cells)))))
    rows = math.ceil(len(cells) / columns)
    head = round(1.6 * line("X", _TEXT + 4).height)
    high = max((cell.height for cell in cells), default=0)
    width = max(columns * (SIDE + _GAP) + _GAP, 2 * SIDE)
    sheet = Image.new("RGB", (width, head + _GAP + rows * (high + _GAP)), GROUND)
    draw = ImageDraw.Draw(sheet)
    fitted(title, _TEXT + 4, width - 2 * _GAP).draw(draw, _GAP, _GAP // 2, INK)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        sheet.paste(cell, (_GAP + column * (SIDE + _GAP), head + row * (high + _GAP)))
    return sheet


def _cell(one: Print) -> Image.Image:
    """One picture, in the middle of its square, and its line."""
    text = fitted(f"{one.note} {one.name}".strip(), _TEXT, SIDE)
    cell = Image.new("RGB", (SIDE, SIDE + _GAP // 2 + text.height), GROUND)
    draw = ImageDraw.Draw(cell)
    draw.rectangle((0, 0, SIDE - 1, SIDE - 1), outline=FAINT)
    if one.image is not None:
        shown = one.image.convert("RGB")
        factor = (SIDE - 2) / max(shown.size)
        size = max(1, round(shown.width * factor)), max(1, round(shown.height * factor))
        way = Image.Resampling.NEAREST if max(shown.size) <= 48 else Image.Resampling.BICUBIC
        shown = shown.resize(size, way, reducing_gap=2.0)
        cell.paste(shown, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    text.draw(draw, 0, SIDE + _GAP // 2, INK)
    return cell
