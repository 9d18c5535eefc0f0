"""Maps of numbers over a picture, in colours, with their scale: depth, attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from omniform.core.errors import InputError
from omniform.pipelines.drawing.canvas import Canvas
from omniform.pipelines.drawing.colours import FAINT, GROUND, INK, heat
from omniform.pipelines.drawing.texts import fitted, line

Map = npt.NDArray[np.floating]
"""A number for each pixel, or for each patch of a grid. Shape: [H, W]."""

TICKS: Final = 5
"""So many numbers stand at a scale."""

GAP: Final[tuple[int, int, int]] = (128, 128, 128)
"""Pixels without a number."""


def draw_depth(picture: Image.Image, depth: Map, *, unit: str | None = None) -> Image.Image:
    """A picture, and beside it (or beneath a wide one) its depth in colours, with their scale.

    Args:
        depth: of each pixel; those that are no numbers are grey.
        unit: what it is measured in; None where only more and less count.
    """
    canvas = Canvas.of(picture)
    low, high = _range(depth)
    fitting = Image.fromarray(np.asarray(depth, dtype=np.float32)).resize(canvas.inner, Image.Resampling.NEAREST)
    shares = (np.asarray(fitting) - low) / ((high - low) or 1.0)
    title = f"depth in {unit}" if unit else "depth, relative: no unit"
    wide = canvas.image.width > 1.5 * canvas.image.height
    first, second = canvas.image, Image.new("RGB", canvas.image.size, GROUND)
    second.paste(coloured(shares), (canvas.left, canvas.top))
    gap = max(2, canvas.stroke)
    size = (first.width, 2 * first.height + gap) if wide else (2 * first.width + gap, first.height)
    pair = Image.new("RGB", size, GROUND)
    pair.paste(first, (0, 0))
    pair.paste(second, (0, first.height + gap) if wide else (first.width + gap, 0))
    ticks = [_number(value, high - low) for value in np.linspace(low, high, TICKS)]
    return _with_scale(pair, title, ticks if high > low else ticks[:1], canvas.text)


def draw_attention(picture: Image.Image, attention: Map, *, title: str = "attention") -> Image.Image:
    """A picture under what a model looked at: light where it looked most, with the scale.

    Args:
        attention: how much it looked at each patch of a grid that covers the picture, top row first.
        title: what is written at the scale.
    """
    canvas = Canvas.of(picture)
    inner = canvas.left, canvas.top, canvas.left + canvas.inner[0], canvas.top + canvas.inner[1]
    canvas.image.paste(looked_at(canvas.image.crop(inner), attention), inner[:2])
    ticks = [f"{share:.0%}" for share in np.linspace(0, 1, TICKS)]
    return _with_scale(canvas.image, f"{title}, beside the most looked at", ticks, canvas.text)


def looked_at(picture: Image.Image, attention: Map) -> Image.Image:
    """A picture under what was looked at, light where it was most; see :func:`draw_attention`."""
    _, high = _range(attention)
    known = np.nan_to_num(np.asarray(attention, dtype=np.float64), posinf=0.0, neginf=0.0)
    shares = known / (high if high > 0 else 1.0)
    smooth = Image.fromarray(shares.astype(np.float32)).resize(picture.size, Image.Resampling.BICUBIC)
    return Image.blend(picture.convert("L").convert("RGB"), coloured(np.asarray(smooth).clip(0, 1)), 0.6)


def coloured(shares_HW: Map) -> Image.Image:
    """Numbers from 0 to 1 in the colours of :func:`~omniform.pipelines.drawing.colours.heat`."""
    known = np.isfinite(shares_HW)
    places = (np.where(known, shares_HW, 0).clip(0, 1) * 255).round().astype(np.uint8)
    colours = heat()[places]
    colours[~known] = GAP
    return Image.fromarray(colours)


def _range(numbers: Map) -> tuple[float, float]:
    if numbers.ndim != 2 or not numbers.size:
        raise InputError("this is no map", where="draw", expected="shape [H, W]", found=list(numbers.shape))
    known = numbers[np.isfinite(numbers)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)


def _number(value: float, spread: float) -> str:
    digits = 0 if spread >= 100 else 1 if spread >= 10 else 2 if spread >= 1 else 3
    text = f"{value:.{digits}f}" if spread >= 0.01 or spread == 0 else f"{value:.2e}"
    return text.replace("-0.000", "0.000")


def _with_scale(image: Image.Image, title: str, ticks: Sequence[str], size: int) -> Image.Image:
    """A picture with a bar of colours beneath, numbers at it and a title."""
    pad, bar = max(6, size // 2), max(8, round(size * 0.9))
    row = round(size * 1.5)
    whole = Image.new("RGB", (image.width, image.height + 3 * pad + 2 * row + bar), GROUND)
    whole.paste(image, (0, 0))
    draw = ImageDraw.Draw(whole)
    top = image.height + pad
    fitted(title, size, image.width - 2 * pad).draw(draw, pad, top, INK)
    top += row
    # Not wider than a reader can take in, however wide the picture.
    width = min(image.width - 2 * pad, 40 * size)
    ramp = Image.fromarray(heat()[np.linspace(0, 255, width).round().astype(int)][None])
    whole.paste(ramp.resize((width, bar), Image.Resampling.NEAREST), (pad, top))
    draw.rectangle((pad, top, pad + width - 1, top + bar - 1), outline=FAINT)
    lines = [line(text, size) for text in ticks]
    while len(lines) > 2 and sum(one.width for one in lines) + size * len(lines) > width:
        lines = lines[:: len(lines) - 1] if len(lines) <= 3 else lines[::2]  # the ends stay
    for at, one in enumerate(lines):
        share = at / max(1, len(lines) - 1)
        x = pad + round(share * (width - 1))
        left = min(max(x - one.width // 2, pad), max(pad, pad + width - one.width))
        draw.line((x, top + bar, x, top + bar + size // 4), fill=FAINT)
        one.draw(draw, left, top + bar + size // 3, INK)
    return whole
