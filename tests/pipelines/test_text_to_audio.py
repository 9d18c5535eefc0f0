"""Texts that are spoken, against the reference's pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from heard import speecht5, vits
from seen import both

import omniform
from omniform import pipeline
from omniform.core.errors import InputError, UnknownArgumentError
from reference import transformers

TEXTS = ["abba cab", "a", "head bad gag"]
STILL = (("noise_scale", 0.0), ("noise_scale_duration", 0.0))


def same(ours: object, theirs: object) -> None:
    if isinstance(theirs, list):
        for mine, other in zip(ours, theirs, strict=True):
            same(mine, other)
        return
    assert [*ours] == [*theirs] and ours["sampling_rate"] == theirs["sampling_rate"]
    assert isinstance(ours["audio"], np.ndarray) and ours["audio"].dtype == theirs["audio"].dtype
    assert ours["audio"].shape == theirs["audio"].shape
    np.testing.assert_allclose(ours["audio"], theirs["audio"], atol=1e-4)


@pytest.mark.parametrize("task", ["text-to-audio", "text-to-speech"])
def test_texts_are_spoken(task: str) -> None:
    ours, theirs = both(task, vits(*STILL))
    for text in TEXTS:
        same(ours(text), theirs(text))
        same(ours(text_inputs=text), theirs(text))
    same(ours(TEXTS), theirs(TEXTS))
    same(ours(TEXTS, batch_size=2), theirs(TEXTS, batch_size=2))
    assert ours(TEXTS[0])["sampling_rate"] == 8000
    drawn = []
    for pipe in both(task, vits()):
        torch.manual_seed(3)
        drawn.append(pipe(TEXTS[2]))
    same(*drawn)


def test_the_model_is_told_more() -> None:
    speakers = (*STILL, ("num_speakers", 3), ("speaker_embedding_size", 4))
    ours, theirs = both("text-to-audio", vits(*speakers))
    for more in ({"speaker_id": 2}, {"speaker_id": 1, "speaking_rate": 0.5}):
        same(ours(TEXTS[0], forward_params=more), theirs(TEXTS[0], forward_params=more))
    kept = pipeline("text-to-audio", vits(*speakers), forward_params={"speaker_id": 2})
    same(kept(TEXTS[0]), theirs(TEXTS[0], forward_params={"speaker_id": 2}))
    said = pipeline("text-to-audio", vits(*STILL), sampling_rate=11)
    assert said(TEXTS[0])["sampling_rate"] == 11


def test_spectra_become_sound_by_a_vocoder() -> None:
    folder, vocoder = speecht5()
    theirs = transformers.pipeline(
        "text-to-speech", str(folder), vocoder=transformers.SpeechT5HifiGan.from_pretrained(vocoder), device="cpu"
    )
    loaded = pipeline("text-to-speech", folder, vocoder=omniform.SpeechT5HifiGan.from_pretrained(vocoder))
    voice = {"speaker_embeddings": torch.ones(1, 6), "minlenratio": 3.0, "maxlenratio": 4.0}
    for given in ({"forward_params": voice}, {"forward_params": voice, "generate_kwargs": {"threshold": 0.9}}):
        told = []
        for pipe in (theirs, loaded, pipeline("text-to-speech", folder, vocoder=str(vocoder))):
            torch.manual_seed(0)  # frames are drawn with dropout
            told.append(pipe(TEXTS[0], **given))
        same(told[1], told[0])
        same(told[2], told[0])
        wave = told[0]["audio"]
        assert told[0]["sampling_rate"] == 4000 and len(wave) >= 4 * 3 * len(TEXTS[0]) and wave.std() > 0.05
    with pytest.raises(InputError, match="vocoder"):
        pipeline("text-to-speech", folder, vocoder=3)


def test_refused() -> None:
    ours = pipeline(model=vits(*STILL))
    assert ours.task == "text-to-audio"
    for given in ({"generate_kwargs": {"max_new_tokens": 3}}, {"forward_param": {}}, {"forward_params": {"speakr": 1}}):
        with pytest.raises(UnknownArgumentError):
            ours("a", **given)
    for given in ({"forward_params": 3}, {"preprocess_params": "x"}):
        with pytest.raises(InputError):
            ours("a", **given)
    for text in (3, None):
        with pytest.raises(InputError):
            ours(text)
