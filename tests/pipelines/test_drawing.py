"""Pictures of answers: legible on any picture, labels in it and apart, colours the same from picture to picture."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from omniform.core.errors import InputError
from omniform.pipelines.drawing import (
    boxes as boxed,
)
from omniform.pipelines.drawing import (
    colours,
    draw_attention,
    draw_boxes,
    draw_depth,
    draw_masks,
    draw_scores,
    texts,
)
from omniform.pipelines.drawing.canvas import LEAST_SIDE, Canvas

NAMES = ("person", "traffic light", "cat", "dog", "a very long label of a class, with commas, that goes on for ever")
CLASSES = dict(enumerate(NAMES))
SIZES = ((640, 480), (1, 1), (24, 20), (30, 900), (900, 12), (1100, 800))
GREY = Image.new("RGB", (600, 400), (128, 128, 128))


def objects(size: tuple[int, int], count: int, seed: int = 0) -> list[dict[str, object]]:
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        x, y = generator.uniform(-0.1, 0.9, 2) * size
        w, h = generator.uniform(0.02, 0.5, 2) * size
        box = {"xmin": int(x), "ymin": int(y), "xmax": int(x + w), "ymax": int(y + h)}
        found.append({"score": float(generator.random()), "label": str(generator.choice(NAMES)), "box": box})
    return found


def disc(size: tuple[int, int], x: int, y: int, radius: int) -> Image.Image:
    rows, columns = np.mgrid[: size[1], : size[0]]
    return Image.fromarray((((columns - x) ** 2 + (rows - y) ** 2 < radius**2) * 255).astype(np.uint8))


def test_colours_are_read_told_apart_and_stay() -> None:
    palette = [colours.colour(at) for at in range(colours.MOST)]
    assert all(colours.contrast(one, colours.ink_on(one)) >= 4.5 for one in palette)
    assert len({*palette}) > 200 and palette[0] == (0, 135, 255)
    lab = colours._oklab(np.array(palette[:16], dtype=np.float64))
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)) > 0.1
    assert colours.colour_of("cat", CLASSES) == colours.colour(2) == colours.colour(2 + colours.MOST)
    assert colours.colour_of("unknown", CLASSES) == colours.colour_of("unknown", {}) != colours.colour_of("other", {})
    assert len({colours.shade(palette[3], turn) for turn in range(5)}) == 5
    ramp = [colours.luminance(tuple(map(int, one))) for one in colours.heat()]
    assert all(a <= b + 0.004 for a, b in itertools.pairwise(ramp)) and ramp[-1] - ramp[0] > 0.7


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 7, 45])
def test_labels_stand_in_the_picture_and_apart(size: tuple[int, int], count: int) -> None:
    canvas = Canvas.of(Image.new("RGB", size))
    found = objects(size, count)
    tags, numbered = boxed._tags(canvas, found, [(255, 0, 0)] * count)
    assert not numbered or count > 2
    inner = [canvas.placed([one["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")]) for one in found]
    spots = [spot for spot, _ in boxed.places(canvas, tags, inner)]
    for tag, (left, top, right, bottom) in zip(tags, spots, strict=True):
        assert left >= 0 and top >= 0 and right <= canvas.image.width and bottom <= canvas.image.height
        assert tag.line.text and (right - left, bottom - top) == (tag.width, tag.height)
    if count * max(tag.width * tag.height for tag in tags) < 0.2 * canvas.image.width * canvas.image.height:
        assert not any(boxed.overlap(one, other) for one, other in itertools.combinations(spots, 2))


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_drawn_on_and_left_as_it_was(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (250, 250, 250))
    mask = Image.new("L", size, 255)
    depth = np.linspace(0, 3, size[0] * size[1]).reshape(size[1], size[0])
    drawn = [
        draw_boxes(picture, objects(size, 5), classes=CLASSES), draw_boxes(picture, []),
        draw_masks(picture, [{"score": 0.5, "label": "cat", "mask": mask}]), draw_masks(picture, []),
        draw_scores(picture, [{"label": "cat", "score": 0.25}, {"label": "a" * 99, "score": -7.0}]),
        draw_scores(picture, []), draw_depth(picture, depth), draw_attention(picture, depth[:2, :2]),
    ]  # fmt: skip
    assert all(one.mode == "RGB" and min(one.size) >= LEAST_SIDE for one in drawn)
    assert picture.size == size and picture.getextrema() == ((250, 250),) * 3


@pytest.mark.parametrize("ground", ["white", "black", (0, 135, 255)])
def test_boxes_are_seen_on_every_ground(ground: object) -> None:
    plain = Image.new("RGB", (600, 400), ground)
    found = [{"score": 0.9, "label": "person", "box": {"xmin": 100, "ymin": 100, "xmax": 300, "ymax": 250}}]
    drawn = np.asarray(draw_boxes(plain, found, classes=CLASSES), dtype=np.int32)
    ring = drawn[95:255, 96:106].reshape(-1, 3)
    seen = {tuple(map(int, one)) for one in ring}
    best = max(colours.contrast(one, tuple(map(int, np.asarray(plain)[0, 0]))) for one in seen)
    assert best >= 3 and (drawn[180, 200] == np.asarray(plain)[180, 200]).all()


def test_boxes_of_a_class_that_lie_over_one_another_differ() -> None:
    inner = [(0, 0, 100, 100), (10, 10, 110, 110), (300, 0, 400, 100), (20, 0, 120, 100), (0, 0, 100, 100)]
    found = boxed._colours(["cat", "cat", "cat", "cat", "dog"], inner, CLASSES)
    assert len({found[0], found[1], found[3]}) == 3 and found[0] == found[2] == colours.colour_of("cat", CLASSES)
    assert found[4] == colours.colour_of("dog", CLASSES)


def test_crowded_labels_are_numbers_that_a_legend_explains() -> None:
    few, many = draw_boxes(GREY, objects(GREY.size, 4)), draw_boxes(GREY, objects(GREY.size, 60))
    assert few.size == GREY.size and many.size[0] == GREY.size[0] and many.size[1] > 700
    assert draw_boxes(GREY, objects(GREY.size, 500)).size[1] < 4000  # and so many more


def test_text_of_every_script(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = texts.line("label", 20)
    assert wide.width > texts.line("label", 10).width and texts.line("  a\n b\t", 12).text == "a b"
    monkeypatch.setattr(texts, "_installed", tuple)
    assert texts.line("naïve façade", 12).text == "naive facade"
    assert texts.line("Straße", 12).text == "Strasse"
    assert texts.line("日本", 12).text == "<65E5><672C>"
    assert texts.line("", 12).width == 0
    short = texts.fitted(NAMES[-1], 12, 150, " 0.98")
    assert short.width <= 150 and short.text.endswith("... 0.98") and short.text.startswith("a very")
    assert texts.fitted("whole", 12, 150, " 0.98").text == "whole 0.98"
    assert texts.fitted("anything", 12, 26, " 0.98").width <= 26 and texts.fitted("anything", 12, 1).text == ""


def test_a_font_of_this_machine_writes_what_pillows_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = texts._installed()
    if found and all(texts._has(found[0], letter) for letter in "Привет"):
        assert texts.line("Привет", 12).text == "Привет"
    assert not texts._has(None, "П") and texts._has(None, "a")


def test_masks_colour_their_pixels_and_no_others() -> None:
    found = [
        {"score": 0.9, "label": "cat", "mask": disc(GREY.size, 150, 150, 100)},
        {"score": None, "label": "dog", "mask": disc(GREY.size, 450, 250, 80)},
    ]
    drawn = np.asarray(draw_masks(GREY, found, classes=CLASSES), dtype=np.int32)
    for (x, y), label in (((120, 100), "cat"), ((430, 300), "dog")):
        mixed = (128 + np.array(colours.colour_of(label, CLASSES))) / 2
        assert np.abs(drawn[y, x] - mixed).max() <= 2, label
    assert (drawn[20, 20] == 128).all() and (drawn[390, 590] == 128).all() and len(drawn) > 400
    edge = drawn[150, 48:56].reshape(-1, 3).tolist()
    assert [*colours.colour_of("cat", CLASSES)] in edge
    everything = np.asarray(draw_masks(GREY, [{"score": 0.9, "label": "cat", "mask": Image.new("L", GREY.size, 255)}]))
    assert len({tuple(one) for one in everything[0].tolist()}) == 1  # the picture's edge is no outline


def test_two_objects_of_a_class_differ_and_keep_their_numbers() -> None:
    cats = [{"score": 0.9, "label": "cat", "mask": disc(GREY.size, x, 150, 60)} for x in (100, 300, 500)]
    drawn = np.asarray(draw_masks(GREY, cats, classes=CLASSES))
    assert len({tuple(drawn[110, x].tolist()) for x in (100, 300, 500)}) == 3
    small = {"score": 0.5, "label": "cat", "mask": disc((60, 40), 30, 20, 10)}  # a mask of another size
    assert draw_masks(GREY, [small]).width == 600


def test_depth_goes_from_dark_to_light_and_unknown_pixels_are_grey() -> None:
    depth = np.broadcast_to(np.linspace(2, 9, 600), (400, 600)).copy()
    depth[:100, :100] = np.nan
    drawn = np.asarray(draw_depth(GREY, depth, unit="m"))
    tall = draw_depth(Image.new("RGB", (600, 300)), depth[:300])
    assert drawn.shape[1] > 1200 and tall.width == 600 and tall.height > 600
    second = drawn[:400, -600:]
    light = [colours.luminance(tuple(map(int, second[200, x]))) for x in (0, 300, 599)]
    assert light[0] < light[1] < light[2] and second[50, 50].tolist() == [128, 128, 128]
    assert draw_depth(GREY, np.full((400, 600), 3.0)).size == draw_depth(GREY, depth).size
    assert draw_depth(GREY, np.full((400, 600), np.nan)).width > 1200
    with pytest.raises(InputError, match=r"\[H, W\]"):
        draw_depth(GREY, np.zeros((0, 3)))


def test_attention_is_light_where_the_model_looks() -> None:
    attention = np.zeros((4, 6))
    attention[1, 4] = 0.3
    drawn = np.asarray(draw_attention(GREY, attention))
    light = {(x, y): colours.luminance(tuple(map(int, drawn[y, x]))) for x, y in ((450, 150), (50, 350))}
    assert light[450, 150] > 3 * light[50, 350]
    assert (np.asarray(draw_attention(GREY, np.zeros((2, 2))))[100, 100] > 0).any()


def test_bars_are_as_long_as_scores() -> None:
    drawn = np.asarray(
        draw_scores(GREY, [{"label": "cat", "score": 0.8}, {"label": "dog", "score": 0.2}], classes=CLASSES)
    )
    lengths = [
        (drawn[400:] == np.array(colours.colour_of(label, CLASSES))).all(-1).any(0).sum() for label in ("cat", "dog")
    ]
    assert lengths[0] / lengths[1] == pytest.approx(4, rel=0.05)
