"""Values of other kinds in every public argument of image processors: a right answer, or one typed error."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from test_audio_doors import ODD

from omniform.core.errors import OmniformError
from omniform.inputs.images.detr import DetrImageProcessor
from omniform.inputs.images.kinds import image_processor
from omniform.inputs.images.processor import ImageProcessor
from omniform.inputs.processors.media import image_rows, sounds, take_media

IMAGE = Image.new("RGB", (12, 10))
SMALL = {"size": {"height": 10, "width": 8}, "crop_size": {"height": 9, "width": 7}}
TILES = {
    name: {"image_grid_pinpoints": [[9, 18], [18, 9]]}
    for name in ("LlavaNextImageProcessor", "LlavaOnevisionImageProcessor")
}
"""Where pictures are cut up: the usual sizes in tiles of a pixel are hundreds of thousands."""
OUTPUTS = SimpleNamespace(
    logits=torch.randn(1, 5, 4), pred_boxes=torch.rand(1, 5, 4), pred_masks=torch.randn(1, 5, 6, 7)
)
BOX = {"bbox": [1, 1, 3, 3], "category_id": 1, "area": 9}


def processor(name: str, **more: object) -> ImageProcessor:
    return image_processor({"image_processor_type": name, **SMALL, **TILES.get(name, {}), **more}, where="test")


def typed(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except OmniformError as error:
        assert len(str(error)) < 2000, what


# One of each class.
_NAMES = ("CLIP", "Llava", "LlavaNext", "LlavaOnevision", "Detr", "DPT", "MaskFormer", "Sam", "VideoMAE")


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", [f"{name}ImageProcessor" for name in _NAMES] + ["ViTImageProcessorPil"])
def test_calls_and_settings(name: str, odd: str) -> None:
    value, reader = ODD[odd], processor(name)
    for images in (value, [value], [[IMAGE], [value]]):
        typed(lambda images=images: reader(images), "images")
    for field in (field.name for field in fields(reader.options)):
        typed(lambda field=field: reader(IMAGE, **{field: value}), field)
        typed(lambda field=field: processor(name, **{field: value}), field)
    typed(lambda: reader(IMAGE, media_access=value), "media_access")
    typed(lambda: image_processor(value, where="x"), "config")
    typed(lambda: image_processor({"image_processor_type": value}, where="x"), "type")
    typed(lambda: image_processor({}, where="x", default_type=value), "default_type")


@pytest.mark.parametrize("odd", ODD)
def test_annotations_and_outputs_of_detr(odd: str) -> None:
    value, detr = ODD[odd], processor("DetrImageProcessor")
    assert isinstance(detr, DetrImageProcessor)
    truth = {"image_id": 1, "annotations": []}
    typed(lambda: detr(IMAGE, value), "annotations")
    typed(lambda: detr(IMAGE, [value]), "annotations")
    for name in ("return_segmentation_masks", "masks_path"):
        typed(lambda name=name: detr(IMAGE, truth, **{name: value}), name)
    for key in truth:
        typed(lambda key=key: detr(IMAGE, {**truth, key: value}), key)
    for key in (*BOX, "iscrowd", "keypoints"):
        typed(lambda key=key: detr(IMAGE, {"image_id": 1, "annotations": [{**BOX, key: value}]}), key)
    for method in (
        detr.post_process_object_detection, detr.post_process_semantic_segmentation,
        detr.post_process_instance_segmentation, detr.post_process_panoptic_segmentation,
    ):  # fmt: skip
        typed(lambda method=method: method(value), "outputs")
        typed(lambda method=method: method(OUTPUTS, target_sizes=[value]), "target_sizes")
        for name in list(inspect.signature(method).parameters)[1:]:
            typed(lambda method=method, name=name: method(OUTPUTS, **{name: value}), name)


@pytest.mark.parametrize("odd", ODD)
def test_parts_of_messages(odd: str) -> None:
    value = ODD[odd]
    for read in (image_rows, sounds):
        typed(lambda read=read: read(value), "media")
    for part in ({"type": value}, {"type": "image", "image": value}, {"type": "image_url", "image_url": value}, value):
        typed(lambda part=part: take_media([{"role": "user", "content": [part]}]), "content")
