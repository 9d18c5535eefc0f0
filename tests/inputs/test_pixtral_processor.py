"""Pixtral's processors against the reference's: whole patches, rows of placeholders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_images_processors import assert_same, both, import_reference, picture
from test_processors import compare
from test_tokenizers_folders import llava

import omniform
from omniform.core.errors import ConfigError, InputError
from reference import transformers

SMALL = {"size": {"longest_edge": 64}, "patch_size": {"height": 8, "width": 8}}
SIZES = [(1, 1), (2, 60), (61, 29), (64, 64), (65, 64), (200, 150), (90, 8)]
PICTURES = [picture(width, height, seed) for seed, (width, height) in enumerate([(50, 40), (29, 70), (16, 16)])]


@pytest.fixture(scope="module")
def reference():
    return import_reference()


@pytest.mark.parametrize("pixels", ["", "Pil"])
@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        {"size": {"height": 40, "width": 64}, "patch_size": 4, "resample": 2},
        {"size": 48, "patch_size": {"height": 8, "width": 4}, "do_normalize": False},
        {**SMALL, "do_resize": False, "do_rescale": False},
    ],
    ids=lambda config: ",".join(config),
)
def test_pictures_are_the_references(reference, config, pixels):
    theirs, ours = both(reference, f"PixtralImageProcessor{pixels}", **config)
    pictures = [Image.fromarray(picture(width, height, seed)) for seed, (width, height) in enumerate(SIZES)]
    assert_same(theirs, ours, pictures)
    assert_same(theirs, ours, pictures[2], patch_size=16)
    listed, expected = ours(pictures[3:5], do_pad=False), theirs(pictures[3:5], do_pad=False)
    for mine, other in zip(listed["pixel_values"], expected["pixel_values"], strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(other))
    assert [tuple(size) for size in listed["image_sizes"]] == [tuple(map(int, s)) for s in expected["image_sizes"]]


def test_usual_settings_and_saved_files(reference, tmp_path):
    theirs, ours = both(reference, "PixtralImageProcessor")
    assert (ours.patch_size, ours.size) == (dict(theirs.patch_size), {"longest_edge": 1024})
    ours.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["patch_size"] == {"height": 16, "width": 16}
    assert omniform.AutoImageProcessor.from_pretrained(tmp_path) == ours
    assert_same(transformers.PixtralImageProcessor.from_pretrained(tmp_path), ours, picture(40, 30))


def test_what_is_refused(reference):
    _, ours = both(reference, "PixtralImageProcessor", **SMALL)
    with pytest.raises(InputError, match="too long"):
        ours(Image.fromarray(picture(1000, 1)))
    with pytest.raises(InputError, match="patch_size"):
        ours(picture(10, 10), patch_size={"height": 8})
    with pytest.raises(InputError, match="longest_edge"):
        ours(picture(10, 10), size={"shortest_edge": 8})


def folder(home, **options):
    """A processor's folder, written by the reference."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(llava(home / "tokenizer"))
    tokenizer.add_tokens(["[IMG]", "[IMG_BREAK]", "[IMG_END]"], special_tokens=True)
    images = transformers.PixtralImageProcessor(**SMALL)
    made = transformers.PixtralProcessor(images, tokenizer, **{"patch_size": 8, **options})
    made.save_pretrained(home / "saved")
    return home / "saved"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    found = {}
    for name, options in {"pixtral": {}, "mistral3": {"patch_size": 4, "spatial_merge_size": 3}}.items():
        saved = folder(tmp_path_factory.mktemp(name), **options)
        found[name] = omniform.AutoProcessor.from_pretrained(saved), transformers.AutoProcessor.from_pretrained(saved)
    return found


TEXTS = ["hello [IMG] the [IMG]", "world", "[IMG]\nfox"]
CALLS = [
    {"images": PICTURES, "text": TEXTS, "padding": True},
    {"images": PICTURES, "text": TEXTS, "padding": True, "return_tensors": "np"},
    {"images": PICTURES[0], "text": "a [IMG]", "return_tensors": "pt", "return_mm_token_type_ids": True},
    {"images": [PICTURES[:2], [], PICTURES[2:]], "text": TEXTS, "padding": True, "return_tensors": "pt"},
    {"images": [PICTURES[0]], "text": ["[IMG]"], "images_kwargs": {"size": {"longest_edge": 32}}},
    {"text": ["hello", "the fox"], "padding": True},
    {"images": PICTURES},
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: ",".join(call))
@pytest.mark.parametrize("kind", ["pixtral", "mistral3"])
def test_placeholders_are_the_references(pairs, kind, call):
    found = compare(pairs[kind], **call)
    if "text" in call and "images" in call:
        ids = [torch.as_tensor(row).tolist() for row in found["input_ids"]]
        taken = [(s.row, place) for s in found.spans for place in range(s.start, s.start + s.length)]
        token = pairs[kind][0].image_token_id
        assert taken == [(row, place) for row, own in enumerate(ids) for place, one in enumerate(own) if one == token]
        offsets = dict.fromkeys(range(len(found["image_sizes"])), 0)
        for span in found.spans:
            assert span.offset == offsets[span.item]
            offsets[span.item] += span.length
        step = {"pixtral": 8, "mistral3": 12}[kind]
        assert list(offsets.values()) == [int(h) // step * (int(w) // step) for h, w in found["image_sizes"]]


def test_conversations_and_saving(pairs, tmp_path):
    ours = pairs["mistral3"][0]
    part = {"type": "image", "image": PICTURES[0]}
    said = [{"role": "user", "content": [{"type": "text", "text": "hello fox [IMG]"}, part]}]
    template = (
        "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] if c['type'] == 'text' else '[IMG]' }}"
        "{% endfor %}{% endfor %}"
    )
    given = {"chat_template": template, "tokenize": True, "return_dict": True}
    found = ours.apply_chat_template(said, **given)
    height, width = (edge // 12 for edge in np.asarray(found["image_sizes"])[0])
    assert sum(span.length for span in found.spans) == height * width
    ours.save_pretrained(tmp_path)
    again = omniform.AutoProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == ours.to_dict()
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path)
    compare((again, theirs), images=PICTURES[:1], text="[IMG]")


def test_markers_that_do_not_fit(pairs):
    ours = pairs["pixtral"][0]
    with pytest.raises(InputError, match="row 1"):
        ours(images=PICTURES[:2], text=["[IMG]", "no"], padding=True)
    with pytest.raises(InputError):
        ours(images=PICTURES[:1], text="hello [IMG]", truncation=True, max_length=5)
    assert torch.is_tensor(ours(text="hello")["input_ids"])


def test_a_tokenizer_without_the_token(tmp_path):
    tokenizer = omniform.AutoTokenizer.from_pretrained(llava(tmp_path))
    with pytest.raises(ConfigError, match="image token"):
        omniform.PixtralProcessor(omniform.PixtralImageProcessor(), tokenizer)
