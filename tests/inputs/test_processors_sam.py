"""SAM's and SAM 2's processors beside the reference's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from omniform.core.errors import InputError
from reference import close, omniform, transformers

SMALL = {"sam": {"size": {"longest_edge": 32}, "pad_size": {"height": 32, "width": 32}},
    "sam2": {"size": {"height": 32, "width": 32}}}  # fmt: skip
NAMES = {"sam": "Sam", "sam2": "Sam2"}


def picture(width: int = 50, height: int = 37, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=["sam", "sam2"])
def both(request, tmp_path_factory):
    folder, name = tmp_path_factory.mktemp(request.param), NAMES[request.param]
    images = getattr(transformers, f"{name}ImageProcessor")(**SMALL[request.param])
    theirs = getattr(transformers, f"{name}Processor")(images)
    theirs.save_pretrained(folder)
    return omniform.AutoProcessor.from_pretrained(folder), theirs


TWO = {"images": [picture(), picture(20, 60, 1)]}
POINTS = [[[[10.0, 5.0], [3, 4]], [[1, 2], [7.5, 8]]], [[[0, 0], [19, 59]], [[5, 5], [6, 6]]]]
LABELS = [[[1, 0], [1, 1]], [[0, 1], [1, 1]]]
PROMPTS = [
    {},
    {"input_points": POINTS, "input_labels": LABELS},
    {"input_points": torch.tensor(POINTS), "input_boxes": [[[1, 2, 30, 20]], [[0, 0, 20.0, 60]]]},
    {"input_boxes": [[[1, 2, 30, 20], [0, 0, 5, 5]], [[0, 0, 20.0, 60], [3, 3, 9, 9]]]},
]


def alike(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        close(torch.as_tensor(found[name]), torch.as_tensor(value), name, 2e-2 if name == "pixel_values" else 1e-6)
        assert torch.as_tensor(found[name]).dtype == torch.as_tensor(value).dtype, name


@pytest.mark.parametrize("prompts", PROMPTS, ids=range(len(PROMPTS)))
def test_prompts(both, prompts):
    ours, theirs = both
    alike(ours(**TWO, **prompts, return_tensors="pt"), theirs(**TWO, **prompts, return_tensors="pt"))


def test_lists_of_other_lengths(both):
    ours, theirs = both
    if type(ours).__name__ == "SamProcessor":
        points, labels = [[[1, 2], [3, 4]], [[5, 6]]], [[1, 0], [1]]
    else:
        points, labels = [[[[1, 2], [3, 4]]], [[[5, 6]], [[7, 8], [9, 9]]]], [[[1, 0]], [[1], [0, 1]]]
    given = {**TWO, "input_points": points, "input_labels": labels, "return_tensors": "pt"}
    if type(ours).__name__ == "SamProcessor":
        given["point_pad_value"] = -10
        found = ours(**{k: v for k, v in given.items() if k != "point_pad_value"})
    else:
        found = ours(**given)
    alike(found, theirs(**given))


def test_files(both, tmp_path):
    ours, _ = both
    ours.save_pretrained(tmp_path)
    again = type(ours).from_pretrained(tmp_path)
    assert again.to_dict() == ours.to_dict() and again.target_size == 32


def test_masks_back(both):
    ours, theirs = both
    masks = [torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    sizes = {"original_sizes": [[37, 50], [60, 20]]}
    if type(ours).__name__ == "SamProcessor":
        sizes["reshaped_input_sizes"] = [[24, 32], [32, 11]]
    for options in ({}, {"binarize": False}, {"mask_threshold": 0.3}):
        found = ours.post_process_masks(masks, **sizes, **options)
        for mine, other in zip(found, theirs.post_process_masks(list(masks), **sizes, **options), strict=True):
            assert mine.dtype == other.dtype
            close(mine.float(), other.float())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"input_points": [1, 2]}, "input_points"),
        ({"input_points": [[[[1, 2, 3]]]] * 2}, "input_points"),
        ({"input_points": POINTS, "input_labels": [[[1]], [[1]]]}, "input_labels"),
        ({"input_points": [[[["a", 2]]]] * 2}, "input_points"),
        ({"input_points": [[[[float("nan"), 2]]]] * 2}, "input_points"),
        ({"input_boxes": [[[1, 2, 3, float("inf")]]] * 2}, "input_boxes"),
        ({"input_points": POINTS + POINTS}, "input_points"),
        ({"input_boxes": [[[1, 2, 3, 4]], [[1, 2, 3, 4], [1, 2, 3, 4]]]}, "input_boxes"),
        ({"images": None}, "pictures"),
    ],
)
def test_bad_prompts(both, given, words):
    with pytest.raises(InputError, match=words):
        both[0](**{**TWO, **given})
