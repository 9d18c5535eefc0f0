"""What makes inputs is a good citizen too: ``datasets`` names a cache by a processor's pickle, and worker processes get
copies of it."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from citizens_known import INPUTS_KNOWN
from PIL import Image

import omniform

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
WAVE = np.random.default_rng(1).standard_normal(9000).astype(np.float32)
TEXT = ["Describe the picture.", "How many?"]


def bundled(auto: str) -> object:
    return getattr(omniform, auto).from_pretrained(omniform.bundled_checkpoint())


def from_json(folder: Path, auto: str, **settings: object) -> object:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return getattr(omniform, auto).from_pretrained(folder)


def images(kind: str) -> tuple[Callable[[Path], object], Callable[[object], object]]:
    return (
        lambda folder: from_json(folder, "AutoImageProcessor", image_processor_type=kind),
        lambda made: made([PICTURE], return_tensors="pt"),
    )


def sounds(kind: str, **settings: object) -> tuple[Callable[[Path], object], Callable[[object], object]]:
    return (
        lambda folder: from_json(folder, "AutoFeatureExtractor", feature_extractor_type=kind, **settings),
        lambda made: made(WAVE, sampling_rate=16000, return_tensors="pt"),
    )


def tokens(made: object) -> object:
    made(TEXT, padding=True, truncation=True, max_length=4, return_tensors="pt")
    made(TEXT[0], TEXT[1], padding="max_length", max_length=20)
    made.decode(made(TEXT[0])["input_ids"])
    return made(TEXT, padding=True, return_tensors="pt")


KINDS: dict[str, tuple[Callable[[Path], object], Callable[[object], object]]] = {
    "tokenizer": (lambda _: bundled("AutoTokenizer"), tokens),
    "processor": (
        lambda _: bundled("AutoProcessor"),
        lambda made: made(images=[PICTURE], text=["<image> " + TEXT[0]], return_tensors="pt"),
    ),
    "CLIP images": images("CLIPImageProcessor"),
    "ViT images": images("ViTImageProcessor"),
    "DETR images": images("DetrImageProcessor"),
    "Whisper's sounds": sounds("WhisperFeatureExtractor"),
    "Wav2Vec2's sounds": sounds("Wav2Vec2FeatureExtractor"),
    "SpeechT5's sounds": sounds("SpeechT5FeatureExtractor"),
    "AST's sounds": sounds("ASTFeatureExtractor", max_length=60),
    "CLAP's sounds": sounds("ClapFeatureExtractor", sampling_rate=16000, frequency_max=7000, max_length_s=1),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        known = INPUTS_KNOWN.get(metafunc.function.__name__, frozenset())
        marks = {k: [pytest.mark.xfail(strict=True)] if k in known else [] for k in KINDS}
        metafunc.parametrize("kind", [pytest.param(k, marks=marks[k]) for k in KINDS])


def same(found: object, expected: object) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value, key


def test_pickle_and_copies(kind: str, tmp_path: Path) -> None:
    make, call = KINDS[kind]
    made = make(tmp_path)
    expected = call(made)
    same(call(pickle.loads(pickle.dumps(made))), expected)
    same(call(copy.deepcopy(made)), expected)


def test_fingerprint_is_stable(kind: str, tmp_path: Path) -> None:
    """The same bytes before a call, after it, and of another that was loaded from the same folder."""
    make, call = KINDS[kind]
    made = make(tmp_path)
    before = pickle.dumps(made)
    call(made)
    call(made)
    assert pickle.dumps(made) == before
    # Which equal texts are one object is no part of what is pickled: both go through a pickle once.
    assert pickle.dumps(pickle.loads(pickle.dumps(make(tmp_path)))) == pickle.dumps(pickle.loads(before))


def test_hasattr(kind: str, tmp_path: Path) -> None:
    made = KINDS[kind][0](tmp_path)
    for attribute in ("nope", "tokenizer", "chat_template", "model_input_names", "size", "sampling_rate", "__len__"):
        assert isinstance(hasattr(made, attribute), bool)
    repr(made)
