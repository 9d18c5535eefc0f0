"""What is said in sounds, against the reference's pipeline: models that write (Whisper)."""

from __future__ import annotations

import pytest
from heard import RATE, sound, sounds, whisper
from seen import both, same

from omniform import pipeline
from omniform.core.errors import InputError

TASK = "automatic-speech-recognition"
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


def test_refused() -> None:
    ours = pipeline(TASK, whisper())
    for given in ({"return_timestamps": "char"}, {"return_timestamps": 3}):
        with pytest.raises(InputError, match="return_timestamps"):
            ours(sound(0.2), **given)
    with pytest.raises(InputError, match="max_new_tokens"):
        ours(sound(0.2), max_new_tokens=-1)
