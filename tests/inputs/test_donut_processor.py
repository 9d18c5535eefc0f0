"""Donut's pictures and texts, and what it wrote as an object, against the reference's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from test_processors import compare
from test_tokenizers_folders import gpt2

import omniform
from omniform.core.errors import InputError
from reference import transformers

SIZES = [(40, 50), (90, 31), (20, 20), (64, 64), (31, 90), (8, 10)]
PICTURES = [
    Image.fromarray(np.random.default_rng(n).integers(0, 256, (*size, 3), dtype=np.uint8))
    for n, size in enumerate(SIZES)
]
SIZE = {"height": 48, "width": 32}
SETTINGS = [
    {},
    {"do_align_long_axis": True},
    {"do_align_long_axis": True, "size": {"height": 20, "width": 44}},
    {"do_resize": False},
    {"do_resize": False, "resample": 0},
    {"do_pad": False},
    {"do_thumbnail": False, "do_pad": False},
    {"size": [32, 48]},
    {"size": (32, 48), "do_align_long_axis": True},
    {"size": 40},
    {"do_center_crop": True, "crop_size": {"height": 24, "width": 24}},
    {"do_normalize": False, "do_rescale": False},
]


@pytest.mark.parametrize("form", ["", "Pil"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_pictures(form, settings):
    made = [getattr(library, f"DonutImageProcessor{form}")(**{"size": SIZE, **settings})
            for library in (omniform, transformers)]  # fmt: skip
    usual = [getattr(library, f"DonutImageProcessor{form}")(size=SIZE) for library in (omniform, transformers)]
    for picture in PICTURES:
        for pair, given in ((made, {}), (usual, settings)):
            ours, theirs = (np.asarray(one(picture, **given)["pixel_values"][0]) for one in pair)
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert {**made[0].to_dict()}["size"] == dict(made[1].to_dict()["size"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("donut")
    tokenizer = transformers.AutoTokenizer.from_pretrained(gpt2(folder / "tokenizer"))
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.add_tokens(["<s_menu>", "</s_menu>", "<yes/>", "<sep/>"], special_tokens=True)
    transformers.DonutProcessor(transformers.DonutImageProcessor(size=SIZE), tokenizer).save_pretrained(folder / "new")
    return load(folder / "new")


def load(folder):
    return tuple(library.AutoProcessor.from_pretrained(folder) for library in (omniform, transformers))


CALLS = [
    {"images": PICTURES[:2], "text": ["hello <s_menu>", "the fox"], "padding": True, "return_tensors": "pt"},
    {"images": PICTURES[0], "text": "<s_menu>hello"},
    {"images": PICTURES[0], "text": "hello", "add_special_tokens": True},
    {"text": ["hello", "the fox"]},
    {"images": PICTURES, "return_tensors": "pt", "do_align_long_axis": True},
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: ",".join(call))
def test_calls(pair, call):
    compare(pair, **call)


def test_saved_and_old_files(pair, tmp_path):
    pair[0].save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again")
    compare((again[0], pair[1]), **CALLS[0])
    compare((pair[0], again[1]), **CALLS[0])
    assert set(pair[0].model_input_names) == set(pair[1].model_input_names)
    settings = json.loads((tmp_path / "again" / "processor_config.json").read_text())
    old = {**settings.pop("image_processor"), "size": [32, 48], "processor_class": "DonutProcessor"}
    del old["image_processor_type"]
    old["feature_extractor_type"] = "DonutFeatureExtractor"
    (tmp_path / "again" / "preprocessor_config.json").write_text(json.dumps(old))
    (tmp_path / "again" / "processor_config.json").unlink()
    found = compare(load(tmp_path / "again"), **CALLS[0])
    assert found["pixel_values"].shape == (2, 3, 48, 32)


WRITTEN = [
    "<s_menu><s_nm>Tea</s_nm><s_cnt>2</s_cnt></s_menu>",
    "<s_menu><s_nm>Tea</s_nm><sep/><s_nm>Cake</s_nm><s_sub><s_nm>x</s_nm></s_sub></s_menu><s_total>7 </s_total>",
    "<s_a><s_b>1</s_b></s_a><sep/><s_a>2</s_a>",
    "<s_a>1<sep/> 2<sep/><yes/></s_a>",
    "<s_a><yes/></s_a><s_b><no/></s_b>",
    "no fields at all",
    "",
    "<s_a>never closed <s_b>1</s_b>",
    "<s_a>1</s_a> words behind",
    "<S_A>1</s_a><s_x.y*>(2</s_x.y*>",
    "</s_a><s_a>1</s_a>",
    "<s_a></s_a><s_b>\n two\nlines </s_b>",
    "<s_a><s_b></s_a><s_c></s_b></s_c>",
    "<s_a><s_b>1</s_b><sep/></s_a><s_a><s_c></s_a>",
    "<s_a><s_b></s_b></s_c></s_a><sep/>",
    "<s_a <s_b>1</s_b>",
    "<s_a>1</s_a><s_unended",
]


@pytest.mark.parametrize("written", WRITTEN)
def test_what_was_written(pair, written):
    ours, theirs = pair
    assert ours.token2json(written) == theirs.token2json(written)
    assert ours.token2json(written, is_inner_value=True) == theirs.token2json(written, is_inner_value=True)
    given = {"added_vocab": {"<no/>": 1}}
    assert ours.token2json(written, **given) == theirs.token2json(written, **given)


def test_only_texts_are_read(pair):
    with pytest.raises(InputError, match="tokens: this is no text"):
        pair[0].token2json([1, 2])
