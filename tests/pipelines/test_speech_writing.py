"""What is said in sounds, against the reference's pipeline: models that write (Whisper)."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch
from heard import RATE, moonshine, sound, sounds, whisper
from seen import both
from seen import same as same_order

from omniform import pipeline
from omniform.core.errors import InputError
from omniform.inputs.audio import open_recording
from omniform.inputs.audio.spectrogram import RecordedSpectrogram

TASK = "automatic-speech-recognition"


def same(ours: object, theirs: object, where: str = "answer", near: float = 1e-6) -> None:
    """Fail unless answers are the same, in whatever order their entries stand."""
    same_order(_sorted(ours), _sorted(theirs), where, near)


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(one) for one in value] if isinstance(value, list) else value


GREEDY = {"num_beams": 1, "max_new_tokens": 12}


def test_sounds_become_texts() -> None:
    ours, theirs = both(TASK, whisper())
    assert ours.type == theirs.type == "seq2seq_whisper"
    expected = theirs(sounds(), generate_kwargs=GREEDY)
    assert all(one["text"] for one in expected)
    same(ours(sounds(), generate_kwargs=GREEDY), expected, "settings in a mapping")
    same(ours(sounds(), **GREEDY), expected, "settings one by one")
    same(ours(sounds(), batch_size=2, **GREEDY), expected, "batches")
    kept = pipeline(TASK, whisper(), **GREEDY)
    same(kept(sounds()), expected, "settings of the pipeline")
    same(ours(sound(0.4), generate_kwargs={"max_new_tokens": 5}), theirs(sound(0.4), max_new_tokens=5), "five beams")
    for more in ({"language": "de"}, {"language": "en", "task": "translate"}):
        same(ours(sound(0.4), **GREEDY, **more), theirs(sound(0.4), generate_kwargs={**GREEDY, **more}), str(more))
    given = {"raw": sound(0.4), "sampling_rate": RATE, "name": "x"}
    same(ours(dict(given), **GREEDY), theirs(dict(given), generate_kwargs=GREEDY), "a mapping")


def test_parts() -> None:
    ours, theirs = both(TASK, whisper(), ignore_warning=True)
    for cut in ({"chunk_length_s": 0.6}, {"chunk_length_s": 0.5, "stride_length_s": (0.1, 0.2)}):
        for more in ({}, {"batch_size": 2}):
            found = ours(sound(1.3, 2), **cut, **more, **GREEDY)
            same(found, theirs(sound(1.3, 2), **cut, **more, generate_kwargs=GREEDY), f"{cut} {more}")


def test_other_writers() -> None:
    ours, theirs = both(TASK, moonshine(), ignore_warning=True)
    assert ours.type == theirs.type == "seq2seq"
    for given in ({}, {"generate_kwargs": GREEDY}, {"chunk_length_s": 0.4, "generate_kwargs": GREEDY}):
        same(ours(sound(0.9, 1), **given), theirs(sound(0.9, 1), **given), str(given))
    same(ours(sounds(), batch_size=2, **GREEDY), theirs(sounds(), batch_size=2, generate_kwargs=GREEDY))
    for given in ({"return_timestamps": True}, {"return_timestamps": "word"}, {"return_language": True}):
        with pytest.raises(InputError):
            ours(sound(0.2), **given)
    with pytest.raises(InputError, match="stride"):
        ours({"raw": sound(0.2), "sampling_rate": RATE, "stride": (1, 1)})


def test_refused() -> None:
    ours = pipeline(TASK, whisper())
    for given in ({"return_timestamps": "char"}, {"return_timestamps": 3}):
        with pytest.raises(InputError, match="return_timestamps"):
            ours(sound(0.2), **given)
    with pytest.raises(InputError, match="max_new_tokens"):
        ours(sound(0.2), max_new_tokens=-1)


LONG = [sound(2.7, 5), sound(0.6, 6), sound(4.2, 7)]


@pytest.mark.parametrize("times", [True, "word"])
def test_times(times: object) -> None:
    ours, theirs = both(TASK, whisper())
    for wave in (sound(0.5, 1), *LONG):
        expected = theirs(wave, return_timestamps=times, generate_kwargs=GREEDY)
        same(ours(wave, return_timestamps=times, **GREEDY), expected)
    assert expected["chunks"]


@pytest.mark.parametrize("more", [{}, {"return_timestamps": True}], ids=str)
def test_languages(more: dict[str, object]) -> None:
    ours, theirs = both(TASK, whisper())
    for wave in (sound(0.5, 1), LONG[0]):
        if len(wave) > RATE and not more:
            continue
        given = {"return_language": True, **more}
        expected = theirs(wave, **given, generate_kwargs=GREEDY)
        same(ours(wave, **given, **GREEDY), expected, str(given))
    # The reference counts the language among the tokens that have times, and each word has those of the next.
    words = ours(LONG[0], return_timestamps="word", **GREEDY)
    named = ours(LONG[0], return_timestamps="word", return_language=True, **GREEDY)
    assert {chunk.pop("language") for chunk in named["chunks"]} == {"english"}
    same(named, words)


@pytest.mark.parametrize("times", [True, "word"])
def test_times_of_parts(times: object) -> None:
    ours, theirs = both(TASK, whisper(), ignore_warning=True)
    for cut in ({"chunk_length_s": 0.6}, {"chunk_length_s": 1, "stride_length_s": (0.2, 0.1), "batch_size": 2}):
        given = {"return_timestamps": times, **cut}
        same(ours(LONG[0], **given, **GREEDY), theirs(LONG[0], **given, generate_kwargs=GREEDY), str(given))


def test_long_sounds_share_batches() -> None:
    """The reference cannot bring spectrograms of several lengths into one batch: what each says alone is said."""
    ours = pipeline(TASK, whisper(), **GREEDY)
    for given in ({"return_timestamps": True}, {"return_timestamps": "word"}):
        same(ours(LONG, batch_size=3, **given), [ours(one, **given) for one in LONG], str(given))


def test_long_sounds_are_read_as_they_are_needed(tmp_path: Path) -> None:
    ours = pipeline(TASK, whisper(), **GREEDY)
    path = tmp_path / "long.wav"
    soundfile.write(path, LONG[2], RATE, subtype="FLOAT")
    (part,) = ours.preprocess(path)
    (features,) = part["input_features"]
    assert isinstance(features, RecordedSpectrogram) and features.frames == len(LONG[2]) // 160
    assert ours(path, return_timestamps=True) == ours(LONG[2], return_timestamps=True)
    whole = ours.feature_extractor(
        LONG[2],
        sampling_rate=RATE,
        truncation=False,
        padding="longest",
        return_tensors="pt",
        return_attention_mask=True,
    )
    settings = {"return_timestamps": True, "return_token_timestamps": True, "return_segments": True, **GREEDY}
    expected = ours.model.generate(**whole, **settings)
    found = ours.model.generate(RecordedSpectrogram(open_recording(path, RATE), ours.feature_extractor), **settings)
    assert torch.equal(found["sequences"], expected["sequences"])
    for mine, other in zip(found["segments"][0], expected["segments"][0], strict=True):
        assert torch.equal(mine["token_timestamps"], other["token_timestamps"]) and mine["start"] == other["start"]


def test_settings_of_long_sounds() -> None:
    ours, theirs = both(TASK, whisper())
    settings = {
        "temperature": 0.0, "compression_ratio_threshold": 1.35, "logprob_threshold": -1.0,
        "no_speech_threshold": 0.6, "condition_on_prev_tokens": True, "num_beams": 1,
    }  # fmt: skip
    for given in (settings, {"num_beams": 2, "max_new_tokens": 6}):
        asked = {"return_timestamps": True, "generate_kwargs": given}
        same(ours(LONG[0], **asked), theirs(LONG[0], **asked), str(given))


def test_the_checkpoint_asks_for_times() -> None:
    ours, theirs = both(TASK, whisper(("return_timestamps", True)))
    same(ours(sound(0.5, 1), **GREEDY), theirs(sound(0.5, 1), generate_kwargs=GREEDY))


def test_the_same_seed_means_the_same_draws() -> None:
    ours, theirs = both(TASK, whisper())
    warmer = {"temperature": (0.0, 0.4), "logprob_threshold": -1.0, "compression_ratio_threshold": 1.35}
    for given in (sound(2.3, 2), [sound(2.3, 2), sound(0.5, 1)]):
        torch.manual_seed(0)
        expected = theirs(given, return_timestamps=True, generate_kwargs=warmer)
        torch.manual_seed(0)
        same(ours(given, return_timestamps=True, generate_kwargs=warmer), expected, "drawn")
