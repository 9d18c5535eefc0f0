"""ViLT's and BridgeTower's processors against the reference's: pictures of several sizes beside texts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from test_processors import compare
from test_tokenizers_folders import clip

import omniform
from omniform.core.errors import InputError, UnknownArgumentError
from reference import transformers

PICTURES = [
    Image.fromarray(np.random.default_rng(n).integers(0, 256, (40 + 17 * n, 50, 3), dtype=np.uint8)) for n in range(3)
]
SMALL = {
    "Vilt": {"size": {"shortest_edge": 48}, "size_divisor": 16},
    "BridgeTower": {"size": {"shortest_edge": 48}, "crop_size": {"shortest_edge": 40}, "size_divisor": 16},
}


@pytest.fixture(scope="module", params=[(kind, form) for kind in SMALL for form in ("", "Pil")], ids="".join)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    kind, form = request.param
    folder = tmp_path_factory.mktemp(kind)
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip(folder / "tokenizer"))
    images = getattr(transformers, f"{kind}ImageProcessor{form}")(**SMALL[kind])
    getattr(transformers, f"{kind}Processor")(images, tokenizer).save_pretrained(folder / "saved")
    return tuple(lib.AutoProcessor.from_pretrained(folder / "saved") for lib in (omniform, transformers))


CALLS = [
    {"images": PICTURES, "text": ["hello", "world", "a fox"], "padding": True, "return_tensors": "pt"},
    {"images": PICTURES[0], "text": "hello", "return_tensors": "pt"},
    {"images": PICTURES[:1], "return_tensors": "np"},
    {"text": ["hello", "the fox"], "padding": "max_length", "max_length": 9, "return_tensors": "pt"},
    {"images": PICTURES, "return_tensors": "pt", "do_normalize": False},
    {"images": PICTURES, "return_tensors": "pt", "images_kwargs": {"size": {"shortest_edge": 32}, "size_divisor": 8}},
    {"images": [PICTURES[2].convert("L").convert("RGB"), PICTURES[1].resize((90, 50))], "return_tensors": "pt"},
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: ",".join(call))
def test_calls(pair, call):
    compare(pair, **call)


def test_saved_and_bad_calls(pair, tmp_path):
    ours, theirs = pair
    ours.save_pretrained(tmp_path)
    again = transformers.AutoProcessor.from_pretrained(tmp_path)
    compare((ours, again), **CALLS[0])
    assert type(ours).__name__ == type(theirs).__name__
    assert set(ours.model_input_names) == set(theirs.model_input_names)
    with pytest.raises(InputError, match="neither text nor a picture"):
        ours()
    with pytest.raises(UnknownArgumentError, match="size_divisor"):
        ours(images=PICTURES, size_divisr=3)


OLD = {
    "ViltFeatureExtractor": {"size": 384, "size_divisor": 32, "do_resize": True, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3, "resample": 3},
    "BridgeTowerImageProcessor": {"size": 288, "size_divisor": 32, "do_center_crop": True, "do_pad": True,
        "rescale_factor": 0.00392156862745098},
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_old_files(tmp_path, name):
    """Sizes as lengths, extractors of earlier releases."""
    key = "image_processor_type" if name.endswith("Processor") else "feature_extractor_type"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**OLD[name], key: name}))
    ours = omniform.AutoImageProcessor.from_pretrained(tmp_path)
    theirs = getattr(transformers, name.replace("FeatureExtractor", "ImageProcessor")).from_pretrained(tmp_path)
    compare((ours, theirs), images=PICTURES[1], return_tensors="pt")
