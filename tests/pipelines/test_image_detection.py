"""Objects, segments and depth, against the reference's pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from seen import both, detr, mask2former, oneformer, pictures, rt_detr, same, segformer, vit, ways, yolos

from omniform import AutoImageProcessor, AutoModel
from omniform.core.batch import Batch
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.pipelines import KeyDataset
from omniform.pipelines.attending import attention_over
from omniform.pipelines.depth_estimation import DepthEstimationPipeline, grey
from omniform.pipelines.image_segmentation import run_lengths, share_of
from reference import transformers


def test_objects_are_the_references() -> None:
    ours, theirs = both("object-detection", detr())
    low = {"threshold": 0.05}
    expected = theirs(pictures(), **low)
    assert sum(map(len, expected)) > 4
    for how, answers in ways(ours, KeyDataset, **low):
        same(answers, expected, how)
    same(ours(images=pictures()[0]), theirs(images=pictures()[0]))
    rows = ours.rows(ours(pictures()[0], **low))
    assert list(rows[0]) == ["label", "score", "xmin", "ymin", "xmax", "ymax"]
    for given in ({"threshold": float("nan")}, {"threshold": "high"}):
        with pytest.raises(InputError, match="threshold"):
            ours(pictures()[0], **given)
    with pytest.raises(UnknownArgumentError, match="threshold"):
        ours(pictures()[0], treshold=0.1)


@pytest.mark.parametrize("subtask", [None, "panoptic", "instance", "semantic"])
def test_segments_of_all_three_kinds_are_the_references(subtask: str | None) -> None:
    ours, theirs = both("image-segmentation", detr("ForSegmentation"))
    given = {"threshold": 0.1, "mask_threshold": 0.3, "overlap_mask_area_threshold": 0.1}
    given |= {} if subtask is None else {"subtask": subtask}
    expected = theirs(pictures(), **given)
    assert sum(map(len, expected)) > 2
    for how, answers in ways(ours, KeyDataset, **given):
        same(answers, expected, f"{subtask}, {how}")
    same(ours(pictures()[0]), theirs(pictures()[0]))
    for row, one in zip(ours.rows(expected[0]), expected[0], strict=True):
        assert row["label"] == one["label"] and row["share"] == pytest.approx(np.asarray(one["mask"]).mean() / 255)
    with pytest.raises(InputError, match="subtask"):
        ours(pictures()[0], subtask="none")


def test_classes_of_pixels_alone() -> None:
    ours, theirs = both("image-segmentation", segformer())
    expected = theirs(pictures())
    assert sum(map(len, expected)) > 6
    for how, answers in ways(ours, KeyDataset):
        same(answers, expected, how)
    same(ours(pictures()[0], subtask="semantic"), theirs(pictures()[0], subtask="semantic"))
    for subtask in ("panoptic", "instance"):
        with pytest.raises(InputError, match="does not do this"):
            ours(pictures()[0], subtask=subtask)


def test_objects_of_a_vit_that_finds_them() -> None:
    ours, theirs = both("object-detection", yolos())
    same(ours(pictures(), threshold=0.1, batch_size=2), theirs(pictures(), threshold=0.1))
    looked = attention_over(ours, pictures()[0], {})
    assert looked.weights.shape == (4, 6) and looked.weights.sum() <= 1.0001


def test_objects_of_a_detector_without_a_class_for_nothing() -> None:
    ours, theirs = both("object-detection", rt_detr())
    given = {"threshold": 0.4}
    expected = theirs(pictures(), **given)
    assert sum(map(len, expected)) > 4
    for how, answers in ways(ours, KeyDataset, **given):
        same(answers, expected, how)
    assert attention_over(ours, pictures()[0], {}).weights.shape == (2, 2)  # its decoder's is no map, its encoder's is


@pytest.mark.parametrize("folder", [mask2former, oneformer])
@pytest.mark.parametrize("subtask", [None, "panoptic", "instance", "semantic"])
def test_segments_of_queries(folder: Callable[[], Path], subtask: str | None) -> None:
    ours, theirs = both("image-segmentation", folder())
    given = {"threshold": 0.15, "mask_threshold": 0.1, "overlap_mask_area_threshold": 0.01}
    given |= {} if subtask is None else {"subtask": subtask}
    expected = [theirs(one, **given) for one in pictures()]
    assert sum(map(len, expected)) > 1
    same([ours(one, **given) for one in pictures()], expected)
    same(ours(pictures(), batch_size=3, **given), expected)


def test_masks_are_told_as_cocos_run_lengths() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    for seed in range(3):
        mask = np.random.default_rng(seed).integers(0, 2, (7, 5), dtype=np.uint8)
        told = run_lengths(Image.fromarray(mask * 255))
        compressed = coco.frPyObjects(told, 7, 5)
        assert (coco.decode(compressed) == mask).all()
        assert share_of(Image.fromarray(mask * 255)) == pytest.approx(mask.mean())


def test_a_depth_picture_spans_from_black_to_white() -> None:
    depth = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    assert np.asarray(grey(depth)).tolist() == [[0, 63], [127, 255]]
    assert np.asarray(grey(torch.full((2, 3), 7.0))).tolist() == [[0, 0, 0], [0, 0, 0]]


class Flat:
    """A ``_forward`` that takes a picture's brightness for its depth."""

    def _forward(self, model_inputs, **given):
        inputs = dict(model_inputs)
        size = inputs.pop("target_size")
        depth = inputs["pixel_values"].mean(1)
        return self.output(predicted_depth=depth, target_size=size)


def test_depth_is_the_references(tmp_path: Path) -> None:
    class Ours(Flat, DepthEstimationPipeline):
        output = staticmethod(lambda **entries: Batch(entries))

    class Theirs(Flat, transformers.DepthEstimationPipeline):
        output = transformers.modeling_outputs.ModelOutput

    transformers.DPTImageProcessor(size={"height": 32, "width": 48}).save_pretrained(tmp_path)
    own, model = vit("Model"), transformers.ViTModel.from_pretrained(vit("Model"))
    ours = Ours(AutoModel.from_pretrained(own), image_processor=AutoImageProcessor.from_pretrained(tmp_path), device=-1)
    theirs = Theirs(model, image_processor=transformers.AutoImageProcessor.from_pretrained(tmp_path), device="cpu")
    expected = [theirs(one) for one in pictures()]
    for how, answers in ways(ours, KeyDataset):
        same(answers, expected, how)
    assert ours.unit is None and ours(pictures()[0], parameters={"timeout": 3})
    row = ours.rows(ours(pictures()[0]))[0]
    depth = expected[0]["predicted_depth"]
    assert row["max"] == pytest.approx(depth.max().item(), abs=0.02) and row["unit"] == "relative"
    assert ours.plain(ours(pictures()[0]))["shape"] == [60, 90]
    drawn = ours.draw(pictures()[0], ours(pictures()[0]))
    assert drawn.width > 1000 and drawn.height > 360
    with pytest.raises(InputError, match="measures no depth"):
        Ours(ours.model, image_processor=AutoImageProcessor.from_pretrained(detr()))(pictures()[0])
