"""Measure the bundled detector or segmenter on scenes that training did not see, and write its card.

``python examples/scenes/measure.py DIR``; the average precisions are those of pycocotools.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from draw import COLOURS, SHAPES
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from truth import NAMES, Seen, see

from omniform import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoModelForSemanticSegmentation,
)

SIDES = (96, 640)
TOGETHER = 16

T = TypeVar("T")
Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]


def unseen(count: int) -> Iterator[Seen]:
    """Scenes of 96 to 640 pixels at the shorter side: training draws from other seeds."""
    return (see(f"unseen {number}", SIDES) for number in range(count))


def batched(things: Iterable[T], size: int) -> Iterator[list[T]]:
    """So many at once."""
    rest = iter(things)
    while some := list(islice(rest, size)):
        yield some


@dataclass(frozen=True, slots=True)
class Precision:
    """Average precisions, by pycocotools.

    Attributes:
        loose: mAP@50.
        strict: mAP@50:95.
        each: AP@50 by class, in the order of :data:`NAMES`; -1 where there was nothing of it.
    """

    loose: float
    strict: float
    each: Numbers


class Detector:
    """A checkpoint that finds things."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForObjectDetection.from_pretrained(folder)
        self.processor = AutoImageProcessor.from_pretrained(folder)

    @torch.no_grad()
    def __call__(self, scenes: Sequence[Seen]) -> list[dict[str, torch.Tensor]]:
        """Of each picture ``scores``, ``labels`` and ``boxes`` (left, top, right, bottom), unsure ones too."""
        pictures = [seen.picture for seen in scenes]
        outputs = self.model(**self.processor(pictures, return_tensors="pt"))
        sizes = [picture.size[::-1] for picture in pictures]
        return self.processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)


class Segmenter:
    """A checkpoint that tells what every pixel shows."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForSemanticSegmentation.from_pretrained(folder)
        self.processor = AutoImageProcessor.from_pretrained(folder)

    @torch.no_grad()
    def __call__(self, scenes: Sequence[Seen]) -> list[torch.Tensor]:
        """Of each picture the class of every pixel. Shape: [height, width] each."""
        pictures = [seen.picture for seen in scenes]
        outputs = self.model(**self.processor(pictures, return_tensors="pt"))
        sizes = [picture.size[::-1] for picture in pictures]
        return self.processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)


def precision(detector: Detector, scenes: Iterator[Seen]) -> Precision:
    """Compare what a detector finds with what there is."""
    pictures, truths, found = [], [], []
    number = 0
    for some in batched(scenes, TOGETHER):
        for seen, got in zip(some, detector(some), strict=True):
            width, height = seen.picture.size
            pictures.append({"id": number, "width": width, "height": height})
            for kind, (left, top, right, bottom) in zip(seen.kinds, seen.boxes, strict=True):
                box = [left, top, right - left, bottom - top]
                truths.append({"id": len(truths) + 1, "image_id": number, "category_id": kind, "bbox": box,
                    "area": box[2] * box[3], "iscrowd": 0})  # fmt: skip
            for score, label, (left, top, right, bottom) in zip(*(got[k].tolist() for k in KEYS), strict=True):
                box = [left, top, right - left, bottom - top]
                found.append({"image_id": number, "category_id": label, "bbox": box, "score": score})
            number += 1
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        kinds = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
        truth.dataset = {"info": {}, "images": pictures, "annotations": truths, "categories": kinds}
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(found), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    # By overlap (the first is 50 %), recall, class, area (the first is any), number of boxes (the last is 100).
    each = judge.eval["precision"][0, :, :, 0, -1].mean(0)
    return Precision(float(judge.stats[1]), float(judge.stats[0]), each)


KEYS = ("scores", "labels", "boxes")


def overlaps(segmenter: Segmenter, scenes: Iterator[Seen]) -> Numbers:
    """Intersection over union of every class, the background first, over the pixels of all pictures together."""
    classes = len(NAMES) + 1
    pairs = np.zeros(classes * classes, np.int64)
    for some in batched(scenes, TOGETHER):
        for seen, got in zip(some, segmenter(some), strict=True):
            both = np.asarray(seen.classes(), np.int64) * classes + got.numpy()
            pairs += np.bincount(both.ravel(), minlength=len(pairs))
    table = pairs.reshape(classes, classes)
    either = table.sum(0) + table.sum(1) - table.diagonal()
    return table.diagonal() / np.maximum(either, 1)


def by_kind(values: Numbers) -> str:
    """A table of one number per colour and shape."""
    rows = ["| | " + " | ".join(SHAPES) + " |", "|---|" + "---:|" * len(SHAPES)]
    for colour, some in zip(COLOURS, batched(values, len(SHAPES)), strict=True):
        rows.append(f"| {colour} | " + " | ".join(f"{value:.3f}" for value in some) + " |")
    return "\n".join(rows)


CARD = """---
license: apache-2.0
library_name: omniform
pipeline_tag: {tag}
tags: [{family}, synthetic]
---

# {name}

{what}.

{parameters:,} parameters, trained from nothing by `examples/scenes/{script}` in about {minutes} minutes of one
core's time. It comes with omniform, so that a fresh install has something to look at pictures with. It is an ordinary
checkpoint in the Hub's layout, which `transformers` loads as well, with the same answers.

## What it knows

One to six shapes that do not touch, on a plain background (white, gray, black, light blue, pink), in {kinds} classes:
circle, square, triangle, star and cross, each in red, orange, yellow, green, blue, purple, black and white; turned by
up to 14 degrees, with or without a dark outline, with grain, shading and JPEG artefacts or without. Pictures of any
size from 80 to 640 pixels and of shapes up to 16:9 are squeezed to {side} by {side} pixels.

## How well

On {scenes:,} scenes that training did not see (other seeds, 96 to 640 pixels at the shorter side; half of them clean),
in pixels of the original pictures, float32:

{numbers}

{each}

{table}

## What it does not know

Everything else. It has never seen a photograph or any other drawing, and finds shapes in them with confidence.

## How to make it again

```
{command}
python examples/scenes/measure.py DIR
```
"""


def detector_card(folder: Path, scenes: int) -> dict[str, object]:
    """What a detector's card says."""
    detector = Detector(folder)
    found = precision(detector, unseen(scenes))
    numbers = f"| mAP@50 | mAP@50:95 |\n|---:|---:|\n| {found.loose:.3f} | {found.strict:.3f} |"
    return {
        "tag": "object-detection", "family": "rt_detr", "script": "train_detector.py", "kinds": len(NAMES),
        "what": "A very small RT-DETR that finds the shapes of drawn scenes, and says which they are",
        "each": "By pycocotools 2 (`COCOeval`, boxes, all sizes). AP@50 of each class:",
        "parameters": detector.model.num_parameters(), "side": detector.processor.size["height"],
        "numbers": numbers, "table": by_kind(found.each),
    }  # fmt: skip


def segmenter_card(folder: Path, scenes: int) -> dict[str, object]:
    """What a segmenter's card says."""
    segmenter = Segmenter(folder)
    found = overlaps(segmenter, unseen(scenes))
    numbers = f"| mIoU | background |\n|---:|---:|\n| {found.mean():.3f} | {found[0]:.3f} |"
    return {
        "tag": "image-segmentation", "family": "segformer", "script": "train_segmenter.py", "kinds": len(NAMES),
        "what": "A very small SegFormer that tells which pixels of a drawn scene are which shape's",
        "each": "Intersection over union, over the pixels of all pictures together; the mean is over the classes and "
        "the\nbackground. That of each class:",
        "parameters": segmenter.model.num_parameters(), "side": segmenter.processor.size["height"],
        "numbers": numbers, "table": by_kind(found[1:]),
    }  # fmt: skip


def main() -> None:
    """Measure a checkpoint and write its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", type=Path, help="the checkpoint; its README.md is written anew")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--minutes", type=int, default=30, help="that the training took")
    parser.add_argument("--command", action="append", help="that the training was started with, if not the plain one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kind = {"rt_detr": detector_card, "segformer": segmenter_card}[AutoConfig.from_pretrained(args.folder).model_type]
    facts = kind(args.folder, args.scenes)
    command = "\n".join(args.command or [f"python examples/scenes/{facts['script']} --out DIR"])
    text = CARD.format(name=args.folder.name, scenes=args.scenes, minutes=args.minutes, command=command, **facts)
    (args.folder / "README.md").write_text(text, encoding="utf-8")
    print(facts["numbers"])


if __name__ == "__main__":
    main()
