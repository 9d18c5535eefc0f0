"""Scenes to be found by words: those of ``draw.py``, and what else a drawn picture may hold.

More colours, shapes of every size and place, empty pictures; and pictures that hold no shapes at all (grain, stripes,
letters), so that a search for a red circle does not bring them up.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from draw import BACKGROUNDS, COLOURS, SHAPES, SIZES, Colour, Finish, Item, Scene, draw_finish, render, shade
from PIL import Image, ImageDraw

Ranges = dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]]

FILLS: Ranges = {
    **COLOURS,
    "green": ((105, 145), (60, 100), (45, 100)),
    "pink": ((325, 350), (35, 62), (96, 100)),
    "gray": ((0, 359), (0, 5), (42, 72)),
    "brown": ((18, 30), (62, 85), (38, 56)),
}
GROUNDS: Ranges = {
    **BACKGROUNDS,
    **{name: FILLS[name] for name in ("red", "orange", "yellow", "green", "blue", "purple", "brown")},
    "light green": ((95, 145), (14, 36), (88, 100)),
    "light yellow": ((48, 60), (10, 32), (94, 100)),
}
"""Backgrounds of every colour."""

MEDIUM = "medium"
"""The size of what a person would call neither small nor large: captions do not name it."""

MOST = 6
_RADII = {"small": (0.055, 0.098), MEDIUM: (0.1, 0.125), "large": (0.128, 0.42)}
_BORDER = 0.012
_GAP = 1.08
_MARGIN = 0.03


def _sizes(rng: random.Random, count: int) -> list[str]:
    between = 0.35 if rng.random() < 0.3 else 0.0
    return [MEDIUM if rng.random() < between else rng.choice(SIZES) for _ in range(count)]


def _radius(rng: random.Random, size: str, count: int) -> float:
    low, high = _RADII[size]
    return rng.uniform(low, min(high, {1: 0.42, 2: 0.24, 3: 0.19}.get(count, 0.165)))


def _coordinate(rng: random.Random, third: int, radius: float) -> float:
    """Inside one third of the picture, away from its edges, the shape inside the picture as far as that goes."""
    low, high = third / 3 + _MARGIN, (third + 1) / 3 - _MARGIN
    within = max(low, radius + _BORDER), min(high, 1 - radius - _BORDER)
    if within[0] <= within[1]:
        return rng.uniform(*within)
    return low if third == 2 else high


def _placed(rng: random.Random, count: int, aspect: float) -> list[tuple[int, str, float, float, float]]:
    """Cells, sizes, centres and radii of shapes that do not touch, in reading order."""
    wide, high = max(aspect, 1.0), max(1 / aspect, 1.0)
    while True:
        placed: list[tuple[int, str, float, float, float]] = []
        for cell, size in zip(rng.sample(range(9), count), _sizes(rng, count), strict=True):
            radius = _radius(rng, size, count)
            if radius > 0.3:
                cell = 4
            x = _coordinate(rng, cell % 3, radius / wide)
            y = _coordinate(rng, cell // 3, radius / high)
            if any(math.hypot((x - u) * wide, (y - v) * high) <= _GAP * (radius + r) for _, _, u, v, r in placed):
                break
            placed.append((cell, size, x, y, radius))
        else:
            return sorted(placed)


def draw_wider(rng: random.Random, most: int = MOST, empty: float = 0.02, strong: float = 0.0) -> Scene:
    """A random scene of one to ``most`` shapes; of this share of scenes, an empty one.

    Args:
        strong: of this share of scenes, one on a background of any colour, or one shape as large as it may be.
    """
    if strong and rng.random() < strong:
        return _strong(rng, most)
    count = 0 if rng.random() < empty else rng.randint(1, most)
    aspect = 1.0 if rng.random() < 0.6 else math.exp(rng.uniform(-0.58, 0.58))
    background = rng.choice(tuple(BACKGROUNDS))
    colours = [name for name in FILLS if name != background]
    shapes = list(SHAPES)
    if rng.random() < 0.5:
        colours = rng.sample(colours, rng.randint(1, 3))
    if rng.random() < 0.5:
        shapes = rng.sample(shapes, rng.randint(1, 2))
    contour, turned = rng.random() < 0.3, rng.random() < 0.6
    items = []
    for _, size, x, y, radius in _placed(rng, count, aspect):
        colour, shape = rng.choice(colours), rng.choice(shapes)
        outline = shade(rng, COLOURS["black"]) if contour and colour != "black" else None
        angle = rng.uniform(-14, 14) if turned else 0.0
        items.append(Item(shape, colour, size, x, y, radius, angle, rng.random(), shade(rng, FILLS[colour]), outline))
    return Scene(tuple(items), background, shade(rng, BACKGROUNDS[background]), aspect)


def _strong(rng: random.Random, most: int) -> Scene:
    scene = draw_wider(rng, most, empty=0.0)
    background = rng.choice(tuple(GROUNDS))
    ground = shade(rng, GROUNDS[background])
    items = list(scene.items)
    if rng.random() < 0.4:
        radius = rng.uniform(0.3, 0.495)
        x, y = (rng.uniform(radius, 1 - radius) for _ in "xy")
        items = [replace(items[0], size="large", x=x, y=y, radius=radius, angle=rng.choice((0.0, items[0].angle)))]
    for at, item in enumerate(items):
        # Of two alike nothing would be seen; white on light yellow is hardly anything either.
        near = {background, background.removeprefix("light ")} | ({"white"} if "light" in background else set())
        if item.colour in near or {item.colour, background} in ({"brown", "red"}, {"brown", "orange"}):
            colour = rng.choice([name for name in FILLS if name not in near and name not in ("red", "orange", "brown")])
            items[at] = replace(item, colour=colour, fill=shade(rng, FILLS[colour]))
    aspect = scene.aspect if len(items) > 1 else 1.0
    return Scene(tuple(items), background, ground, aspect)


def picture(rng: random.Random, scene: Scene, sides: tuple[int, int]) -> Image.Image:
    """A scene as a picture whose shorter side lies in ``sides``, in pixels; half of them stay clean."""
    return render(scene, draw_finish(rng, sides), rng)


def _any(rng: random.Random) -> Colour:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def draw_other(rng: random.Random, side: int) -> Image.Image:
    """A picture without shapes: one colour, a ramp, stripes, squares, grain, scribbles or letters."""
    kind = rng.choice(("plain", "ramp", "stripes", "board", "grain", "scribble", "letters"))
    image = Image.new("RGB", (side, side), _any(rng))
    pen = ImageDraw.Draw(image)
    if kind == "ramp":
        ramp = Image.linear_gradient("L").resize((side, side)).rotate(rng.choice((0, 90, 180, 270)))
        image = Image.composite(image, Image.new("RGB", (side, side), _any(rng)), ramp)
    elif kind in ("stripes", "board"):
        step, other = rng.randint(4, side // 3), _any(rng)
        for n in range(0, side, 2 * step):
            pen.rectangle((n, 0, n + step - 1, side), other)
            if kind == "board":
                pen.rectangle((0, n, side, n + step - 1), _any(rng))
    elif kind == "grain":
        small = rng.choice((4, 8, 16, side))
        image = Image.frombytes("RGB", (small, small), rng.randbytes(3 * small * small)).resize((side, side))
    elif kind == "scribble":
        for _ in range(rng.randint(2, 9)):
            line = [(rng.randrange(side), rng.randrange(side)) for _ in range(rng.randint(2, 6))]
            pen.line(line, _any(rng), rng.randint(1, 4))
    elif kind == "letters":
        for _ in range(rng.randint(1, 5)):
            word = "".join(rng.choice("abcdefghijklmnopqrstuvwxyzABCDE0123456789 ") for _ in range(rng.randint(3, 20)))
            pen.text((rng.randrange(side // 2), rng.randrange(side - 10)), word, _any(rng))
    return image


__all__ = ["FILLS", "GROUNDS", "MEDIUM", "MOST", "Finish", "draw_other", "draw_wider", "picture"]
