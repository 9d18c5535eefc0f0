"""Boxes with labels: each label at its box, none over another, none outside the picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypedDict, cast

import numpy as np
from PIL import Image, ImageDraw

from omniform.pipelines.drawing.canvas import MOST_ENTRIES, Box, Canvas, Entry, with_legend
from omniform.pipelines.drawing.colours import RGB, colour_of, shade
from omniform.pipelines.drawing.texts import Tag, fitted, halo_of, line

CROWDED: Final = 0.2
"""Where labels would cover a larger share of the picture, numbers stand for them, and a legend tells which is which."""

WIDEST: Final = 0.6
"""The share of the picture's width that a label takes at most."""

CONFUSED: Final = 0.3
"""Objects of a class whose boxes share more than this (intersection over union) are told apart by shades."""

_NONE: Mapping[int, str] = {}


class Found(TypedDict):
    """An object: how likely it is, its class, and its box in pixels: ``xmin``, ``ymin``, ``xmax``, ``ymax``."""

    score: float
    label: str
    box: Mapping[str, float]


def draw_boxes(picture: Image.Image, found: Sequence[object], *, classes: Mapping[int, str] = _NONE) -> Image.Image:
    """A picture with a labelled box around each object.

    Args:
        found: objects, as ``object-detection`` tells them (:class:`Found`).
        classes: the model's classes, which give their colours.
    """
    canvas = Canvas.of(picture)
    objects = sorted(cast("Sequence[Found]", found), key=lambda one: one["score"], reverse=True)
    boxes = [canvas.placed([one["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")]) for one in objects]
    colours = _colours([one["label"] for one in objects], boxes, classes)
    draw = ImageDraw.Draw(canvas.image)
    for at in sorted(range(len(boxes)), key=lambda at: _area(boxes[at]), reverse=True):  # small ones on top
        _frame(draw, boxes[at], colours[at], canvas)
    tags, numbered = _tags(canvas, objects, colours)
    _place(draw, canvas, tags[:MOST_ENTRIES], boxes[:MOST_ENTRIES])
    if not numbered and objects:
        return canvas.image
    entries = [
        Entry(colour, one["label"], f" {one['score']:.2f}", mark=str(number))
        for number, (one, colour) in enumerate(zip(objects, colours, strict=True), 1)
    ]
    return with_legend(canvas.image, entries, canvas.text, nothing="nothing found")


def _colours(labels: Sequence[str], boxes: Sequence[Box], classes: Mapping[int, str]) -> list[RGB]:
    """A colour for each object: its class's, in another shade where it lies over others of the class."""
    turns: list[int] = []
    for at, (label, box) in enumerate(zip(labels, boxes, strict=True)):
        alike = [turns[other] for other in range(at) if labels[other] == label and _is_over(boxes[other], box)]
        turns.append(next(turn for turn in range(len(alike) + 1) if turn not in alike))
    base = {label: colour_of(label, classes) for label in {*labels}}
    return [shade(base[label], turn) for label, turn in zip(labels, turns, strict=True)]


def _is_over(one: Box, other: Box) -> bool:
    """Whether two boxes share much of what either covers."""
    shared = overlap(one, other)
    return shared > CONFUSED * (_area(one) + _area(other) - shared)


def _tags(canvas: Canvas, objects: Sequence[Found], colours: Sequence[RGB]) -> tuple[list[Tag], bool]:
    """The labels, and whether they are numbers."""
    size, inset = canvas.text, max(2, canvas.text // 5)
    widest = max(round(WIDEST * canvas.image.width), min(canvas.image.width - 2 * inset - 2, 10 * size))
    lines = [fitted(one["label"], size, widest, f" {one['score']:.2f}") for one in objects]
    tags = [Tag(text, colour, inset) for text, colour in zip(lines, colours, strict=True)]
    if sum(tag.width * tag.height for tag in tags) <= CROWDED * canvas.image.width * canvas.image.height:
        return tags, False
    if len(objects) <= 2:
        return tags, False
    size = max(10, round(size * 0.8))
    return [Tag(line(str(number), size), colour, inset) for number, colour in enumerate(colours, 1)], True


def _frame(draw: ImageDraw.ImageDraw, box: Box, colour: RGB, canvas: Canvas) -> None:
    """A box in its colour, with a thin line of the opposite lightness on both sides."""
    left, top, right, bottom = box[0], box[1], max(box[2], box[0] + 1) - 1, max(box[3], box[1] + 1) - 1
    stroke, thin = canvas.stroke, max(1, canvas.stroke // 3)
    halo = halo_of(colour)
    for inset, width, ink in ((-thin, thin, halo), (0, stroke, colour), (stroke, thin, halo)):
        corners = left + inset, top + inset, right - inset, bottom - inset
        if corners[0] <= corners[2] and corners[1] <= corners[3]:
            draw.rectangle(corners, outline=ink, width=width)


def _place(draw: ImageDraw.ImageDraw, canvas: Canvas, tags: Sequence[Tag], boxes: Sequence[Box]) -> None:
    """Draw the labels; one that stands elsewhere than at its box gets a line to it."""
    spots = places(canvas, tags, boxes)
    for tag, box, (spot, near) in zip(tags, boxes, spots, strict=True):
        if not near:
            _lead(draw, spot, box, tag.ground, canvas.stroke)
    for tag, (spot, _) in zip(tags, spots, strict=True):
        tag.draw(draw, spot[0], spot[1])


def places(canvas: Canvas, tags: Sequence[Tag], boxes: Sequence[Box]) -> list[tuple[Box, bool]]:
    """Where each label goes, and whether that is at its box; the first have the choice."""
    taken: list[Box] = []
    found = []
    for tag, box in zip(tags, boxes, strict=True):
        found.append(_spot(canvas, tag, box, taken))
        taken.append(found[-1][0])
    return found


def _spot(canvas: Canvas, tag: Tag, box: Box, taken: Sequence[Box]) -> tuple[Box, bool]:
    """Where a label goes, and whether that is at its box: the first free place, else the one that covers least."""
    nears, corners = zip(*_spots(canvas, tag, box), strict=True)
    room = max(canvas.image.width - tag.width, 0), max(canvas.image.height - tag.height, 0)
    starts = np.clip(np.array(corners), 0, room)
    spots = np.concatenate([starts, starts + np.array([tag.width, tag.height])], axis=1)
    others = np.array(taken, dtype=np.int64).reshape(1, -1, 4)
    shared = np.minimum(spots[:, None, 2:], others[..., 2:]) - np.maximum(spots[:, None, :2], others[..., :2])
    covered = shared.clip(0).prod(axis=-1).sum(axis=-1)
    best = int(covered.argmin())
    left, top, right, bottom = spots[best].tolist()
    return (left, top, right, bottom), nears[best]


def _spots(canvas: Canvas, tag: Tag, box: Box) -> Iterator[tuple[bool, tuple[int, int]]]:
    """Places for a label, the best first: on the box's upper edge, in it, beneath it, then farther and farther off."""
    left, top, right, bottom = box
    above, below, inside = top - tag.height, bottom, top
    for x in (left, right - tag.width):
        if above >= 0:
            yield True, (x, above)
        yield True, (x, inside)
        yield True, (x, bottom - tag.height)
        if below + tag.height <= canvas.image.height:
            yield True, (x, below)
    step = tag.height + 1
    for ring in range(1, 1 + max(canvas.image.height, canvas.image.width) // step):
        for across in (0, -1, 1):
            x = left + across * (tag.width + 1) * ((ring + 1) // 2)
            yield ring == 1 and not across, (x, inside + ring * step)
            yield ring == 1 and not across, (x, above - ring * step)
        if ring >= 40:
            return


def _lead(draw: ImageDraw.ImageDraw, spot: Box, box: Box, colour: RGB, stroke: int) -> None:
    """A line from a label to the nearest point of its box's frame."""
    middle = (spot[0] + spot[2]) // 2, (spot[1] + spot[3]) // 2
    x = min(max(middle[0], box[0]), box[2])
    y = box[1] if abs(middle[1] - box[1]) <= abs(middle[1] - box[3]) else box[3]
    thin = max(1, stroke // 2)
    draw.line((*middle, x, y), fill=halo_of(colour), width=thin + 2)
    draw.line((*middle, x, y), fill=colour, width=thin)


def overlap(one: Box, other: Box) -> int:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
