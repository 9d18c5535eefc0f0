"""CLIPSeg's processor against the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from test_tokenizers_folders import clip

from omniform.core.errors import InputError
from reference import close, omniform, transformers


def test_processor(tmp_path):

    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip(tmp_path / "tokenizer"))
    images = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    transformers.CLIPSegProcessor(images, tokenizer).save_pretrained(tmp_path / "saved")
    ours, theirs = (lib.AutoProcessor.from_pretrained(tmp_path / "saved") for lib in (omniform, transformers))
    drawn = [Image.fromarray(np.full((9 + i, 12, 3), 40 * i, dtype=np.uint8)) for i in range(3)]
    for call in (
        {"text": ["fox", "the fox"], "images": drawn[:2], "padding": True},
        {"visual_prompt": drawn[:1], "images": drawn[1:2]},
        {"text": "fox"}, {"images": drawn}, {"visual_prompt": drawn},
    ):  # fmt: skip
        found, expected = ours(**call, return_tensors="pt"), theirs(**call, return_tensors="pt")
        assert list(found) == list(expected)
        for name in expected:
            close(found[name], expected[name], name)
    for call in ({}, {"text": "a", "visual_prompt": drawn}):
        with pytest.raises(InputError):
            ours(**call)
