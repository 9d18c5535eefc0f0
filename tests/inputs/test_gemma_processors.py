"""PaliGemma's and Gemma 3's processors against the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from test_processors import compare
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
