"""Idefics3's and SmolVLM's image processors, and Idefics3's processor, against the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from test_processors import compare, same
from test_tokenizers_folders import llava

import omniform
from omniform.core.errors import InputError
from reference import transformers

SMALL = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 28}}


def picture(width, height, mode="RGB"):
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


PICTURES = [picture(60, 40), picture(31, 90, "L"), picture(28, 28)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("idefics3")
    tokenizer = transformers.AutoTokenizer.from_pretrained(llava(folder / "tokenizer"))
    images = transformers.Idefics3ImageProcessor(**SMALL)
    transformers.Idefics3Processor(images, tokenizer, image_seq_len=4).save_pretrained(folder / "saved")
    return tuple(library.AutoProcessor.from_pretrained(folder / "saved") for library in (omniform, transformers))


@pytest.mark.parametrize("kind", ["Idefics3", "SmolVLM"])
@pytest.mark.parametrize("pil", ["", "Pil"])
@pytest.mark.parametrize(
    ("pictures", "options"),
    [
        ([[PICTURES[0]], [PICTURES[1], PICTURES[2]]], {}),
        (PICTURES, {"return_row_col_info": True}),
        ([[], [PICTURES[1]]], {"do_image_splitting": False}),
        (PICTURES[0], {"do_resize": False, "do_normalize": False, "resample": 3}),
        (PICTURES[:2], {"do_image_splitting": False, "do_pad": False}),
    ],
)
def test_squares(kind, pil, pictures, options):
    ours, theirs = (getattr(library, f"{kind}ImageProcessor{pil}")(**SMALL) for library in (omniform, transformers))
    expected = theirs(pictures, return_tensors="pt", **options)
    found = ours(pictures, return_tensors="pt", **options)
    assert list(found) == list(expected)
    for name in expected:
        same(found[name], expected[name], name)


def test_how_many_squares():
    ours, theirs = (library.Idefics3ImageProcessor(**SMALL) for library in (omniform, transformers))
    for size in ((40, 60), (90, 31), (10, 10)):
        assert ours.get_number_of_image_patches(*size) == theirs.get_number_of_image_patches(*size)


@pytest.mark.parametrize(
    "call",
    [
        {"text": ["hello <image> the <image>", "<image> fox"], "images": PICTURES},
        {"text": ["hello <image>", "fox"], "images": [[PICTURES[1]], []]},
        {"text": "<image> fox", "images": [[PICTURES[2]]], "images_kwargs": {"do_image_splitting": False}},
        {"text": ["hello", "the fox"]},
    ],
)
def test_same_inputs(pair, call):
    compare(pair, padding=True, return_tensors="pt", **call)


def test_saving(pair, tmp_path):
    pair[0].save_pretrained(tmp_path)
    again = transformers.AutoProcessor.from_pretrained(tmp_path)
    call = {"text": "<image> fox", "images": PICTURES[1], "return_tensors": "pt"}
    compare((omniform.AutoProcessor.from_pretrained(tmp_path), again), **call)
    assert again.image_seq_len == 4


def test_other_numbers_of_pictures(pair):
    with pytest.raises(InputError, match="placeholder"):
        pair[0](text="<image>", images=PICTURES[:2])
