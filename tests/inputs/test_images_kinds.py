"""Every family's processor against the reference's class of that name, fast and slow: equal pixels, equal files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from omniform.inputs.images.kinds import image_processor
from omniform.inputs.images.processor import ImageProcessor
from omniform.inputs.images.table import KINDS
from reference import omniform, transformers

NAMES = [name + form for name, kind in KINDS.items() for form in (("", "Pil") if kind.slow else ("",))]
PHOTOS = [
    Image.fromarray(skimage.data.chelsea()).resize((150, 100)),
    Image.fromarray(skimage.data.coffee()).resize((90, 61)),
]


def picture(width: int, height: int, seed: int = 0, channels: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8))


def both(name: str, **config: object):
    theirs = getattr(transformers, name)(**config)
    return theirs, image_processor({"image_processor_type": name, **config}, where="preprocessor_config.json")


def same(expected, found, what: str = "") -> None:
    """Equal entries, types and numbers, in tensors, arrays and lists of them."""
    assert set(found) == set(expected), what
    for name, value in expected.items():
        equal(value, found[name], f"{what} {name}")


def equal(expected: object, found: object, what: str) -> None:
    if isinstance(expected, (list, tuple)):
        assert len(expected) == len(found), what  # type: ignore[arg-type]
        for left, right in zip(expected, found, strict=True):  # type: ignore[call-overload]
            equal(left, right, what)
    elif hasattr(expected, "items"):
        same(expected, found, what)
    elif isinstance(expected, (torch.Tensor, np.ndarray)):
        assert type(found) is type(expected), what
        left, right = (torch.as_tensor(np.array(value)) for value in (expected, found))
        assert right.dtype == left.dtype, what
        torch.testing.assert_close(right, left, rtol=0, atol=0, msg=lambda text: f"{what}: {text}")
    else:
        assert found == expected, what


def small(name: str) -> dict[str, object]:
    """Options by which pictures stay small, in the form that the kind resizes to."""
    size = KINDS[name.removesuffix("Pil")].defaults.size
    form = type(size).__name__
    sizes = {
        "Exact": {"height": 32, "width": 24}, "ShortestEdge": {"shortest_edge": 24},
        "EdgeRange": {"shortest_edge": 40, "longest_edge": 70}, "LongestEdge": {"longest_edge": 33},
    }  # fmt: skip
    options: dict[str, object] = {"size": sizes[form]} if form in sizes else {}
    if KINDS[name.removesuffix("Pil")].defaults.crop_size is not None:
        options["crop_size"] = {"height": 21, "width": 22}
    if name.startswith("SamImage"):
        options |= {"pad_size": {"height": 40, "width": 40}, "mask_size": {"longest_edge": 9}}
        options["mask_pad_size"] = {"height": 12, "width": 12}
    return options


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_the_references(name: str) -> None:
    theirs, ours = both(name)
    told = json.loads(theirs.to_json_string())
    # The reference forgets which class it was; the file says it here.
    assert ours.to_dict() == {**told, "image_processor_type": name}
    assert list(ours.model_input_names) == theirs.model_input_names
    assert ours.backend == theirs.backend
    assert type(ours) is getattr(omniform, name) and isinstance(ours, ImageProcessor)
    assert image_processor(ours.to_dict(), where="again") == ours


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_the_references(name: str) -> None:
    theirs, ours = both(name, **small(name))
    for image in (*PHOTOS, picture(41, 33), picture(40, 36), picture(34, 90), picture(43, 99)):
        same(theirs(image, return_tensors="pt"), ours(image, return_tensors="pt"), name)
    batch = [*PHOTOS, picture(45, 35)]
    same(theirs(batch[:1]), ours(batch[:1]), name)
    same(theirs([picture(40, 60)] * 2, return_tensors="np"), ours([picture(40, 60)] * 2, return_tensors="np"), name)
