"""PaliGemma's and Gemma 3's processors against the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from test_processors import compare, same
from test_tokenizers_folders import llava

import omniform
from omniform.core.errors import ConfigError, InputError
from reference import transformers


def picture(width, height, mode="RGB"):
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


PICTURES = [picture(30, 20), picture(17, 41, "L"), picture(16, 16)]


@pytest.fixture(scope="module")
def pali(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paligemma")
    tokenizer = transformers.AutoTokenizer.from_pretrained(llava(folder / "tokenizer"))
    images = transformers.SiglipImageProcessor(size={"height": 16, "width": 16}, image_seq_length=4)
    transformers.PaliGemmaProcessor(images, tokenizer).save_pretrained(folder / "saved")
    return tuple(library.AutoProcessor.from_pretrained(folder / "saved") for library in (omniform, transformers))


class TestPaliGemma:
    @pytest.mark.parametrize(
        "call",
        [
            {"text": ["<image> the fox", "<image><image> hello", "hello the fox"], "images": PICTURES},
            {"text": ["<image> the fox", "hello <image>"], "images": [[PICTURES[1]], [PICTURES[2]]]},
            {"text": "the fox", "images": PICTURES[0]},
            {"text": ["the fox", "hello"], "images": PICTURES[:2]},
            {"text": ["the fox", "hello"], "images": [[PICTURES[2], PICTURES[0]], [PICTURES[1]]]},
            {"text": ["<image> the", "<image> fox"], "images": PICTURES[:2], "suffix": ["hello", "the fox hello"]},
            {"text": "<image> the", "images": PICTURES[0], "suffix": "fox", "padding": "max_length", "max_length": 30},
            {"images": PICTURES[:2]},
            {"text": "<image> <loc0012> the <seg003>", "images": PICTURES[1]},
        ],
    )
    def test_same_inputs(self, pali, call):
        compare(pali, **{"padding": True, "return_tensors": "pt", **call})

    def test_saving(self, pali, tmp_path):
        pali[0].save_pretrained(tmp_path)
        again = transformers.AutoProcessor.from_pretrained(tmp_path)
        call = {"text": "<image> fox", "images": PICTURES[1], "return_tensors": "pt"}
        compare((omniform.AutoProcessor.from_pretrained(tmp_path), again), **call)

    def test_what_does_not_fit(self, pali):
        ours = pali[0]
        for call, says in (
            ({"text": "the fox"}, "no pictures"),
            ({"text": ["the", "fox"], "images": [PICTURES[0]]}, "each text has its pictures"),
            ({"text": ["<image> the"], "images": PICTURES[:2]}, "placeholder"),
            ({"text": ["<image> the"], "images": PICTURES[0], "suffix": ["a", "b"]}, "one answer"),
        ):
            with pytest.raises(InputError, match=says):
                ours(**call)
        images = omniform.SiglipImageProcessor()
        with pytest.raises(ConfigError, match="image_seq_length"):
            omniform.PaliGemmaProcessor(images, ours.tokenizer)


CROPS = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 8, "pan_and_scan_max_num_crops": 3}
LONG = [picture(60, 18), picture(19, 47, "L"), picture(20, 22), picture(31, 9)]


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma3")
    named = {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(llava(folder / "tokenizer"), extra_special_tokens=named)
    images = transformers.Gemma3ImageProcessor(size={"height": 16, "width": 16})
    transformers.Gemma3Processor(images, tokenizer, image_seq_length=4).save_pretrained(folder / "saved")
    return tuple(library.AutoProcessor.from_pretrained(folder / "saved") for library in (omniform, transformers))


class TestGemma3:
    @pytest.mark.parametrize("pil", ["", "Pil"])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {**CROPS, "pan_and_scan_min_ratio_to_activate": 1.2},
            {**CROPS, "pan_and_scan_min_ratio_to_activate": 2.5, "pan_and_scan_min_crop_size": 11, "resample": 3},
            {
                **CROPS,
                "pan_and_scan_min_ratio_to_activate": 1.0,
                "pan_and_scan_min_crop_size": 1,
                "do_normalize": False,
            },
        ],
    )
    def test_pictures(self, pil, options):
        size = {"height": 16, "width": 12}
        ours, theirs = (
            getattr(library, f"Gemma3ImageProcessor{pil}")(size=size) for library in (omniform, transformers)
        )
        expected, found = (one(LONG, return_tensors="pt", **options) for one in (theirs, ours))
        assert list(found) == list(expected)
        for name in expected:
            same(found[name], expected[name], name)

    def test_crops_in_their_own_size(self):
        options = {**CROPS, "pan_and_scan_min_ratio_to_activate": 1.2, "do_resize": False}
        for pil in ("", "Pil"):
            ours, theirs = (getattr(library, f"Gemma3ImageProcessor{pil}")() for library in (omniform, transformers))
            expected, found = (one(LONG[:1], **options) for one in (theirs, ours))
            for mine, other in zip(found["pixel_values"], expected["pixel_values"], strict=True):
                same(mine, other, "pixel_values")
        with pytest.raises(InputError, match="crops need a size"):
            ours(LONG, do_pan_and_scan=True)

    @pytest.mark.parametrize(
        "call",
        [
            {"text": ["hello <boi> the <boi>", "<boi> fox", "the"], "images": [LONG[:2], LONG[2:3], []]},
            {"text": "hello <boi> the <boi>", "images": LONG[:2], "images_kwargs": CROPS},
            {"text": "<boi><boi> fox", "images": LONG[1:3], "return_mm_token_type_ids": False, **CROPS},
            {"text": ["hello", "the fox"]},
            {"images": LONG[:2]},
            {"images": [LONG[:1], LONG[1:]]},
        ],
    )
    def test_same_inputs(self, gemma, call):
        compare(gemma, **{"padding": True, "return_tensors": "pt", **call})

    def test_saving(self, gemma, tmp_path):
        gemma[0].save_pretrained(tmp_path)
        again = transformers.AutoProcessor.from_pretrained(tmp_path)
        assert again.image_seq_length == 4
        call = {"text": "<boi> fox", "images": LONG[1], "return_tensors": "pt"}
        compare((omniform.AutoProcessor.from_pretrained(tmp_path), again), **call)

    def test_chats(self, gemma):
        template = (
            "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{% for part in m['content'] %}"
            "{% if part['type'] == 'image' %}<boi>{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
        )
        content = [{"type": "image", "image": LONG[0]}, {"type": "text", "text": "the fox"}]
        options = {"chat_template": template, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        found, expected = (one.apply_chat_template([{"role": "user", "content": content}], **options) for one in gemma)
        assert set(found) == set(expected)
        for name in expected:
            same(found[name], expected[name], name)

    def test_what_does_not_fit(self, gemma, pali):
        with pytest.raises(InputError, match="placeholder"):
            gemma[0](text=["<boi>", "fox"], images=[[], [LONG[0]]])
        with pytest.raises(ConfigError, match="boi_token"):
            omniform.Gemma3Processor(omniform.Gemma3ImageProcessor(), pali[0].tokenizer)
