"""What lies where in a scene's picture, pixel by pixel: outlines and boxes, to train detectors and segmenters on.

Nothing lies on anything else, so that an outline is all that is seen of a shape, its dark contour included.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
from draw import COLOURS, SHAPES, Finish, Item, Scene, draw_finish, draw_item, draw_scene, render, size_of
from PIL import Image, ImageDraw

NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
"""Every kind of thing there is, in the order of the classes."""

Mask = np.ndarray[tuple[int, int], np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture and what is in it.

    Attributes:
        picture: as RGB.
        kinds: of each shape its index in :data:`NAMES`.
        masks: of each shape which pixels are its own. Shape: [height, width] each.
        clean: the picture has no grain, shading or JPEG artefacts.
    """

    picture: Image.Image
    kinds: list[int]
    masks: list[Mask]
    clean: bool

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Of each shape left, top, right and bottom, in pixels; the right and the bottom ones lie outside."""
        return [box_of(mask) for mask in self.masks]

    def classes(self) -> Image.Image:
        """Of every pixel 0 where there is nothing, else one more than its shape's index in :data:`NAMES`."""
        found = np.zeros(self.picture.size[::-1], np.uint8)
        for kind, mask in zip(self.kinds, self.masks, strict=True):
            found[mask] = kind + 1
        return Image.fromarray(found)


def kind_of(item: Item) -> int:
    """A shape's index in :data:`NAMES`."""
    return NAMES.index(f"{item.colour} {item.shape}")


def mask_of(item: Item, scene: Scene, finish: Finish) -> Mask:
    """Which pixels are a shape's own: those that it covers by half, or more. Shape: [height, width]."""
    width, height = size_of(scene, finish.side)
    scale = 2 if finish.antialias else 1
    level = Image.new("L", (width * scale, height * scale))
    contour = None if item.outline is None else 255
    draw_item(ImageDraw.Draw(level), replace(item, fill=255, outline=contour), width * scale, height * scale)
    return np.asarray(level.reduce(scale) if scale > 1 else level) >= 128


def box_of(mask: Mask) -> tuple[int, int, int, int]:
    """The least box that holds all of a mask: left, top, right, bottom."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def wide_enough(seed: str, share: float) -> str:
    """The seed itself; of this share of all seeds another in its place, whose scene is long: 3:2, or 2:3, at least."""
    if random.Random(f"wide {seed}").random() >= share:
        return seed
    tried = ((f"{seed} {i}", draw_scene(random.Random(f"{seed} {i}")).aspect) for i in range(1000))
    return next(other for other, aspect in tried if max(aspect, 1 / aspect) >= 1.5)


def see(seed: str, sides: tuple[int, int]) -> Seen:
    """The picture of a seed, whose shorter side lies in ``sides``: the same whoever draws it."""
    rng = random.Random(seed)
    scene = draw_scene(rng)
    finish = draw_finish(rng, sides)
    picture = render(scene, finish, rng)
    clean = not (finish.noise or finish.shade or finish.quality)
    masks = [mask_of(item, scene, finish) for item in scene.items]
    return Seen(picture, [kind_of(item) for item in scene.items], masks, clean)
