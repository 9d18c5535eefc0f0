"""SpeechT5's processor beside the reference's: every way from text or sound to text or sound."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from test_spoken import letters
from test_tokenizers_folders import sentencepiece_file

import omniform
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.inputs.audio.write import save_audio
from reference import transformers

TEXTS = ["hello world", "it is 5"]
WAVES = [np.sin(np.arange(n) * 0.05, dtype=np.float64).astype(np.float32) * 0.5 for n in (4000, 2600)]


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[omniform.SpeechT5Processor, object]:
    folder = tmp_path_factory.mktemp("processor")
    (folder / "spm_char.model").write_bytes(sentencepiece_file(letters(), bpe=False, normalize=False, model_type=4))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "SpeechT5Tokenizer"}))
    values = {"feature_extractor_type": "SpeechT5FeatureExtractor", "processor_class": "SpeechT5Processor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    ours = omniform.AutoProcessor.from_pretrained(folder)
    assert type(ours) is omniform.SpeechT5Processor
    return ours, transformers.SpeechT5Processor.from_pretrained(folder)


def same(found: object, expected: object) -> None:
    assert set(found) == set(expected)
    for name in expected:
        assert np.asarray(found[name]).shape == np.asarray(expected[name]).shape, name
        np.testing.assert_allclose(np.asarray(found[name]), np.asarray(expected[name]), atol=1e-5, err_msg=name)


READ = [{}, {"text": TEXTS}, {"audio": WAVES}]
AIMS = [{}, {"text_target": TEXTS}, {"audio_target": WAVES}]


@pytest.mark.parametrize(("read", "aim"), list(product(READ, AIMS))[1:])
def test_every_way(both, read, aim):
    ours, theirs = both
    given = {**read, **aim, "padding": True, "return_tensors": "np"}
    if {"audio", "audio_target"} & given.keys():
        given["sampling_rate"] = 16000
    same(ours(**given), theirs(**given))


def test_padded_later(both):
    ours, theirs = both
    for given in (
        {"input_ids": [{"input_ids": [5, 6, 7]}, {"input_ids": [8]}]},
        {"input_values": [{"input_values": wave} for wave in WAVES]},
        {
            "input_ids": [{"input_ids": [5, 6, 7]}, {"input_ids": [8]}],
            "labels": [{"input_values": np.ones((n, 80), np.float32)} for n in (4, 7)],
        },
        {
            "input_values": [{"input_values": wave} for wave in WAVES],
            "labels": [{"input_ids": [5, 6]}, {"input_ids": [8, 9, 10]}],
        },
        {"labels": [{"input_ids": [5, 6]}, {"input_ids": [8, 9, 10]}]},
    ):
        same(ours.pad(**given, return_tensors="np"), theirs.pad(**given, return_tensors="np"))


def test_files_and_numbers(both, tmp_path: Path):
    ours, _ = both
    save_audio(WAVES[0], tmp_path / "a.wav", 16000)
    found = ours(audio=tmp_path / "a.wav", audio_target=str(tmp_path / "a.wav"), return_tensors="np")
    expected = ours(audio=WAVES[0], audio_target=WAVES[0], sampling_rate=16000, return_tensors="np")
    np.testing.assert_allclose(found["input_values"], expected["input_values"], atol=1e-4)
    assert found["labels"].shape == expected["labels"].shape
    assert ours(text="5", normalize=True)["input_ids"] == ours(text="five")["input_ids"]
    ours.save_pretrained(tmp_path / "again")
    again = omniform.SpeechT5Processor.from_pretrained(tmp_path / "again")
    same(again(text=TEXTS, padding=True), ours(text=TEXTS, padding=True))


def test_refused(both):
    ours, _ = both
    for given in (
        {}, {"audio": WAVES[0], "text": "a"}, {"text": "a", "audio_target": WAVES[0], "text_target": "a"},
        {"audio": WAVES[0], "sampling_rate": 8000},
    ):  # fmt: skip
        with pytest.raises(InputError):
            ours(**given)
    with pytest.raises(InputError):
        ours.pad()
    with pytest.raises(InputError):
        ours.pad(input_ids=[{"input_ids": [1]}], input_values=[{"input_values": [1.0]}])
    with pytest.raises(UnknownArgumentError):
        ours(text="a", nonsense=1)
    with pytest.raises(UnknownArgumentError):
        ours.pad(input_ids=[{"input_ids": [1]}], nonsense=1)
