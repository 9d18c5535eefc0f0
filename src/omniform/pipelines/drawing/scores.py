"""Classes and their scores as bars beneath a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypedDict, cast

from PIL import Image, ImageDraw

from omniform.pipelines.drawing.canvas import MOST_ENTRIES, Canvas
from omniform.pipelines.drawing.colours import FAINT, GROUND, INK, colour_of
from omniform.pipelines.drawing.texts import fitted, line

_NONE: Mapping[int, str] = {}

TRACK: Final = (52, 56, 66)
"""What a full bar would cover."""


class Scored(TypedDict):
    """A class and its score."""

    label: str
    score: float


def draw_scores(picture: Image.Image, found: Sequence[object], *, classes: Mapping[int, str] = _NONE) -> Image.Image:
    """A picture, and beneath it a bar for each class.

    Args:
        found: classes and scores, as ``image-classification`` tells them (:class:`Scored`). Scores that are no shares
            from 0 to 1 are drawn beside the largest.
        classes: the model's classes, which give their colours.
    """
    canvas = Canvas.of(picture)
    shown = list(cast("Sequence[Scored]", found))[:MOST_ENTRIES]
    size, width = canvas.text, canvas.image.width
    pad, row = max(6, size // 2), round(size * 1.9)
    whole = Image.new("RGB", (width, canvas.image.height + 2 * pad + row * max(len(shown), 1)), GROUND)
    whole.paste(canvas.image, (0, 0))
    draw = ImageDraw.Draw(whole)
    numbers = [line(f"{one['score']:.3f}", size) for one in shown]
    full = max([1.0, *(abs(one["score"]) for one in shown)])
    number = max([size, *(written.width for written in numbers)])
    room = max(0, width - 2 * pad - number - size)
    label = min(room // 2, max([0, *(line(one["label"], size).width for one in shown)]))
    start, end = pad + label + size // 2, width - pad - number - size // 2
    for at, (one, written) in enumerate(zip(shown, numbers, strict=True)):
        top = canvas.image.height + pad + at * row + (row - written.height) // 2
        fitted(one["label"], size, label).draw(draw, pad, top, INK)
        written.draw(draw, width - pad - written.width, top, INK)
        if end - start < size:  # no room for bars
            continue
        bar = top + written.height // 2
        half = max(2, size // 3)
        draw.rectangle((start, bar - half, end, bar + half), fill=TRACK)
        reach = start + round((end - start) * abs(one["score"]) / full)
        if reach > start:
            draw.rectangle((start, bar - half, reach, bar + half), fill=colour_of(one["label"], classes))
    if not shown:
        fitted("no classes", size, width - 2 * pad).draw(draw, pad, canvas.image.height + pad, FAINT)
    return whole
