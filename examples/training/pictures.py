"""Pictures for the examples: the bundled scenes (``examples/scenes/draw.py``), square, with what is in them."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "scenes"))

from draw import COLOURS, SHAPES, Finish, Scene, draw_item, draw_scene, render

__all__ = ["COLOURS", "SHAPES", "Scene", "boxes", "drawn", "masks", "scenes"]


def scenes(title: str, count: int, items: int = 1) -> list[Scene]:
    """Scenes of one to ``items`` shapes, square; the same for the same title."""
    rng = random.Random(title)
    found: list[Scene] = []
    while len(found) < count:
        scene = draw_scene(rng, items)
        if scene.aspect == 1:
            found.append(scene)
    return found


def drawn(scene: Scene, side: int) -> Image.Image:
    """A scene as a picture of ``side`` times ``side`` pixels."""
    return render(scene, Finish(side), random.Random(0))


def masks(scene: Scene, side: int) -> list[np.ndarray]:
    """Of each shape, which pixels are its own. Shape: [side, side] each, bool."""
    from PIL import ImageDraw

    found = []
    for item in scene.items:
        picture = Image.new("L", (side, side))
        pen = ImageDraw.Draw(picture)
        draw_item(pen, _white(item), side, side)
        found.append(np.asarray(picture) > 0)
    return found


def _white(item):
    from dataclasses import replace

    return replace(item, fill=255, outline=None)


def boxes(scene: Scene, side: int) -> list[list[float]]:
    """Of each shape, its box in pixels: left, top, width, height."""
    found = []
    for mask in masks(scene, side):
        ys, xs = np.nonzero(mask)
        left, top = float(xs.min()), float(ys.min())
        found.append([left, top, float(xs.max()) + 1 - left, float(ys.max()) + 1 - top])
    return found
