"""DETR's processor against the reference: masks, annotations, and what becomes of the model's outputs."""

from __future__ import annotations

import copy
import itertools
import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_images_processors import both, import_reference, picture
from torch import Tensor

from omniform.core.errors import DependencyError, InputError, RepoError, UnknownArgumentError
from omniform.inputs.images.detr import DetrImageProcessor
from omniform.inputs.images.kinds import image_processor

CONFIG = {"size": {"shortest_edge": 24, "longest_edge": 40}}
IMAGES = [Image.fromarray(picture(*size)) for size in ((41, 29), (20, 33), (41, 29))]


@pytest.fixture(scope="module")
def reference() -> types.ModuleType:
    return import_reference()


@pytest.fixture(scope="module")
def ours() -> DetrImageProcessor:
    processor = image_processor({"image_processor_type": "DetrImageProcessor", **CONFIG}, where="x")
    assert isinstance(processor, DetrImageProcessor)
    return processor


def detection(image_id: int, boxes: list[list[float]], **more: object) -> dict[str, object]:
    entries = [
        {"bbox": box, "category_id": n + 2, "area": box[2] * box[3], "iscrowd": 0, **more}
        for n, box in enumerate(boxes)
    ]
    return {"image_id": image_id, "annotations": entries}


ANNOTATIONS = [
    detection(7, [[1.5, 2, 10, 12.25], [30, 20, 50, 50], [5, 5, 0, 9], [-8, -8, 5, 5], [-8, -8, 12, 12]]),
    detection(8, []),
    {
        "image_id": 9,
        "annotations": [
            {"bbox": [1, 1, 4, 4], "category_id": 1, "area": 16, "iscrowd": 1},
            {"bbox": [2, 3, 7, 9], "category_id": 5, "area": 60.5},
        ],
    },
]


def assert_labels(expected: list, found: object) -> None:
    assert isinstance(found, list) and len(found) == len(expected)
    for theirs, mine in zip(expected, found, strict=True):
        assert set(mine) == set(theirs)
        for name, value in theirs.items():
            assert mine[name].dtype == value.dtype, name
            torch.testing.assert_close(mine[name], value, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("flags", itertools.product([True, False], repeat=3))
@pytest.mark.parametrize("keypoints", [False, True])
def test_detection_annotations(reference, keypoints: bool, flags: tuple[bool, ...]) -> None:
    options = dict(zip(("do_resize", "do_pad", "do_convert_annotations"), flags, strict=True))
    theirs, ours = both(reference, "DetrImageProcessor", **CONFIG)
    images, annotations = (IMAGES, ANNOTATIONS) if options["do_pad"] else (IMAGES[:1], ANNOTATIONS[:1])
    if keypoints:
        points = {"keypoints": [1.0, 2.0, 2.0, 4.0, 5.0, 1.0]}
        annotations = [detection(3, [[1, 2, 3, 4], [50, 50, 1, 1], [4, 4, 9, 9]], **points) for _ in images]
    expected = theirs(images, copy.deepcopy(annotations), return_tensors="pt", **options)
    found = ours(images, copy.deepcopy(annotations), return_tensors="pt", **options)
    assert set(found) == set(expected)
    assert_labels(expected["labels"], found.labels)
    assert torch.equal(found.pixel_values, expected["pixel_values"])


def test_fixed_padding_and_one_annotation(reference) -> None:
    theirs, ours = both(reference, "DetrImageProcessor", pad_size={"height": 64, "width": 50}, **CONFIG)
    expected = theirs(IMAGES[0], copy.deepcopy(ANNOTATIONS[0]), return_tensors="pt")
    found = ours(IMAGES[0], ANNOTATIONS[0], return_tensors="pt")
    assert_labels(expected["labels"], found.labels)
    assert torch.equal(found.pixel_mask, expected["pixel_mask"])


def test_annotations_are_left_alone(ours: DetrImageProcessor) -> None:
    before = copy.deepcopy(ANNOTATIONS)
    batch = ours.preprocess(IMAGES, ANNOTATIONS, return_tensors="np")
    assert before == ANNOTATIONS
    assert isinstance(batch.labels[0].boxes, np.ndarray) and isinstance(batch.pixel_mask, np.ndarray)


@pytest.mark.parametrize("masks", [None, True, False])
@pytest.mark.parametrize("do_resize", [True, False])
def test_panoptic_annotations(reference, monkeypatch, tmp_path: Path, masks: bool | None, do_resize: bool) -> None:
    def load(path: str) -> Tensor:  # stands in for torchvision's decoder, which has no build here
        return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)

    monkeypatch.setattr("transformers.models.detr.image_processing_detr.load_image_as_tensor", load)
    annotations = []
    for number, image in enumerate(IMAGES):
        ids = np.random.default_rng(number).choice([0, 5, 300, 70_000], (image.height, image.width))
        colour = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        Image.fromarray(colour).save(tmp_path / f"{number}.png")
        info = [{"id": i, "category_id": i % 7, "iscrowd": int(i == 5), "area": 9.5 * i} for i in (5, 300, 70_000)]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": info})
    theirs, ours = both(reference, "DetrImageProcessor", format="coco_panoptic", **CONFIG)
    call = {"return_segmentation_masks": masks, "do_resize": do_resize, "masks_path": tmp_path}
    expected = theirs(IMAGES, annotations, return_tensors="pt", **call)
    assert_labels(expected["labels"], ours(IMAGES, annotations, return_tensors="pt", **call).labels)
    with pytest.raises(RepoError, match="no such"):
        ours(IMAGES, annotations, masks_path=tmp_path / "elsewhere")
    with pytest.raises(InputError, match="masks_path"):
        ours(IMAGES, annotations)
    with pytest.raises(InputError, match="another size"):
        ours(IMAGES[1:2], annotations[:1], masks_path=tmp_path)


def test_polygons_become_masks(reference, monkeypatch) -> None:
    """pycocotools draws, for both."""
    annotation = detection(1, [[2, 3, 9, 8], [60, 60, 2, 2], [5, 1, 6, 20]])
    for entry in annotation["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h], [0, 0, 3, 0, 3, 3]]
    theirs, ours = both(reference, "DetrImageProcessor", **CONFIG)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pycocotools.mask", None)
        with pytest.raises(DependencyError, match="pycocotools"):
            ours(IMAGES[0], annotation, return_segmentation_masks=True)
    call = {"return_segmentation_masks": True, "return_tensors": "pt", "pad_size": 50}
    expected = theirs(IMAGES[0], copy.deepcopy(annotation), **call)
    found = ours(IMAGES[0], annotation, **call)
    assert_labels(expected["labels"], found.labels)
    assert found.labels[0].masks.any()


@pytest.mark.parametrize(
    ("annotations", "text"),
    [
        ([], "every picture"),
        (ANNOTATIONS[:2], "every picture"),
        ([3], "malformed"),
        ({"annotations": []}, "image_id"),
        ({"image_id": 1}, "annotations"),
        ({"image_id": 1, "annotations": {}}, "list"),
        ({"image_id": 1, "annotations": [4]}, "malformed"),
        ({"image_id": "x", "annotations": []}, "image_id"),
        ({"image_id": 1, "annotations": [{"bbox": [1, 2, 3, 4], "area": 1}]}, "category_id"),
        ({"image_id": 1, "annotations": [{"bbox": [1, 2, 3], "area": 1, "category_id": 1}]}, "four"),
        ({"image_id": 1, "annotations": [{"bbox": "abcd", "area": 1, "category_id": 1}]}, "bbox"),
        ({"image_id": 1, "annotations": [{"area": 1, "category_id": 1}]}, "bbox"),
    ],
    ids=str,
)
def test_bad_annotations(ours: DetrImageProcessor, annotations: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        ours(IMAGES[0], annotations)  # type: ignore[arg-type]


def test_masks_are_resized_as_pillow_does_in_the_slow_class(reference: types.ModuleType, tmp_path: Path) -> None:
    """From 80 to 60 columns the nearest is a tie, which torch and Pillow round apart."""
    coded = np.random.default_rng(0).integers(7, 9, (50, 80, 1), dtype=np.uint8) * np.array([1, 0, 0], dtype=np.uint8)
    Image.fromarray(coded).save(tmp_path / "coded.png")
    listed = [{"id": at, "category_id": at, "area": 9, "iscrowd": 0, "bbox": [1, 2, 3, 4]} for at in (7, 8)]
    given = {
        "annotations": {"image_id": 1, "file_name": "coded.png", "segments_info": listed}, "masks_path": tmp_path,
        "size": {"shortest_edge": 40, "longest_edge": 60}, "format": "coco_panoptic", "return_tensors": "pt",
    }  # fmt: skip
    ours = image_processor({"image_processor_type": "DetrImageProcessorPil"}, where="x")
    expected = reference.DetrImageProcessorPil()(Image.fromarray(coded), **given)["labels"][0]["masks"]
    assert torch.equal(ours(Image.fromarray(coded), **given)["labels"][0]["masks"], expected.bool())


@pytest.mark.parametrize("name", ["Detr", "Yolos", "RTDetr"])
def test_other_sizes_stay_a_list(reference: types.ModuleType, name: str) -> None:
    """Nothing pads them, and no tensor is asked for; the reference's fast classes fail there."""
    slow = getattr(reference, f"{name}ImageProcessorPil")(do_pad=False)
    for form in ("ImageProcessor", "ImageProcessorPil"):
        ours = image_processor({"image_processor_type": f"{name}{form}", "do_pad": False}, where="x")
        labels = {"annotations": [detection(n, [[1.0, 2.0, 9.0, 8.0]]) for n in range(len(IMAGES))]}
        found = ours(IMAGES, do_resize=False, **labels)
        assert "pixel_mask" not in found and len(found["labels"]) == len(IMAGES)
        for mine, other in zip(found["pixel_values"], slow(IMAGES, do_resize=False)["pixel_values"], strict=True):
            assert np.allclose(np.asarray(mine), np.asarray(other), atol=1e-5)


def test_other_bad_input(ours: DetrImageProcessor) -> None:
    with pytest.raises(InputError, match="format"):
        ours(IMAGES[0], ANNOTATIONS[0], format=None)
    with pytest.raises(UnknownArgumentError, match="do_pad"):
        ours(IMAGES[0], do_padd=True)
    with pytest.raises(InputError, match="sizes"):
        ours(IMAGES, do_pad=False, return_tensors="pt")
    with pytest.raises(InputError, match="format"):
        ours(IMAGES[0], format="voc")


# -- post-processing --------------------------------------------------------------------------------------------------


@dataclass
class Output:
    logits: Tensor | None
    pred_boxes: Tensor | None = None
    pred_masks: Tensor | None = None


def output(seed: int = 0, sharpness: float = 4.0) -> Output:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 12, 6, generator=g) * sharpness
    logits[2, :, -1] = 50.0  # the last picture holds nothing
    coarse = torch.randn(3, 12, 3, 4, generator=g) * 6
    masks = torch.nn.functional.interpolate(coarse, size=(9, 12), mode="bilinear")
    return Output(logits, torch.rand(3, 12, 4, generator=g), masks)


TARGETS = [(30, 41), (7, 9), (12, 12)]


def assert_equal(expected: object, found: object) -> None:
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor) and found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    elif isinstance(expected, dict):
        assert isinstance(found, dict) and set(found) == set(expected)
        for name in expected:
            assert_equal(expected[name], found[name])
    elif isinstance(expected, (list, tuple)):
        assert isinstance(found, (list, tuple)) and len(found) == len(expected)
        for left, right in zip(expected, found, strict=True):
            assert_equal(left, right)
    else:
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("sizes", [None, TARGETS, torch.tensor(TARGETS)], ids=["none", "list", "tensor"])
def test_object_detection(reference, ours: DetrImageProcessor, threshold: float, sizes: object) -> None:
    theirs = reference.DetrImageProcessor()
    expected = theirs.post_process_object_detection(output(), threshold, sizes)
    assert_equal(expected, ours.post_process_object_detection(output(), threshold, sizes))
    assert sum(len(one["scores"]) for one in expected)


@pytest.mark.parametrize("sizes", [None, TARGETS], ids=["none", "list"])
def test_semantic_segmentation(reference, ours: DetrImageProcessor, sizes: object) -> None:
    theirs = reference.DetrImageProcessor()
    assert_equal(
        theirs.post_process_semantic_segmentation(output(), sizes),
        ours.post_process_semantic_segmentation(output(), sizes),
    )
    expected = theirs.post_process_semantic_segmentation(output(), sizes, return_segmentation_scores=True)
    found = ours.post_process_semantic_segmentation(output(), sizes, return_segmentation_scores=True)
    for left, right in zip(expected, found, strict=True):
        assert_equal(left.segmentation, right.segmentation)
        assert_equal(left.segmentation_scores, right.segmentation_scores)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sizes", [None, TARGETS], ids=["none", "list"])
@pytest.mark.parametrize("thresholds", [(0.5, 0.5, 0.8), (0.2, 0.3, 0.5), (0.3, 0.9, 0.0), (0.999, 0.5, 0.8)])
def test_segments(reference, ours: DetrImageProcessor, thresholds: tuple[float, ...], sizes: object, seed: int) -> None:
    theirs = reference.DetrImageProcessor()
    expected = theirs.post_process_instance_segmentation(output(seed), *thresholds, target_sizes=sizes)
    assert_equal(expected, ours.post_process_instance_segmentation(output(seed), *thresholds, target_sizes=sizes))
    runs = theirs.post_process_instance_segmentation(output(seed), *thresholds, sizes, return_coco_annotation=True)
    found = ours.post_process_instance_segmentation(output(seed), *thresholds, sizes, return_coco_annotation=True)
    assert_equal(json.loads(json.dumps(runs, default=plain)), json.loads(json.dumps(found, default=plain)))
    for fuse in (None, {0, 3}, {0, 1, 2, 3, 4}):
        expected = theirs.post_process_panoptic_segmentation(output(seed), *thresholds, fuse, sizes)
        assert_equal(expected, ours.post_process_panoptic_segmentation(output(seed), *thresholds, fuse, sizes))


@pytest.mark.parametrize(("own", "won", "least"), [(5, 4, 0.8), (4, 2, 0.5), (10, 7, 0.7), (5, 3, 0.6), (3, 1, 1 / 3)])
def test_the_boundary_share_is_decided_in_float32(
    reference, ours: DetrImageProcessor, own: int, won: int, least: float
) -> None:
    masks = torch.full((1, 2, 1, 12), -9.0)
    masks[0, 0, 0, :own] = 2.0
    masks[0, 1, 0, won:] = 4.0
    out = Output(torch.tensor([[[20.0, 0, 0], [0, 20.0, 0]]]), None, masks)
    expected = reference.DetrImageProcessor().post_process_instance_segmentation(out, 0.5, 0.5, least)
    assert_equal(expected, ours.post_process_instance_segmentation(out, 0.5, 0.5, least))


def plain(value: object) -> object:
    return value.tolist() if isinstance(value, (Tensor, np.generic)) else value


def test_segments_are_found_at_all(ours: DetrImageProcessor) -> None:
    """The comparison above must not compare nothing with nothing."""
    found = ours.post_process_panoptic_segmentation(output(), 0.3, 0.3, 0.3, {0, 1, 2, 3, 4})
    assert len(found[0]["segments_info"]) > 2
    ids = [segment["id"] for segment in found[0]["segments_info"]]
    assert len(set(ids)) < len(ids), "no segment was fused"


def test_outputs_that_lack_something(ours: DetrImageProcessor) -> None:
    with pytest.raises(InputError, match="pred_boxes"):
        ours.post_process_object_detection(Output(torch.zeros(1, 2, 3)))
    with pytest.raises(InputError, match="pred_masks"):
        ours.post_process_panoptic_segmentation(Output(torch.zeros(1, 2, 3)))
    for sizes in ([(3, 3)], [(3, 3, 3)] * 3, [(0, 3)] * 3, torch.ones(3, 3)):
        with pytest.raises(InputError, match="target_sizes"):
            ours.post_process_object_detection(output(), target_sizes=sizes)  # type: ignore[arg-type]
