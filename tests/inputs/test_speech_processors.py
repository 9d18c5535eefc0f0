"""Processors of sounds and the letters that are spoken in them, beside the reference's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import omniform
from inputs.speech import LETTERS, arpa, letters, spoken
from omniform import AutoProcessor, Wav2Vec2BertProcessor, Wav2Vec2Processor, Wav2Vec2ProcessorWithLM
from omniform.core.errors import InputError, UnknownArgumentError
from reference import transformers

RATE = 16000
WAVES = [np.sin(np.arange(length) / 9 + seed).astype(np.float32) for seed, length in enumerate((900, 1300, 700))]
TEXTS = ["a bad cab", "head", "fed"]
KINDS = {
    "Wav2Vec2Processor": lambda: transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True),
    "Wav2Vec2BertProcessor": lambda: transformers.SeamlessM4TFeatureExtractor(feature_size=8, num_mel_bins=8),
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, object, Path]:
    folder = tmp_path_factory.mktemp("processor")
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(letters(folder / "letters"))
    theirs = getattr(transformers, request.param)(KINDS[request.param](), tokenizer)
    theirs.save_pretrained(folder / "saved")
    return getattr(omniform, request.param).from_pretrained(folder / "saved"), theirs, folder / "saved"


def same(found: object, expected: object) -> None:
    assert {*found} == {*expected}
    for name in expected:
        mine, other = torch.as_tensor(np.asarray(found[name])), torch.as_tensor(np.asarray(expected[name]))
        assert mine.shape == other.shape, name
        torch.testing.assert_close(mine.double(), other.double(), atol=1e-5, rtol=1e-5)


def test_calls(pair: tuple[object, object, Path]) -> None:
    ours, theirs, folder = pair
    assert type(AutoProcessor.from_pretrained(folder)) is type(ours)
    assert ours.model_input_names == theirs.model_input_names
    options = {"return_tensors": "pt", "padding": True, "sampling_rate": RATE}
    same(ours(WAVES, **options), theirs(WAVES, **options))
    same(ours(audio=WAVES, text=TEXTS, **options), theirs(audio=WAVES, text=TEXTS, **options))
    same(ours(text=TEXTS, padding=True), theirs(text=TEXTS, padding=True))
    same(ours(WAVES[0], sampling_rate=RATE), theirs(WAVES[0], sampling_rate=RATE))
    apart = {"audio_kwargs": {"padding": True, "sampling_rate": RATE}, "text_kwargs": {"padding": "max_length",
             "max_length": 20}, "common_kwargs": {"return_tensors": "np"}}  # fmt: skip
    same(ours(WAVES, TEXTS, **apart), theirs(WAVES, TEXTS, **apart))
    ids = theirs(text=TEXTS).input_ids
    assert ours.batch_decode(ids) == theirs.batch_decode(ids)
    assert ours.decode(ids[0]) == theirs.decode(ids[0])


def test_padding_of_what_was_read(pair: tuple[object, object, Path]) -> None:
    ours, theirs, _ = pair
    for options in ({}, {"padding": "max_length", "max_length": 1600}, {"padding": "longest"}):
        name = theirs.feature_extractor.model_input_names[0]
        sounds = [{name: theirs(wave, sampling_rate=RATE)[name][0]} for wave in WAVES]
        texts = [{"input_ids": theirs(text=text).input_ids} for text in TEXTS]
        given = {"return_tensors": "pt", **options}
        same(ours.pad(input_features=sounds, **given), theirs.pad(input_features=sounds, **given))
        same(ours.pad(labels=texts, **given), theirs.pad(labels=texts, **given))
        same(ours.pad(sounds, labels=texts, **given), theirs.pad(sounds, labels=texts, **given))
    with pytest.raises(InputError, match="nothing to pad"):
        ours.pad()
    with pytest.raises(UnknownArgumentError, match="padding"):
        ours.pad(sounds, paddin=True)


def test_files_and_saving(pair: tuple[object, object, Path], tmp_path: Path) -> None:
    ours, theirs, _ = pair
    soundfile.write(tmp_path / "a.wav", WAVES[0], RATE, subtype="FLOAT")
    same(ours(str(tmp_path / "a.wav")), theirs(WAVES[0], sampling_rate=RATE))
    with pytest.raises(InputError, match="8000"):
        ours(WAVES[0], sampling_rate=8000)
    ours.save_pretrained(tmp_path / "saved")
    again = type(theirs).from_pretrained(tmp_path / "saved")
    same(again(WAVES[1], text=TEXTS[0], sampling_rate=RATE), theirs(WAVES[1], text=TEXTS[0], sampling_rate=RATE))
    assert isinstance(ours, Wav2Vec2Processor) and isinstance(ours, (Wav2Vec2BertProcessor, Wav2Vec2Processor))


def test_the_model_of_words_comes_along(tmp_path: Path) -> None:
    pyctcdecode = pytest.importorskip("pyctcdecode")
    pytest.importorskip("kenlm", reason="it is compiled where it is installed")
    named = ["", "<s>", "</s>", "⁇", " ", *LETTERS[5:]]
    decoder = pyctcdecode.build_ctcdecoder(named, str(arpa(tmp_path / "words.arpa")))
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(letters(tmp_path / "letters"))
    theirs = transformers.Wav2Vec2ProcessorWithLM(transformers.Wav2Vec2FeatureExtractor(), tokenizer, decoder)
    theirs.save_pretrained(tmp_path / "saved")
    ours = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert type(ours) is Wav2Vec2ProcessorWithLM
    logits = spoken("a bad head", 3).numpy()
    assert ours.decode(logits).text == theirs.decode(logits).text
    heavy = Wav2Vec2ProcessorWithLM.from_pretrained(tmp_path / "saved", alpha=3.0, beta=-1.0)
    assert (heavy.language_model.alpha, heavy.language_model.beta) == (3.0, -1.0)
    for _ in range(2):  # over what is there
        ours.save_pretrained(tmp_path / "again")
    again = transformers.Wav2Vec2ProcessorWithLM.from_pretrained(tmp_path / "again")
    assert again.decode(logits).text == theirs.decode(logits).text
    same(ours(WAVES[0], sampling_rate=RATE), theirs(WAVES[0], sampling_rate=RATE))
