"""Pix2Struct's patches, the text written above them, and its processor, against the reference's."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFont
from test_processors import compare
from test_tokenizers_folders import gpt2

import omniform
from omniform.core.errors import InputError, MissingPartError, RepoError
from reference import transformers

PICTURES = [
    Image.fromarray(np.random.default_rng(n).integers(0, 256, (*size, 3), dtype=np.uint8))
    for n, size in enumerate([(40, 50), (90, 31), (20, 20), (4, 120)])
]
PATCH = {"patch_size": {"height": 8, "width": 4}, "max_patches": 30}
# A font that every Pillow brings along.
FONT = {"font_bytes": ImageFont.load_default(20).font_bytes}


@pytest.fixture
def font(tmp_path, monkeypatch):
    """The reference fetches its font."""
    file = tmp_path / "font.ttf"
    file.write_bytes(FONT["font_bytes"])
    fetch = SimpleNamespace(hf_hub_download=lambda *args: str(file))
    for form in ("", "_pil"):
        module = f"transformers.models.pix2struct.image_processing{form}_pix2struct"
        monkeypatch.setattr(import_module(module), "hf_api", lambda: fetch)
    return file


@pytest.mark.parametrize("form", ["", "Pil"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"do_normalize": False}, {"max_patches": 7}, {"patch_size": {"height": 5, "width": 5}},
     {"is_vqa": True, "header_text": "what is the total of all that was paid? " * 3}],
)  # fmt: skip
def test_pictures(form, settings, font):
    made = [getattr(library, f"Pix2StructImageProcessor{form}")(**PATCH) for library in (omniform, transformers)]
    for picture in PICTURES:
        ours = made[0](picture, **settings, **FONT, return_tensors="np")
        theirs = made[1](picture, **settings, return_tensors="np")
        for name in ("flattened_patches", "attention_mask"):
            np.testing.assert_allclose(ours[name], theirs[name], atol=2e-4, rtol=1e-4)
    assert made[0].to_dict()["patch_size"] == PATCH["patch_size"]
    assert {*made[0](PICTURES)} == {"flattened_patches", "attention_mask"}


def pair(folder, **settings):
    tokenizer = transformers.AutoTokenizer.from_pretrained(gpt2(folder / "tokenizer"))
    tokenizer.pad_token = "<|endoftext|>"
    images = transformers.Pix2StructImageProcessor(**PATCH, **settings)
    transformers.Pix2StructProcessor(images, tokenizer).save_pretrained(folder / "saved")
    return tuple(library.AutoProcessor.from_pretrained(folder / "saved") for library in (omniform, transformers))


CALLS = [
    {"images": PICTURES, "return_tensors": "pt"},
    {"images": PICTURES[:2], "text": ["hello", "the fox"], "padding": True, "return_tensors": "pt", "max_patches": 9},
    {"images": PICTURES[0], "text": "hello", "add_special_tokens": False, "max_patches": 9},
    {"text": ["hello", "the fox"]},
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: ",".join(call))
def test_calls(tmp_path, call):
    both = pair(tmp_path)
    compare(both, **call)
    assert set(both[0].model_input_names) == set(both[1].model_input_names)
    both[0].save_pretrained(tmp_path / "again")
    compare((omniform.AutoProcessor.from_pretrained(tmp_path / "again"), both[1]), **call)


def test_questions_are_written_above(tmp_path, font):
    ours, theirs = pair(tmp_path, is_vqa=True)
    questions, given = ["what?", "which one?"], {"max_patches": 40, "return_tensors": "pt"}
    found = ours(PICTURES[:2], questions, **given, **FONT)
    expected = theirs(PICTURES[:2], questions, **given)
    assert (ours(PICTURES[:2], questions, font_path=font, **given)["attention_mask"] == found["attention_mask"]).all()
    np.testing.assert_allclose(found["flattened_patches"], expected["flattened_patches"], atol=2e-4, rtol=1e-4)
    assert {*found} == {"flattened_patches", "attention_mask"}
    for call, error, said in (
        ((PICTURES, questions), InputError, "header_text"),
        ((PICTURES[0],), InputError, "header_text"),
        ((None, "what?"), InputError, "written above a picture"),
    ):
        with pytest.raises(error, match=said):
            ours(*call, **FONT)
    with pytest.raises(MissingPartError, match="font_path"):
        ours(PICTURES[0], "what?")
    with pytest.raises(RepoError, match="font cannot be read"):
        ours(PICTURES[0], "what?", font_path=tmp_path / "none.ttf")
