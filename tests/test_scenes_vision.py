"""The detector and the segmenter that come with the package: right, small, and the same in the reference."""

from __future__ import annotations

import random
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reference import close, omniform, transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "scenes"))

import draw
import measure
import truth

ASSETS = omniform.bundled_checkpoint().parent
DETECTOR, SEGMENTER = ASSETS / "scenes-rtdetr", ASSETS / "scenes-segformer"
SAMPLE = 32


@cache
def sample() -> list[truth.Seen]:
    return list(measure.unseen(SAMPLE))


@cache
def detector() -> measure.Detector:
    return measure.Detector(DETECTOR)


@cache
def segmenter() -> measure.Segmenter:
    return measure.Segmenter(SEGMENTER)


def test_they_are_small():
    assert sum(file.stat().st_size for folder in (DETECTOR, SEGMENTER) for file in folder.iterdir()) <= 6_000_000


@pytest.mark.parametrize(("folder", "least"), [(DETECTOR, "mAP@50"), (SEGMENTER, "mIoU")])
def test_their_cards_tell_how_right_they_are(folder, least):
    card = (folder / "README.md").read_text(encoding="utf-8")
    number = re.search(rf"\| {least} \|.*\n.*\n\| ([\d.]+) \|", card)
    assert number and float(number[1]) >= 0.9 and "On 1,000 scenes" in card


def test_classes_have_names():
    assert list(detector().model.config.id2label.values()) == list(truth.NAMES)
    assert list(segmenter().model.config.id2label.values()) == ["background", *truth.NAMES]


def test_the_detector_is_right_about_scenes_it_has_not_seen():
    # The card's number is over 1,000 scenes; the first of them keep it honest.
    assert measure.precision(detector(), iter(sample())).loose >= 0.9


def test_the_segmenter_is_right_about_scenes_it_has_not_seen():
    found = measure.overlaps(segmenter(), iter(sample()))
    shown = [0, *sorted({kind + 1 for seen in sample() for kind in seen.kinds})]
    assert len(shown) > 30 and found[shown].mean() >= 0.9


@torch.no_grad()
def test_the_reference_finds_the_same():
    model = transformers.AutoModelForObjectDetection.from_pretrained(DETECTOR).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(DETECTOR)
    for seen in sample()[:4]:
        ours, theirs = (p(seen.picture, return_tensors="pt") for p in (detector().processor, processor))
        assert (ours["pixel_values"] - theirs["pixel_values"]).abs().max() <= 2 / 255 + 1e-6
        found, expected = detector().model(**theirs), model(**theirs)
        close(found.logits, expected.logits)
        close(found.pred_boxes, expected.pred_boxes)
        sizes = [seen.picture.size[::-1]]
        boxes = detector().processor.post_process_object_detection(found, 0.5, sizes)[0]
        for name, value in processor.post_process_object_detection(expected, 0.5, sizes)[0].items():
            close(boxes[name], value, name)
        assert len(boxes["scores"]) > 0


@torch.no_grad()
def test_the_reference_segments_the_same():
    model = transformers.AutoModelForSemanticSegmentation.from_pretrained(SEGMENTER).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(SEGMENTER)
    for seen in sample()[:4]:
        ours, theirs = (p(seen.picture, return_tensors="pt") for p in (segmenter().processor, processor))
        assert (ours["pixel_values"] - theirs["pixel_values"]).abs().max() <= 2 / 255 + 1e-6
        found, expected = segmenter().model(**theirs), model(**theirs)
        close(found.logits, expected.logits)
        sizes = [seen.picture.size[::-1]]
        maps = [
            p.post_process_semantic_segmentation(out, sizes)[0]
            for p, out in ((segmenter().processor, found), (processor, expected))
        ]
        assert maps[0].shape == sizes[0] and (maps[0] != maps[1]).float().mean() < 1e-3


@pytest.mark.parametrize("number", range(6))
def test_outlines_are_what_is_drawn(number):
    """Pixels inside them are not the background's, pixels outside are, and boxes are tight."""
    rng = random.Random(f"truth {number}")
    scene = draw.draw_scene(rng)
    finish = draw.Finish(side=rng.randint(90, 200), antialias=number % 2 == 0)
    pixels = np.asarray(draw.render(scene, finish, rng)).astype(int)
    masks = [truth.mask_of(item, scene, finish) for item in scene.items]
    assert not (np.sum(masks, 0) > 1).any()
    painted = np.abs(pixels - np.array(scene.fill)).max(-1)
    covered = np.any(masks, 0)
    assert (painted[covered] > 0).all()
    half = painted > 0 if not finish.antialias else painted > 250  # of edges less than half may be covered
    assert not half[~covered].any()
    for item, mask in zip(scene.items, masks, strict=True):
        left, top, right, bottom = truth.box_of(mask)
        assert mask[top:bottom, left:right].sum() == mask.sum()
        assert mask[top].any() and mask[bottom - 1].any() and mask[:, left].any() and mask[:, right - 1].any()
        assert mask[int(item.y * mask.shape[0]), int(item.x * mask.shape[1])]


def test_a_scene_s_classes():
    seen = truth.see("classes", (90, 120))
    classes = np.asarray(seen.classes())
    assert classes.shape == seen.picture.size[::-1] and set(np.unique(classes)) == {0, *(k + 1 for k in seen.kinds)}
    assert isinstance(seen.classes(), Image.Image)
