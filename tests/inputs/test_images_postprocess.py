"""What models give, as boxes, maps, segments and depths in pixels: against the reference's classes of those names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from omniform.core.errors import InputError
from reference import omniform, transformers

SIZES = [(30, 41), (7, 9), (12, 12)]
FORMS = {
    "none": None, "list": SIZES, "lists": [list(one) for one in SIZES], "tensor": torch.tensor(SIZES),
    "larger": [(50, 3), (1, 60), (33, 33)],
}  # fmt: skip


@dataclass
class Output:
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    pred_masks: Tensor | None = None
    class_queries_logits: Tensor | None = None
    masks_queries_logits: Tensor | None = None
    predicted_depth: Tensor | None = None


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def found_boxes(seed: int = 0, queries: int = 12, classes: int = 6) -> Output:
    logits = draw(3, queries, classes, seed=seed, scale=3.0)
    logits[2] -= 20  # the last picture holds nothing
    return Output(logits, draw(3, queries, 4, seed=seed + 1).sigmoid())


def found_masks(seed: int = 0, queries: int = 9, classes: int = 6) -> Output:
    logits = draw(3, queries, classes + 1, seed=seed, scale=4.0)
    logits[2, :, -1] = 50.0  # the last picture holds nothing
    coarse = draw(3, queries, 3, 4, seed=seed + 1, scale=6.0)
    masks = torch.nn.functional.interpolate(coarse, size=(9, 12), mode="bilinear")
    return Output(logits=logits, pred_masks=masks, class_queries_logits=logits, masks_queries_logits=masks)


def both(name: str, **options: object):
    return getattr(transformers, name)(**options), getattr(omniform, name)(**options)


def equal(expected: object, found: object) -> None:
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor) and found.dtype == expected.dtype and found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    elif hasattr(expected, "items"):
        assert set(found) == set(expected)
        for name in expected:
            equal(expected[name], found[name])
    elif isinstance(expected, (list, tuple)):
        assert isinstance(found, (list, tuple)) and len(found) == len(expected)
        for left, right in zip(expected, found, strict=True):
            equal(left, right)
    else:
        assert found == pytest.approx(expected)


def plain(value: object) -> object:
    return json.loads(json.dumps(value, default=lambda one: one.tolist()))


DETECTORS = ("Detr", "ConditionalDetr", "DeformableDetr", "RTDetr", "Yolos")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [f"{name}ImageProcessor{form}" for name in DETECTORS for form in ("", "Pil")])
def test_boxes(name: str, form: str) -> None:
    theirs, ours = both(name)
    count = 0
    sizes = FORMS[form]
    for threshold in (0.0, 0.3, 0.9):
        expected = theirs.post_process_object_detection(found_boxes(), threshold, sizes)
        equal(expected, ours.post_process_object_detection(found_boxes(), threshold=threshold, target_sizes=sizes))
        count += sum(len(one["scores"]) for one in expected)
    assert count
    if name.startswith(("Cond", "Deform")):
        for top in (1, 7, 1000):
            equal(
                theirs.post_process_object_detection(found_boxes(3), 0.1, sizes, top),
                ours.post_process_object_detection(found_boxes(3), 0.1, sizes, top),
            )


def test_rtdetr_with_a_softmax() -> None:
    """The reference takes the softmax over the batch there, so that every score is that of another picture's."""
    ours = omniform.RTDetrImageProcessor()
    softmax = omniform.YolosImageProcessor().post_process_object_detection(found_boxes(), 0.3, SIZES)
    equal(softmax, ours.post_process_object_detection(found_boxes(), 0.3, SIZES, use_focal_loss=False))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["Beit", "Segformer", "MobileNetV2", "MobileViT", "DPT"])
def test_maps_of_logits(name: str, form: str) -> None:
    theirs, ours = both(f"{name}ImageProcessor")
    output = Output(draw(3, 5, 6, 8))
    # The reference cannot read its own tensors of sizes in some of these classes.
    sizes = SIZES if form == "tensor" else FORMS[form]
    for scores in (False, True):
        equal(
            theirs.post_process_semantic_segmentation(output, sizes, scores),
            ours.post_process_semantic_segmentation(output, FORMS[form], return_segmentation_scores=scores),
        )


SEGMENTERS = ("Detr", "ConditionalDetr", "MaskFormer", "Mask2Former", "OneFormer")
THRESHOLDS = [(0.5, 0.5, 0.8), (0.2, 0.3, 0.5), (0.3, 0.9, 0.0), (0.999, 0.5, 0.8)]


@pytest.mark.parametrize("form", ["none", "list", "larger"])
@pytest.mark.parametrize("name", [f"{name}ImageProcessor" for name in SEGMENTERS] + ["OneFormerImageProcessorPil"])
def test_segments(name: str, form: str, tmp_path: Path) -> None:
    theirs, ours = both(name, **(classes(tmp_path) if name.startswith("One") else {}))
    sizes = FORMS[form]
    found = 0
    for scores in (False, True):
        equal(
            theirs.post_process_semantic_segmentation(found_masks(), sizes, scores),
            ours.post_process_semantic_segmentation(found_masks(), sizes, return_segmentation_scores=scores),
        )
    # Masks of 384 x 384 take their time.
    for seed, (threshold, least, share) in enumerate(THRESHOLDS[:2] if name.startswith("Mask2") else THRESHOLDS):
        call = {"threshold": threshold, "mask_threshold": least, "overlap_mask_area_threshold": share}
        call["target_sizes"] = sizes
        for fuse in (None, {0, 1, 2, 3}):
            expected = theirs.post_process_panoptic_segmentation(found_masks(seed), label_ids_to_fuse=fuse, **call)
            equal(expected, ours.post_process_panoptic_segmentation(found_masks(seed), label_ids_to_fuse=fuse, **call))
            found += len(expected[0]["segments_info"])
        equal(
            theirs.post_process_instance_segmentation(found_masks(seed), **call),
            ours.post_process_instance_segmentation(found_masks(seed), **call),
        )
        expected = theirs.post_process_instance_segmentation(found_masks(seed), return_coco_annotation=True, **call)
        runs = ours.post_process_instance_segmentation(found_masks(seed), return_coco_annotation=True, **call)
        equal(plain(expected), plain(runs))
        if name.startswith("Mask"):
            equal(
                theirs.post_process_instance_segmentation(found_masks(seed), return_binary_maps=True, **call),
                ours.post_process_instance_segmentation(found_masks(seed), return_binary_maps=True, **call),
            )
    assert found > 3


def classes(folder: Path, name: str = "classes.json", things: tuple[int, ...] = (1, 3, 4)) -> dict[str, object]:
    told = {str(number): {"name": f"class {number}", "isthing": int(number in things)} for number in range(6)}
    (folder / name).write_text(json.dumps(told))
    return {"repo_path": str(folder), "class_info_file": name}


@pytest.mark.parametrize("file", ["classes.json", "ade20k.json"])
def test_tasks_of_oneformer(file: str, tmp_path: Path) -> None:
    things = (1, 3, 4) if file == "classes.json" else tuple(range(6))
    theirs, ours = both("OneFormerImageProcessor", **classes(tmp_path, file, things))
    assert ours.metadata == theirs.metadata
    for task in ("instance", "panoptic", "semantic"):
        for demo in (True, False):
            for sizes in (None, SIZES):
                call = {"task_type": task, "is_demo": demo, "threshold": 0.2, "target_sizes": sizes}
                call |= {"overlap_mask_area_threshold": 0.1}
                equal(
                    theirs.post_process_instance_segmentation(found_masks(2), **call),
                    ours.post_process_instance_segmentation(found_masks(2), **call),
                )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["DPT", "GLPN", "DPTPil"])
def test_depths(name: str, form: str) -> None:
    theirs, ours = both(name.replace("Pil", "") + "ImageProcessor" + ("Pil" if name.endswith("Pil") else ""))
    output = Output(predicted_depth=draw(3, 6, 8))
    sizes = FORMS[form] if form != "larger" else [(50, 3), (2, 60), (33, 33)]
    if isinstance(sizes, Tensor):
        expected = theirs.post_process_depth_estimation(output, sizes.tolist())
    else:
        expected = theirs.post_process_depth_estimation(output, sizes)
    equal(expected, ours.post_process_depth_estimation(output, sizes))


def test_a_row_of_depths_stays_a_row() -> None:
    found = omniform.DPTImageProcessor().post_process_depth_estimation(Output(predicted_depth=draw(1, 6, 8)), [(1, 5)])
    assert found[0]["predicted_depth"].shape == (1, 5)


@pytest.mark.parametrize("name", ["ZoeDepthImageProcessor", "ZoeDepthImageProcessorPil"])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("cut", [None, True, False])
def test_depths_of_zoedepth(name: str, flipped: bool, cut: bool | None) -> None:
    theirs, ours = both(name)
    output = Output(predicted_depth=draw(3, 16, 20))
    call: dict[str, object] = {"do_remove_padding": cut}
    call["outputs_flipped"] = Output(predicted_depth=draw(3, 16, 20, seed=5)) if flipped else None
    for sources in (SIZES, [(9, 9)] * 3, None):
        for targets in (SIZES, torch.tensor(SIZES), None):
            if sources is None and cut is not False:
                with pytest.raises(InputError, match="border"):
                    ours.post_process_depth_estimation(output, sources, targets, **call)
                continue
            equal(
                theirs.post_process_depth_estimation(output, sources, targets, **call),
                ours.post_process_depth_estimation(output, sources, targets, **call),
            )


def test_what_cannot_be_read() -> None:
    maskformer, dpt = omniform.MaskFormerImageProcessor(), omniform.DPTImageProcessor()
    zoe, oneformer = omniform.ZoeDepthImageProcessor(), omniform.OneFormerImageProcessor()
    depth, deformable = Output(predicted_depth=draw(3, 6, 8)), omniform.DeformableDetrImageProcessor()
    for call, text in (
        (lambda: maskformer.post_process_instance_segmentation(Output()), "class_queries_logits"),
        (lambda: maskformer.post_process_semantic_segmentation(found_masks(), SIZES[:2]), "target_sizes"),
        (lambda: maskformer.post_process_panoptic_segmentation(found_masks(), target_sizes=[(0, 3)] * 3), "target"),
        (
            lambda: maskformer.post_process_instance_segmentation(
                found_masks(), return_coco_annotation=True, return_binary_maps=True
            ),
            "either",
        ),
        (lambda: dpt.post_process_depth_estimation(Output(logits=draw(1, 2, 3))), "depth"),
        (lambda: dpt.post_process_depth_estimation(depth, SIZES * 2), "target_sizes"),
        (lambda: zoe.post_process_depth_estimation(depth, SIZES[:1]), "source_sizes"),
        (lambda: zoe.post_process_depth_estimation(depth, SIZES, outputs_flipped=Output(predicted_depth=draw(3, 2, 2))),
         "shape"),
        (lambda: dpt.post_process_semantic_segmentation(found_boxes()), "dimensions"),
        (lambda: dpt.post_process_semantic_segmentation(Output(draw(1, 2, 3, 4)), [(10**5, 10**5)]), "large"),
        (lambda: oneformer.post_process_instance_segmentation(found_masks(), "panoptic", threshold=0.0), "called"),
        (lambda: deformable.post_process_object_detection(found_boxes(), top_k=0), "top_k"),
        (
            lambda: omniform.YolosImageProcessor().post_process_object_detection(
                Output(draw(2, 3, 4), draw(1, 3, 4))
            ),
            "different",
        ),
    ):  # fmt: skip
        with pytest.raises(InputError, match=text):
            call()


def test_a_tensor_of_sizes_may_be_of_numpy() -> None:
    theirs, ours = both("SegformerImageProcessor")
    output = Output(draw(3, 5, 6, 8))
    equal(
        theirs.post_process_semantic_segmentation(output, SIZES),
        ours.post_process_semantic_segmentation(output, np.array(SIZES)),
    )
