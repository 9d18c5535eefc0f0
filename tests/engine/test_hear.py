"""A whole sound through one door: windows that are read as they are needed, told as they are understood."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
import torch

from listening import RATE, SECONDS, listening
from omniform.core.errors import InputError, OmniformError
from omniform.engine.ask import Answer, ask
from omniform.engine.hearing.hear import USUAL, hear
from omniform.inputs.audio.load import open_recording
from omniform.inputs.audio.spectrogram import RecordedSpectrogram
from reference import omniform


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    path = tmp_path_factory.mktemp("whisper") / "w"
    theirs = listening(path)
    model = omniform.AutoModelForSpeechSeq2Seq.from_pretrained(path)
    return model, omniform.AutoProcessor.from_pretrained(path), theirs


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=round(seconds * RATE)).astype(np.float32) * 0.2


def written(samples: np.ndarray, **how: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, **how)
    return file.getvalue()


GREEDY = {"temperature": 0.0, "logprob_threshold": None, "no_speech_threshold": None}
GREEDY |= {"compression_ratio_threshold": None}


def span(segment: dict, first: int) -> tuple[float, float]:
    """When a segment is said by its timestamps; the reference lets the only one of a window begin with the window."""
    start, end = float(segment["start"]), float(segment["end"])
    stamps = [(token - first) * 0.02 for token in segment["tokens"].tolist() if token >= first]
    # The last of several is told with the timestamp after it.
    if any(np.isclose(end - start, stamp - stamps[0]) for stamp in stamps[-2:]):
        return start, end
    return start + stamps[0], end if len(stamps) > 1 else start + SECONDS


def test_a_long_file_is_heard_as_the_reference_hears_its_features(parts):
    model, processor, theirs = parts
    samples = sound(7.3)
    samples[: RATE * 2] *= 0.01  # quiet, beside what is loud later
    told: list[tuple[float, float]] = []
    file = written(samples, format="WAV", subtype="FLOAT")
    found = list(hear(model, processor, file, progress=lambda *p: told.append(p), **GREEDY))
    whole = processor(samples, sampling_rate=RATE, truncation=False, padding="longest", return_tensors="pt")
    expected = theirs.generate(whole["input_features"], return_timestamps=True, return_segments=True)["segments"][0]
    off = model.generation_config.no_timestamps_token_id
    spoken = [[t for t in s["tokens"].tolist() if t < off] for s in expected]
    assert [list(u.tokens) for u in found] == [tokens for tokens in spoken if tokens]
    ends = [span(s, off + 1) for s, tokens in zip(expected, spoken, strict=True) if tokens]
    assert np.allclose([(u.start, u.end) for u in found], np.minimum(ends, 7.3))
    assert told[-1] == (7.3, 7.3) and sorted(told) == told and len(told) > 3
    assert [u.heard for u in found] == sorted(u.heard for u in found) and {u.seconds for u in found} == {7.3}
    assert {u.language for u in found} <= {"en", "de", "zh"} and "".join(map(str, found)).strip()


@pytest.mark.parametrize("length", [12345, 52800, 3 * SECONDS * RATE, 3 * SECONDS * RATE + 77])
def test_features_of_windows_are_those_of_the_whole(parts, length):
    extractor = parts[1].feature_extractor
    samples = sound(length / RATE, 3)
    samples[length // 2 : length // 2 + 100] *= 8
    whole = extractor(samples, sampling_rate=RATE, truncation=False, padding="longest", return_tensors="pt")
    expected = whole["input_features"]
    with open_recording(written(samples, format="WAV", subtype="FLOAT"), RATE) as recording:
        found = RecordedSpectrogram(recording, extractor)
        assert found.frames == expected.shape[-1] and found.samples == length
        for first in (0, 1, 30, found.frames - 40, found.frames - 3, 2):
            assert torch.allclose(found.features(first, 50), expected[..., first : first + 50], atol=1e-5)


def test_words_have_times_within_their_stretch(parts):
    model, processor, _ = parts
    found = list(hear(model, processor, (sound(3.1), RATE), words=True, language="en", **GREEDY))
    assert any(len(u.words) > 1 for u in found)
    for utterance in found:
        assert "".join(word.text for word in utterance.words) == utterance.text
        moments = [moment for word in utterance.words for moment in (word.start, word.end)]
        assert all(utterance.start <= moment <= utterance.end for moment in moments) and moments == sorted(moments)


def test_a_short_sound_is_followed_by_silence(parts):
    model, processor, _ = parts
    samples = sound(0.7)
    filled = processor(samples, sampling_rate=RATE, return_tensors="pt")["input_features"]
    first = model.generate(filled, return_timestamps=True, return_segments=True)["segments"][0][0]
    found = next(hear(model, processor, (samples, RATE), **GREEDY))
    off = model.generation_config.no_timestamps_token_id
    assert list(found.tokens) == [t for t in first["tokens"].tolist() if t < off] and found.seconds == 0.7


def test_what_is_usual_is_alike_each_time_and_one_sample_is_a_sound(parts):
    model, processor, _ = parts
    assert USUAL["seed"] == 0
    twice = [list(hear(model, processor, (sound(2.5), RATE), max_new_tokens=6)) for _ in range(2)]
    assert twice[0] == twice[1]
    list(hear(model, processor, (sound(1 / RATE), RATE), max_new_tokens=4))


def test_ask_lets_a_long_sound_through(parts):
    model, processor, _ = parts
    answer = Answer()
    pieces = list(ask(model, processor, answer, audio=[(sound(5), RATE)], settings={"max_new_tokens": 5, **GREEDY}))
    found = list(hear(model, processor, (sound(5), RATE), max_new_tokens=5, **GREEDY))
    assert pieces == [u.text for u in found] and answer.text == "".join(pieces)
    assert answer.tokens == sum(len(u.tokens) for u in found) > 0


@pytest.mark.parametrize(
    ("source", "asked", "says"),
    [
        (iter([sound(5)]), {}, "model.transcribe"),
        ((sound(3), RATE), {"return_segments": True}, "model.generate"),
        ((sound(3), RATE), {"langage": "en"}, "language"),
        ((sound(3), RATE), {"language": "klingon"}, "language"),
        ((np.zeros(0, np.float32), RATE), {}, "empty|sample"),
        ((np.full(99999, np.nan, np.float32), RATE), {}, "finite|NaN|number"),
    ],
)
def test_what_cannot_be_heard(parts, source, asked, says):
    with pytest.raises(OmniformError, match=says):
        list(hear(parts[0], parts[1], source, **asked))


def test_who_cannot_hear(parts):
    with pytest.raises(InputError, match="processor"):
        hear(parts[0], parts[1].tokenizer, (sound(1), RATE))
