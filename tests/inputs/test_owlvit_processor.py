"""OWL-ViT's and OWLv2's processors against the reference's: pictures, queries, and what was found."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_processors import same
from test_tokenizers_folders import clip

import omniform
from omniform.core.errors import InputError
from reference import transformers

NAMES = ("OwlViT", "Owlv2")


def drawn(seed: int, height: int, width: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


PICTURES = [drawn(0, 40, 50), drawn(1, 90, 61), drawn(2, 17, 20)]


def both(name: str, slow: bool = False, **options: object):
    name = f"{name}ImageProcessor" + ("Pil" if slow else "")
    return getattr(omniform, name)(**options), getattr(transformers, name)(**options)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"do_pad": False}, {"size": {"height": 33, "width": 24}}, {"do_rescale": False, "do_normalize": False},
        {"do_normalize": False}, {"do_rescale": False}, {"resample": 0}, {"rescale": False},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
def test_pixels(name, options, slow):
    options = {"size": {"height": 24, "width": 24}, **options}
    ours, theirs = both(name, slow, **options)
    found, expected = (one(PICTURES, return_tensors="pt")["pixel_values"] for one in (ours, theirs))
    assert found.dtype == expected.dtype and found.shape == expected.shape
    # Whole numbers are rounded by either.
    near = 1.01 if not options.get("do_rescale", options.get("rescale", True)) else 2e-5
    assert (found.double() - expected.double()).abs().max() < near


@pytest.mark.parametrize("name", NAMES)
def test_larger_pictures(name):
    ours, theirs = both(name, size={"height": 70, "width": 70})
    found, expected = (one(PICTURES, return_tensors="pt")["pixel_values"] for one in (ours, theirs))
    assert (found - expected).abs().max() < 1e-4


def outputs(seed: int = 0, queries: int = 3):
    torch.manual_seed(seed)
    boxes = torch.rand(2, 12, 4)
    return SimpleNamespace(logits=torch.randn(2, 12, queries), pred_boxes=boxes, target_pred_boxes=boxes)


SIZES = [None, [(40, 60), (90, 30)], torch.tensor([[40, 60], [90, 30]])]


@pytest.mark.parametrize("sizes", SIZES, ids=["none", "list", "tensor"])
@pytest.mark.parametrize("name", NAMES)
def test_found(name, sizes):
    ours, theirs = both(name)
    for threshold in (0.1, 0.6, 0.99):
        call = {"outputs": outputs(), "threshold": threshold, "target_sizes": sizes}
        found, expected = (one.post_process_object_detection(**call) for one in (ours, theirs))
        for one, other in zip(found, expected, strict=True):
            assert list(one) == list(other)
            same([*one.values()], [*other.values()])


@pytest.mark.parametrize("sizes", [SIZES[0], SIZES[2]], ids=["none", "tensor"])
@pytest.mark.parametrize("name", NAMES)
def test_found_by_pictures(name, sizes):
    ours, theirs = both(name)
    for threshold, overlap in ((0.0, 0.3), (0.6, 0.3), (0.2, 1.0), (0.0, 0.05), (0.999, 0.3)):
        call = {"threshold": threshold, "nms_threshold": overlap, "target_sizes": sizes}
        found, expected = (
            one.post_process_image_guided_detection(outputs(queries=1), **call) for one in (ours, theirs)
        )
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one["labels"] is None is other["labels"]
            same([one["scores"], one["boxes"]], [other["scores"], other["boxes"]])


@pytest.fixture(scope="module", params=NAMES)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("owl")
    name = request.param
    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip(folder / "tokenizer"), model_max_length=16)
    images = getattr(transformers, f"{name}ImageProcessor")(size={"height": 24, "width": 24})
    getattr(transformers, f"{name}Processor")(images, tokenizer).save_pretrained(folder / "saved")
    found = [one.AutoProcessor.from_pretrained(folder / "saved") for one in (omniform, transformers)]
    assert type(found[0]) is getattr(omniform, f"{name}Processor")
    return found


@pytest.mark.parametrize(
    "call",
    [
        {"images": PICTURES[0], "text": "fox"},
        {"images": PICTURES[0], "text": ["a fox", "the world"]},
        {"images": PICTURES[:2], "text": [["a fox", "world", "hello"], ["fox"]]},
        {"images": PICTURES[:2], "text": [["a fox"], ["fox", "hello"]], "return_tensors": "pt"},
        {"images": PICTURES[:2], "text": [["a fox"], ["the fox"]], "return_tensors": "np", "padding": True},
        {"images": PICTURES[:1], "text": ["fox"], "text_kwargs": {"max_length": 9}},
        {"text": [["fox"], ["a", "b"]]},
        {"images": PICTURES},
        {"images": PICTURES[:2], "query_images": PICTURES[1:]},
        {"images": PICTURES[0], "query_images": PICTURES[1], "text": "fox"},
        {"images": PICTURES[0], "images_kwargs": {"query_images": PICTURES[1], "do_normalize": False}},
        {"query_images": PICTURES[0]},
    ],
    ids=lambda call: ",".join(call),
)  # fmt: skip
def test_calls(pair, call):
    ours, theirs = pair
    found, expected = ours(**call), theirs(**call)
    assert list(found) == list(expected)
    for name in expected:
        same(found[name], expected[name], name)


def test_found_in_words(pair):
    for labels in (None, [["a", "b", "c"], ["d", "e", "f"]]):
        call = {"outputs": outputs(), "target_sizes": SIZES[1], "text_labels": labels, "threshold": 0.5}
        found, expected = (one.post_process_grounded_object_detection(**call) for one in pair)
        for one, other in zip(found, expected, strict=True):
            assert one["text_labels"] == other["text_labels"]
            same(one["boxes"], other["boxes"])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({}, "neither"),
        ({"text": [["fox"], "fox"]}, r"text\[1\]"),
        ({"text": ["fox", ["fox"]]}, "row 1"),
        ({"text": "fox", "return_tensors": None}, "return_tensors"),
        ({"text": 3}, "text"),
    ],
)
def test_bad_calls(pair, call, says):
    with pytest.raises(InputError, match=says):
        pair[0](**call)
    with pytest.raises(InputError, match="text_labels"):
        pair[0].post_process_grounded_object_detection(outputs(), text_labels=[["a"]])
