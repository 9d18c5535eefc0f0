"""Coloured masks with their outlines, a number in each, and a legend of what the colours and numbers are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, TypedDict, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from omniform.pipelines.drawing.boxes import overlap
from omniform.pipelines.drawing.canvas import Box, Canvas, Entry, with_legend
from omniform.pipelines.drawing.colours import RGB, colour_of, shade
from omniform.pipelines.drawing.texts import Tag, halo_of, line

STRENGTH: Final = 0.5
"""How much of a mask's colour covers the picture, from 0 to 1."""

COARSE: Final = 96
"""The middle of a mask is looked for on a map of so many pixels a side."""

_NONE: Mapping[int, str] = {}


class Masked(TypedDict):
    """A segment: how likely it is, its class, and its pixels: those over 127 of a picture of mode L."""

    score: float | None
    label: str
    mask: Image.Image


def draw_masks(picture: Image.Image, found: Sequence[object], *, classes: Mapping[int, str] = _NONE) -> Image.Image:
    """A picture with coloured segments, and beneath it what each is.

    Args:
        found: segments, as ``image-segmentation`` tells them (:class:`Masked`).
        classes: the model's classes, which give their colours.
    """
    canvas = Canvas.of(picture)
    segments = sorted(cast("Sequence[Masked]", found), key=lambda one: _share(one["mask"]), reverse=True)
    colours = _colours(segments, classes)
    plain = canvas.image.copy()
    middles: list[tuple[int, int] | None] = []
    for one, colour in zip(segments, colours, strict=True):
        mask = _on(canvas, one["mask"])
        middles.append(_middle(mask))
        _paint(canvas.image, plain, mask, colour, canvas.stroke)
    numbers = [str(number) for number in range(1, len(segments) + 1)]
    _mark(canvas, numbers, colours, middles)
    entries = [
        Entry(colour, one["label"], _end(one), mark=number)
        for one, colour, number in zip(segments, colours, numbers, strict=True)
    ]
    return with_legend(canvas.image, entries, canvas.text, nothing="nothing found")


def _end(one: Masked) -> str:
    share = _share(one["mask"])
    area = f"({share:.0%})" if share >= 0.01 else "(<1%)"
    return f" {area}" if one["score"] is None else f" {one['score']:.2f} {area}"


def _colours(segments: Sequence[Masked], classes: Mapping[int, str]) -> list[RGB]:
    """A colour for each: its class's, in other shades for further objects of the class."""
    seen: Counter[str] = Counter()
    found = []
    for one in segments:
        found.append(shade(colour_of(one["label"], classes), seen[one["label"]]))
        seen[one["label"]] += 1
    return found


def _share(mask: Image.Image) -> float:
    return sum(mask.convert("L").histogram()[128:]) / (mask.width * mask.height)


def _on(canvas: Canvas, mask: Image.Image) -> Image.Image:
    """A mask at its place on the canvas, 0 or 255."""
    mask = mask.convert("L")
    if mask.size != canvas.inner:
        mask = mask.resize(canvas.inner, Image.Resampling.NEAREST)
    mask = mask.point([0] * 128 + [255] * 128)
    if canvas.inner == canvas.image.size:
        return mask
    whole = Image.new("L", canvas.image.size)
    whole.paste(mask, (canvas.left, canvas.top))
    return whole


def _paint(image: Image.Image, plain: Image.Image, mask: Image.Image, colour: RGB, stroke: int) -> None:
    """Cover a mask's pixels half with a colour, and its edge wholly, with a thin line of the opposite lightness."""
    box = mask.getbbox()
    if box is None:
        return
    margin = stroke + 2  # what lies around the mask, so that its edge is found; the picture's own edge is none
    box = (
        max(box[0] - margin, 0),
        max(box[1] - margin, 0),
        min(box[2] + margin, image.width),
        min(box[3] + margin, image.height),
    )
    part = mask.crop(box)
    under = plain.crop(box)
    image.paste(Image.blend(under, Image.new("RGB", under.size, colour), STRENGTH), box[:2], part)
    whole = np.asarray(part) > 127
    inner, within = _shrunk(whole, stroke), _shrunk(whole, stroke + 1)
    image.paste(Image.new("RGB", under.size, halo_of(colour)), box[:2], _mask(whole & ~within))
    image.paste(Image.new("RGB", under.size, colour), box[:2], _mask(whole & ~inner))


def _mask(pixels: npt.NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint8) * 255)


def _shrunk(mask: npt.NDArray[np.bool_], radius: int) -> npt.NDArray[np.bool_]:
    """A mask without what lies within so many pixels of its edge, along both axes; beyond the array all is inside."""
    found = np.pad(mask, radius, constant_values=True)
    have, width = 1, 2 * radius + 1
    while have < width:  # windows of twice the width from two that overlap
        step = min(have, width - have)
        found = found[:-step] & found[step:]
        found = found[:, :-step] & found[:, step:]
        have += step
    return found


def _middle(mask: Image.Image) -> tuple[int, int] | None:
    """A point deep inside a mask."""
    box = mask.getbbox()
    if box is None:
        return None
    part = mask.crop(box)
    scale = min(1.0, COARSE / max(part.size))
    size = max(1, round(part.width * scale)), max(1, round(part.height * scale))
    left = np.pad(np.asarray(part.resize(size, Image.Resampling.BOX)) > 127, 1)
    last = left
    while left.any():
        last, left = left, _eroded(left)
    inside = np.argwhere(last)
    if not len(inside):
        return (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
    y, x = inside[len(inside) // 2] - 0.5
    return box[0] + round(x / size[0] * part.width), box[1] + round(y / size[1] * part.height)


def _eroded(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return inner


def _mark(
    canvas: Canvas, numbers: Sequence[str], colours: Sequence[RGB], middles: Sequence[tuple[int, int] | None]
) -> None:
    """Write its number into each segment, where there is room beside the others."""
    draw = ImageDraw.Draw(canvas.image)
    taken: list[Box] = []
    for number, colour, middle in zip(numbers, colours, middles, strict=True):
        if middle is None:
            continue
        tag = Tag(line(number, canvas.text), colour, max(2, canvas.text // 5))
        left = min(max(middle[0] - tag.width // 2, 0), canvas.image.width - tag.width)
        top = min(max(middle[1] - tag.height // 2, 0), canvas.image.height - tag.height)
        spot = left, top, left + tag.width, top + tag.height
        if any(overlap(spot, other) for other in taken):
            continue
        taken.append(spot)
        tag.draw(draw, left, top)
