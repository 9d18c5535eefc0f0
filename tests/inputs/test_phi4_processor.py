"""Phi-4-multimodal's processor, image processor and feature extractor against the reference's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from test_processors import WAVES, compare, same
from test_tokenizers_folders import llava

import omniform
from omniform.core.errors import InputError
from reference import transformers

IMAGE, AUDIO = "<image>", "<sound>"
SMALL = {"size": {"height": 56, "width": 56}}
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}"
    "{% elif c.type == 'image' %}<image>{% else %}<sound>{% endif %}{% endfor %}{% endfor %}"
)


def picture(width, height, mode="RGB"):
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


PICTURES = [picture(60, 40), picture(170, 50, "L"), picture(56, 56, "RGBA")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    at = tmp_path_factory.mktemp("phi4")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        llava(at / "tokenizer"), extra_special_tokens={"image_token": IMAGE, "audio_token": AUDIO}
    )
    theirs = transformers.Phi4MultimodalProcessor(
        transformers.Phi4MultimodalImageProcessor(**SMALL), transformers.Phi4MultimodalFeatureExtractor(), tokenizer,
        chat_template=TEMPLATE,
    )  # fmt: skip
    theirs.save_pretrained(at / "saved")
    return at / "saved"


@pytest.fixture(scope="module")
def pair(folder):
    return omniform.AutoProcessor.from_pretrained(folder), transformers.AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize(
    "call",
    [
        {"text": [f"hello {IMAGE} the {AUDIO}", "world", f"{IMAGE}{IMAGE} fox"], "images": PICTURES,
         "audio": WAVES[:1]},
        {"text": [f"{AUDIO} hello {AUDIO}", f"the {AUDIO}"], "audio": WAVES, "padding_side": "left"},
        {"text": f"hello {IMAGE}", "images": PICTURES[0], "images_kwargs": {"dynamic_hd": 1}},
        {"text": ["hello", "the fox"]},
        {"text": f"hello {AUDIO}", "audio": WAVES[1], "return_mm_token_type_ids": True},
    ],
)  # fmt: skip
def test_same_inputs(pair, call):
    compare(pair, padding=True, return_tensors="pt", sampling_rate=16000, **call) if "audio" in call else compare(
        pair, padding=True, return_tensors="pt", **call
    )


@pytest.mark.parametrize(
    "options", [{}, {"dynamic_hd": 2}, {"size": {"height": 64, "width": 64}, "patch_size": 16}, {"do_normalize": False}]
)
def test_tiles(options):
    pictures = [*PICTURES, picture(400, 90)]
    ours, theirs = (library.Phi4MultimodalImageProcessor(**SMALL) for library in (omniform, transformers))
    expected = theirs(pictures, return_tensors="pt", **options)
    found = ours(pictures, return_tensors="pt", **options)
    assert list(found) == list(expected)
    for name in expected:
        same(found[name], expected[name], name)


def test_a_picture_much_longer_than_wide():
    with pytest.raises(InputError, match="longer than wide"):
        omniform.Phi4MultimodalImageProcessor(**SMALL)(picture(4000, 8))


@pytest.mark.parametrize(
    "call", [{}, {"pad_to_multiple_of": 5000}, {"padding": "max_length", "max_length": 24000},
             {"return_attention_mask": False}]
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 3])
def test_filter_banks(call, count):
    ours, theirs = omniform.Phi4MultimodalFeatureExtractor(), transformers.Phi4MultimodalFeatureExtractor()
    expected = theirs(WAVES[:count], sampling_rate=16000, return_tensors="pt", **call)
    found = ours(WAVES[:count], sampling_rate=16000, return_tensors="pt", **call)
    assert list(found) == list(expected)
    for name in expected:
        same(found[name], expected[name], name)


def test_a_sound_too_short_for_a_frame():
    with pytest.raises(InputError, match="too short"):
        omniform.Phi4MultimodalFeatureExtractor()(WAVES[0][:399])


def test_conversations_and_saving(pair, folder, tmp_path):
    ours, theirs = pair
    talk = [{"role": "user", "content": [{"type": "image", "image": PICTURES[0]}, {"type": "text", "text": "the"},
                                         {"type": "audio", "audio": WAVES[0]}]}]  # fmt: skip
    found = ours.apply_chat_template(talk, tokenize=True, return_dict=True, return_tensors="pt")
    prompt = theirs.apply_chat_template(talk, chat_template=TEMPLATE)
    compare_with = theirs(text=[prompt], images=[PICTURES[0]], audio=[WAVES[0]], return_tensors="pt")
    for name in compare_with:
        same(found[name], compare_with[name], name)
    ours.save_pretrained(tmp_path)
    again = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert type(again).__name__ == "Phi4MultimodalProcessor"
    assert json.loads((tmp_path / "processor_config.json").read_text()).keys() >= {"audio_processor", "image_processor"}
    compare((omniform.AutoProcessor.from_pretrained(tmp_path), again), text=f"{IMAGE} fox", images=PICTURES[1])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"text": f"{IMAGE}", "images": PICTURES[:2]}, "placeholder"),
        ({"text": f"{AUDIO}{AUDIO}", "audio": WAVES[:1]}, "placeholder"),
        ({"text": f"{AUDIO}", "audio": WAVES[:1], "sampling_rate": 8000}, "sampling rate"),
    ],
)
def test_what_does_not_fit(pair, call, says):
    with pytest.raises(InputError, match=says):
        pair[0](**call)
