"""Maps and annotations go through the steps of their pictures: against the reference's classes, on odd pictures."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from test_images_kinds import both, picture, same

from omniform.core.errors import InputError, RepoError
from reference import omniform

LABELLED = ("Beit", "Segformer", "MobileNetV2", "MobileViT", "DPT")
SHAPES = [(41, 33), (60, 44), (30, 57)]
PHOTO = Image.fromarray(skimage.data.rocket()).resize((57, 38))


def numbers(width: int, height: int, seed: int = 0, most: int = 6) -> np.ndarray:
    """A map of patches of classes, so that resizing leaves some of each."""
    coarse = np.random.default_rng(seed).integers(0, most, (height // 5 + 1, width // 5 + 1))
    return np.kron(coarse, np.ones((5, 5), int))[:height, :width].astype(np.uint8)


def forms(array: np.ndarray) -> dict[str, object]:
    palette = Image.fromarray(array).convert("P")
    palette.putdata(array.flatten().tolist())
    return {
        "uint8": array, "int64": array.astype(np.int64), "int32": torch.from_numpy(array.astype(np.int32)),
        "tensor": torch.from_numpy(array), "grey": Image.fromarray(array), "palette": palette,
    }  # fmt: skip


def sized(name: str) -> dict[str, object]:
    shortest = {"size": {"shortest_edge": 26}, "crop_size": {"height": 24, "width": 22}}
    exact = {"size": {"height": 26, "width": 31}, "crop_size": {"height": 24, "width": 22}}
    return shortest if name.startswith("Mobile") else exact


@pytest.mark.parametrize("reduce", [False, True])
@pytest.mark.parametrize("form", ["uint8", "int64", "int32", "tensor", "grey", "palette"])
@pytest.mark.parametrize("name", [f"{name}ImageProcessor{slow}" for name in LABELLED for slow in ("", "Pil")])
def test_maps_of_classes(name: str, form: str, reduce: bool) -> None:
    theirs, ours = both(name, do_reduce_labels=reduce, **sized(name))
    maps = [forms(numbers(*shape, seed=n))[form] for n, shape in enumerate(SHAPES)]
    images = [picture(*shape, seed=n) for n, shape in enumerate(SHAPES)]
    same(theirs(images, copy.deepcopy(maps), return_tensors="pt"), ours(images, maps, return_tensors="pt"), name)
    same(theirs(images[0], copy.deepcopy(maps[0])), ours(images[0], maps[0]), name)


@pytest.mark.parametrize("name", ["DPTImageProcessor", "DPTImageProcessorPil"])
@pytest.mark.parametrize("divisor", [None, 7, 16])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("multiple", [1, 4, 14])
def test_depth_sizes(name: str, divisor: int | None, keep: bool, multiple: int) -> None:
    more = {"do_pad": divisor is not None, "size_divisor": divisor}
    theirs, ours = both(
        name, size={"height": 40, "width": 56}, keep_aspect_ratio=keep, ensure_multiple_of=multiple, **more
    )
    for shape in (*SHAPES, (28, 80)):
        image = picture(*shape)
        map_ = numbers(*shape)
        same(theirs(image, map_, return_tensors="pt"), ours(image, map_, return_tensors="pt"), str(shape))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("multiple", [1 / 32, 8, 32])
@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("name", ["ZoeDepthImageProcessor", "ZoeDepthImageProcessorPil"])
def test_zoedepth(name: str, keep: bool, multiple: float, resample: int) -> None:
    options = {"keep_aspect_ratio": keep, "ensure_multiple_of": multiple, "resample": resample}
    theirs, ours = both(name, size={"height": 48, "width": 64}, **options)
    for image in (picture(41, 33), picture(90, 60), PHOTO):
        same(theirs(image, return_tensors="pt"), ours(image, return_tensors="pt"))
        same(theirs(image, do_pad=False, return_tensors="pt"), ours(image, do_pad=False, return_tensors="pt"))


QUERIES = [f"{name}ImageProcessor{slow}" for name in ("MaskFormer", "Mask2Former") for slow in ("", "Pil")]


@pytest.mark.parametrize("reduce", [False, True])
@pytest.mark.parametrize("semantics", ["none", "one", "each"])
@pytest.mark.parametrize("name", QUERIES)
def test_maps_of_segments(name: str, semantics: str, reduce: bool) -> None:
    theirs, ours = both(
        name, size={"shortest_edge": 33, "longest_edge": 60}, size_divisor=8, ignore_index=255, do_reduce_labels=reduce
    )
    images = [picture(*shape, seed=n) for n, shape in enumerate(SHAPES)]
    maps = [numbers(*shape, seed=n) for n, shape in enumerate(SHAPES)]
    classes = {number: number % 3 + 1 for number in (*range(8), 255)}
    mapping = {"none": None, "one": classes, "each": [classes, {k: v + 1 for k, v in classes.items()}, classes]}
    for kind in ("pt", None):
        expected = theirs(images, copy.deepcopy(maps), mapping[semantics], return_tensors=kind)
        same(expected, ours(images, maps, mapping[semantics], return_tensors=kind), name)
    same(theirs(images, return_tensors="pt"), ours(images, return_tensors="pt"), name)
    theirs, ours = both(name, pad_size={"height": 70, "width": 80}, do_resize=False, ignore_index=7)
    same(theirs(images, copy.deepcopy(maps), return_tensors="pt"), ours(images, maps, return_tensors="pt"), name)


def test_old_files_of_segmenters() -> None:
    old = {"feature_extractor_type": "SegformerFeatureExtractor", "size": 30, "reduce_labels": True}
    ours = omniform.inputs.images.image_processor(old, where="x")
    assert ours(PHOTO, np.array([[0] * 57] * 38, np.uint8), return_tensors="pt").labels.unique().tolist() == [255]
    for name in QUERIES:
        for config in ({"size": 40, "max_size": 60}, {"max_size": 900}, {"size": [30, 44]}):
            theirs, ours = both(name, **config)
            assert ours.size == dict(theirs.size)
            if "size" in config:
                same(theirs(PHOTO, return_tensors="pt"), ours(PHOTO, return_tensors="pt"), name)
    former = {"image_processor_type": "MaskFormerImageProcessor", "size_divisibility": 16, "reduce_labels": True}
    ours = omniform.inputs.images.image_processor(former, where="x")
    assert ours.options.size_divisor == 16 and ours.options.do_reduce_labels and not ours.extra


@pytest.mark.parametrize("name", ["OneFormerImageProcessor", "OneFormerImageProcessorPil"])
@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
def test_texts_of_oneformer(name: str, task: str, tmp_path: Path) -> None:
    told = {str(number): {"name": f"class {number}", "isthing": number % 2} for number in range(6)}
    (tmp_path / "classes.json").write_text(json.dumps(told))
    theirs, ours = both(
        name, size={"shortest_edge": 33, "longest_edge": 60}, ignore_index=255, num_text=9,
        repo_path=str(tmp_path), class_info_file="classes.json",
    )  # fmt: skip
    images = [picture(*shape, seed=n) for n, shape in enumerate(SHAPES)]
    maps = [numbers(*shape, seed=n) for n, shape in enumerate(SHAPES)]
    classes = {number: number for number in range(6)}
    call = {"return_tensors": "pt"}
    expected = theirs(images, [task] * 3, copy.deepcopy(maps), classes, **call)
    found = ours(images, [task] * 3, maps, classes, **call)
    same(expected, found, name)
    same(theirs(images[0], return_tensors="pt"), ours(images[0], return_tensors="pt"), name)
    kept = {**theirs.to_dict(), "image_processor_type": name, "class_info_file": "elsewhere/none.json"}
    again = omniform.inputs.images.image_processor(json.loads(json.dumps(kept, default=dict)), where="x")
    assert again.metadata == theirs.metadata


@pytest.mark.parametrize("name", ["SamImageProcessor", "SamImageProcessorPil", "Sam2ImageProcessor"])
def test_sizes_of_sam(name: str) -> None:
    options: dict[str, object] = {"size": {"longest_edge": 50}, "pad_size": {"height": 60, "width": 60}}
    options |= {"mask_size": {"longest_edge": 20}, "mask_pad_size": {"height": 22, "width": 22}}
    if name.startswith("Sam2"):
        options = {"size": {"height": 50, "width": 50}, "mask_size": {"height": 20, "width": 20}}
    theirs, ours = both(name, **options)
    images = [picture(*shape, seed=n) for n, shape in enumerate(SHAPES)]
    maps = [numbers(*shape, seed=n) for n, shape in enumerate(SHAPES)]
    same(theirs(images, return_tensors="pt"), ours(images, return_tensors="pt"), name)
    if name.startswith("Sam2"):  # the reference cannot squeeze its own list
        assert ours(images, maps, return_tensors="pt").labels.shape == (3, 20, 20)
        return
    same(theirs(images, copy.deepcopy(maps), return_tensors="pt"), ours(images, maps, return_tensors="pt"), name)


DETECTORS = [
    f"{name}ImageProcessor{slow}"
    for name in ("ConditionalDetr", "DeformableDetr", "RTDetr", "Yolos", "Detr")
    for slow in ("", "Pil")
]


def objects(image_id: int, boxes: list[list[float]]) -> dict[str, object]:
    entries = [
        {
            "bbox": box, "category_id": n + 2, "area": box[2] * box[3], "iscrowd": 0,
            "segmentation": [[box[0], box[1], box[0] + 9, box[1], box[0] + 9, box[1] + 7]],
        }
        for n, box in enumerate(boxes)
    ]  # fmt: skip
    return {"image_id": image_id, "annotations": entries}


TRUTHS = [objects(1, [[1.5, 2, 10, 12.25], [30, 20, 50, 50], [5, 5, 0, 9], [-8, -8, 12, 12]]), objects(2, [])]


@pytest.mark.parametrize("name", DETECTORS)
def test_annotations_of_detectors(name: str) -> None:
    theirs, ours = both(name, size={"shortest_edge": 40, "longest_edge": 66}, do_pad=True)
    images = [picture(41, 33), picture(60, 44)]
    for more in (
        {},
        {"do_convert_annotations": False},
        {"do_resize": False},
        {"pad_size": {"height": 80, "width": 90}},
    ):
        expected = theirs(images, copy.deepcopy(TRUTHS), return_tensors="pt", **more)
        found = ours(images, TRUTHS, return_tensors="pt", **more)
        assert set(expected) == set(found)
        for left, right in zip(expected["labels"], found["labels"], strict=True):
            assert set(left) == set(right)
            for key in left:
                torch.testing.assert_close(
                    torch.as_tensor(right[key]), torch.as_tensor(left[key]), rtol=1e-6, atol=1e-6, check_dtype=False
                )
    if not name.startswith("RT"):
        call = {"return_segmentation_masks": True, "return_tensors": "pt"}
        expected = theirs(images[0], copy.deepcopy(TRUTHS[0]), **call)
        found = ours(images[0], TRUTHS[0], **call)
        masks = torch.as_tensor(expected["labels"][0]["masks"]).bool()
        assert masks.any() and torch.equal(found.labels[0].masks, masks)


def test_crowds_do_not_shift_masks() -> None:
    """The reference draws crowds too, and then keeps the wrong ones of more masks than boxes, or fails."""
    truth = copy.deepcopy(TRUTHS[0])
    truth["annotations"][0]["iscrowd"] = 1  # type: ignore[index]
    alone = {**truth, "annotations": truth["annotations"][1:]}  # type: ignore[index]
    ours = omniform.DetrImageProcessor(size={"shortest_edge": 40, "longest_edge": 66})
    call = {"return_segmentation_masks": True, "return_tensors": "pt"}
    left, right = (ours(picture(41, 33), one, **call).labels[0] for one in (truth, alone))
    assert torch.equal(left.masks, right.masks) and torch.equal(left.boxes, right.boxes)


def test_maps_that_do_not_fit(tmp_path: Path) -> None:
    segformer, maskformer = omniform.SegformerImageProcessor(do_resize=False), omniform.MaskFormerImageProcessor()
    image, right = picture(20, 10), np.zeros((10, 20), np.uint8)
    for call, text in (
        (lambda: segformer(image, np.zeros((9, 20), np.uint8)), "another size"),
        (lambda: segformer(image, [right, right]), "every picture"),
        (lambda: segformer([image, image], right), "every picture"),
        (lambda: segformer(image, picture(20, 10)), "one number"),
        (lambda: segformer(image, np.zeros((1, 1, 10, 20))), "not one map"),
        (lambda: segformer(image, np.full((10, 20), 0.5)), "whole"),
        (lambda: segformer(image, np.full((10, 20), np.nan)), "NaN"),
        (lambda: segformer(image, 3), "not a picture"),
        (lambda: maskformer(image, np.zeros((20, 40), np.uint8)), "another size"),
        (lambda: maskformer(image, right, {1: 2}), "no class"),
        (lambda: maskformer(image, right, {0: "x"}), "no class"),
        (lambda: maskformer(image, right, [{0: 1}] * 2), "for each picture"),
        (lambda: maskformer(image, right, 7), "for each picture"),
        (lambda: maskformer(image, right, do_reduce_labels=True), "ignore_index"),
        (lambda: omniform.OneFormerImageProcessor(num_text=3)(image, None, right), "called"),
        (lambda: omniform.OneFormerImageProcessor()(image, None, right), "num_text"),
        (lambda: omniform.OneFormerImageProcessor()(image, 3), "words"),
        (lambda: omniform.SamImageProcessor()(image, np.zeros((3, 3), np.uint8)), "another size"),
        (lambda: omniform.SamImageProcessor(size=30)(image), "longest_edge"),
        (lambda: omniform.ConvNextImageProcessor(size=[30, 20])(image), "shortest_edge"),
        (lambda: omniform.MaskFormerImageProcessor(size={"shortest_edge": 30})(image), "longest_edge"),
        (lambda: omniform.ZoeDepthImageProcessor(resample=0)(image), "bilinear"),
        (lambda: omniform.DPTImageProcessor(do_pad=True)(image), "size_divisor"),
    ):
        with pytest.raises(InputError, match=text):
            call()
    with pytest.raises(RepoError):
        segformer(image, tmp_path / "none.png")
    Image.fromarray(right).save(tmp_path / "map.png")
    assert segformer(image, tmp_path / "map.png", return_tensors="pt").labels.shape == (1, 10, 20)
    wide = np.full((10, 20), 40_000, np.uint16)
    for name in ("SegformerImageProcessor", "SegformerImageProcessorPil"):
        made = getattr(omniform, name)(size={"height": 5, "width": 8})
        assert made(image, wide, return_tensors="pt").labels.unique().tolist() == [40_000]
