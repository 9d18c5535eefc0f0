"""Synthetic scenes: a few coloured shapes on a plain background, and how they are drawn with Pillow.

A scene is data (what lies where); `render` turns it into a picture of any size. The same seed gives the same scene
on every machine: all the chances come from one `random.Random` that is seeded with a string.

Units: `x` and `y` are fractions of the picture's width and height, `radius` is a fraction of its shorter side.
The picture is thought of as a grid of three by three cells, and no cell holds two shapes.
"""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = ("small", "large")
MAX_ITEMS = 6

Colour = tuple[int, int, int]

# Ranges of hue (degrees), saturation and value (percent). They hold the web colours of the same name, and lie far
# enough apart that a person names every shade in them alike.
COLOURS: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "red": ((-8, 6), (80, 100), (75, 100)),
    "orange": ((26, 38), (85, 100), (92, 100)),
    "yellow": ((52, 61), (75, 100), (92, 100)),
    "green": ((105, 145), (60, 100), (45, 85)),
    "blue": ((208, 242), (70, 100), (70, 100)),
    "purple": ((275, 302), (55, 100), (45, 75)),
    "black": ((0, 359), (0, 20), (0, 14)),
    "white": ((0, 359), (0, 4), (96, 100)),
}
BACKGROUNDS: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "white": ((0, 359), (0, 3), (96, 100)),
    "gray": ((0, 359), (0, 5), (42, 72)),
    "black": ((0, 359), (0, 20), (0, 12)),
    "light blue": ((192, 212), (18, 36), (88, 100)),
    "pink": ((338, 355), (18, 36), (94, 100)),
}
# Names of the nine cells, in reading order.
CELLS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")

_CELL_MARGIN = 0.035
_BORDER = 0.012
_GAP = 1.12


@dataclass(frozen=True, slots=True)
class Item:
    """One shape: its names, and the numbers that draw it; ``slim`` (0 to 1) makes arms, points and triangles narrow."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float
    slim: float
    fill: Colour
    outline: Colour | None

    @property
    def cell(self) -> int:
        """Index of the cell that holds the centre, 0 to 8 in reading order."""
        return 3 * int(self.y * 3) + int(self.x * 3)


@dataclass(frozen=True, slots=True)
class Scene:
    """Shapes in reading order of their cells, on a background; `aspect` is width over height."""

    items: tuple[Item, ...]
    background: str
    fill: Colour
    aspect: float


@dataclass(frozen=True, slots=True)
class Finish:
    """What befalls a picture between the scene and the file.

    Attributes:
        side: the shorter side in pixels.
        antialias: smooth edges.
        noise: standard deviation of the grain, in levels of 256.
        shade: how much darker the picture is at one side; negative for the other side.
        quality: of a JPEG round trip, 1 to 95; 0 for none.
    """

    side: int
    antialias: bool = True
    noise: float = 0.0
    shade: float = 0.0
    quality: int = 0


def shade(rng: random.Random, spans: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]) -> Colour:
    hue, saturation, value = (rng.uniform(*span) for span in spans)
    high = value / 100
    low = high * (1 - saturation / 100)
    sector = (hue % 360) / 60
    middle = low + (high - low) * (1 - abs(sector % 2 - 1))
    red, green, blue = (
        (high, middle, low), (middle, high, low), (low, high, middle),
        (low, middle, high), (middle, low, high), (high, low, middle),
    )[int(sector)]  # fmt: skip
    return round(red * 255), round(green * 255), round(blue * 255)


def _radius(rng: random.Random, size: str, count: int) -> float:
    if size == "small":
        return rng.uniform(0.062, 0.095)
    return rng.uniform(0.125, {1: 0.32, 2: 0.22, 3: 0.18}.get(count, 0.16))


def _coordinate(rng: random.Random, third: int, radius: float) -> float:
    """A coordinate in one third of the picture, away from the third's edges and with the shape inside the picture."""
    low, high = third / 3 + _CELL_MARGIN, (third + 1) / 3 - _CELL_MARGIN
    low, high = max(low, radius + _BORDER), min(high, 1 - radius - _BORDER)
    if low <= high:
        return rng.uniform(low, high)
    # A shape too big for an outer third reaches over the border rather than leave its cell.
    return third / 3 + _CELL_MARGIN if third == 2 else 1 / 3 - _CELL_MARGIN


def _place(rng: random.Random, count: int, aspect: float) -> list[tuple[int, str, float, float, float]]:
    """Cells, sizes, centres and radii of shapes that do not touch."""
    wide, high = max(aspect, 1.0), max(1 / aspect, 1.0)
    while True:
        placed: list[tuple[int, str, float, float, float]] = []
        for cell in rng.sample(range(9), count):
            size = rng.choice(SIZES)
            radius = _radius(rng, size, count)
            x = _coordinate(rng, cell % 3, radius / wide)
            y = _coordinate(rng, cell // 3, radius / high)
            clear = (math.hypot((x - u) * wide, (y - v) * high) > _GAP * (radius + r) for _, _, u, v, r in placed)
            if not all(clear):
                break
            placed.append((cell, size, x, y, radius))
        else:
            return sorted(placed)


def draw_scene(rng: random.Random, max_items: int = MAX_ITEMS) -> Scene:
    """A random scene of one to `max_items` shapes."""
    count = rng.randint(1, max_items)
    aspect = 1.0 if rng.random() < 0.6 else math.exp(rng.uniform(-0.58, 0.58))
    background = rng.choice(tuple(BACKGROUNDS))
    colours = [name for name in COLOURS if name != background]
    shapes = list(SHAPES)
    # Few names in one scene make counting and telling apart worth asking.
    if rng.random() < 0.5:
        colours = rng.sample(colours, rng.randint(1, 3))
    if rng.random() < 0.5:
        shapes = rng.sample(shapes, rng.randint(1, 2))
    contour = rng.random() < 0.3
    items = []
    for _, size, x, y, radius in _place(rng, count, aspect):
        colour, shape = rng.choice(colours), rng.choice(shapes)
        outline = None
        if contour and colour != "black":
            outline = shade(rng, COLOURS["black"])
        angle = rng.uniform(-14, 14) if rng.random() < 0.7 else 0.0
        items.append(Item(shape, colour, size, x, y, radius, angle, rng.random(), shade(rng, COLOURS[colour]), outline))
    return Scene(tuple(items), background, shade(rng, BACKGROUNDS[background]), aspect)


def draw_finish(rng: random.Random, sides: tuple[int, int]) -> Finish:
    """A random finish of a picture whose shorter side lies in `sides`; half of all pictures stay clean."""
    side = round(math.exp(rng.uniform(math.log(sides[0]), math.log(sides[1]))))
    antialias = rng.random() < 0.5
    if rng.random() < 0.5:
        return Finish(side, antialias)
    noise = rng.uniform(1, 8) if rng.random() < 0.4 else 0.0
    shade = rng.uniform(-0.12, 0.12) if rng.random() < 0.4 else 0.0
    quality = rng.randint(35, 95) if rng.random() < 0.6 else 0
    return Finish(side, antialias, noise, shade, quality)


def _outline(shape: str, slim: float) -> list[tuple[float, float]]:
    """Corners of a shape in a circle of radius about one, y pointing down."""
    if shape == "square":
        return [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)]
    if shape == "triangle":
        foot = 1.05 - 0.2 * slim
        return [(0.0, -0.95), (foot, 0.8), (-foot, 0.8)]
    if shape == "star":
        turns = [(math.pi * k / 5, 1.05 if k % 2 == 0 else 0.5 - 0.1 * slim) for k in range(10)]
        return [(r * math.sin(t), -r * math.cos(t)) for t, r in turns]
    arm = 0.38 - 0.1 * slim
    return [
        (-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm),
        (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm),
    ]  # fmt: skip


def draw_item(pen: ImageDraw.ImageDraw, item: Item, width: int, height: int) -> None:
    radius = item.radius * min(width, height)
    x, y = item.x * width, item.y * height
    line = max(1, round(radius * 0.09)) if item.outline else 0
    if item.shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), item.fill, item.outline, line)
        return
    cos, sin = math.cos(math.radians(item.angle)), math.sin(math.radians(item.angle))
    corners = _outline(item.shape, item.slim)
    corners = [(x + radius * (u * cos - v * sin), y + radius * (u * sin + v * cos)) for u, v in corners]
    pen.polygon(corners, item.fill)
    if item.outline:
        pen.line([*corners, corners[0], corners[1]], item.outline, line, joint="curve")


def size_of(scene: Scene, side: int) -> tuple[int, int]:
    """Width and height in pixels of a picture with this shorter side."""
    if scene.aspect >= 1:
        return round(side * scene.aspect), side
    return side, round(side / scene.aspect)


def render(scene: Scene, finish: Finish, rng: random.Random) -> Image.Image:
    """Draw a scene as an RGB picture. `rng` is used for the grain alone."""
    width, height = size_of(scene, finish.side)
    scale = 2 if finish.antialias else 1
    image = Image.new("RGB", (width * scale, height * scale), scene.fill)
    pen = ImageDraw.Draw(image)
    for item in scene.items:
        draw_item(pen, item, width * scale, height * scale)
    if finish.antialias:
        image = image.reduce(scale)
    if finish.shade:
        # Lighter or darker from left to right: a ramp of one row, stretched.
        ramp = Image.linear_gradient("L").rotate(90).resize((width, height))
        if finish.shade < 0:
            ramp = ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        dark = image.point([round(level * (1 - abs(finish.shade))) for level in range(256)] * 3)
        image = Image.composite(image, dark, ramp)
    if finish.noise:
        grain = Image.frombytes("L", (width, height), rng.randbytes(width * height))
        grain = grain.point([round(128 + (level - 127.5) / 73.6 * finish.noise) for level in range(256)])
        image = Image.merge("RGB", [ImageChops.add(band, grain, scale=1, offset=-128) for band in image.split()])
    if finish.quality:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=finish.quality)
        image = Image.open(file).convert("RGB")
    return image
