"""What is said in sounds, against the reference's pipeline: models that tell letters frame by frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from heard import RATE, sound, sounds, wav2vec2, wav2vec2_with_words
from seen import both, same

from omniform import pipeline
from omniform.core.errors import InputError
from omniform.pipelines import KeyDataset
from omniform.pipelines.automatic_speech_recognition import AutomaticSpeechRecognitionPipeline

TASK = "automatic-speech-recognition"
STABLE = (("do_stable_layer_norm", True), ("feat_extract_norm", "layer"))


@pytest.mark.parametrize("changes", [(), STABLE], ids=["group norm", "layer norm"])
def test_every_way_in_gives_the_references_text(changes: tuple[tuple[str, object], ...]) -> None:
    ours, theirs = both(TASK, wav2vec2(*changes))
    assert isinstance(ours, AutomaticSpeechRecognitionPipeline) and (ours.type, ours.frame) == (theirs.type, 80)
    expected = theirs(sounds())
    assert all(len(one["text"]) > 3 for one in expected)
    rows = [{"audio": one} for one in sounds()]
    same(ours(sounds()), expected, "a list")
    same([ours(one) for one in sounds()], expected, "one by one")
    same([*ours(one for one in sounds())], expected, "a generator")
    same([*ours(KeyDataset(rows, "audio"))], expected, "a dataset")
    same(ours(sounds(), batch_size=2), theirs(sounds(), batch_size=2), "batches")
    same([*ours(iter(sounds()), batch_size=3)], theirs(sounds(), batch_size=3), "batches of a stream")


@pytest.mark.parametrize("times", ["char", "word"])
def test_times(times: str) -> None:
    ours, theirs = both(TASK, wav2vec2())
    for wave in sounds():
        same(ours(wave, return_timestamps=times), theirs(wave, return_timestamps=times), near=1e-9)
    same(ours(sounds(), return_timestamps=times, batch_size=2), theirs(sounds(), return_timestamps=times, batch_size=2))


CUTS = (
    {"chunk_length_s": 0.3},
    {"chunk_length_s": 0.2, "stride_length_s": 0.03},
    {"chunk_length_s": 0.2, "stride_length_s": (0.05, 0.0)},
    {"chunk_length_s": 0.25, "stride_length_s": [0.0, 0.1]},
    {"chunk_length_s": 5},
    {"chunk_length_s": 0},
)


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_parts(cut: dict[str, object]) -> None:
    ours, theirs = both(TASK, wav2vec2(*STABLE))
    for wave in (sound(1.03, 4), sound(0.6, 5), sound(0.05, 6)):
        for more in ({}, {"return_timestamps": "word"}, {"batch_size": 3}):
            same(ours(wave, **cut, **more), theirs(wave, **cut, **more), f"{cut} {more}", near=1e-9)
    kept, other = both(TASK, wav2vec2(*STABLE), **cut)
    same(kept([sound(0.7, 1), sound(0.4, 2)], batch_size=2), other([sound(0.7, 1), sound(0.4, 2)], batch_size=2))


def test_parts_are_read_as_they_are_needed() -> None:
    pipe, came = pipeline(TASK, wav2vec2()), []

    def blocks():
        for at in range(20):
            came.append(at)
            yield sound(2.0)[at * 1600 : (at + 1) * 1600]

    parts = pipe.preprocess((blocks(), RATE), chunk_length_s=0.3)
    first = next(parts)
    assert first["stride"].tolist() == [[4800, 0, 800]] and len(came) <= 5
    assert [*parts][-1]["is_last"] and len(came) == 20


def test_mappings(tmp_path: Path) -> None:
    ours, theirs = both(TASK, wav2vec2())
    wave = sound(0.7, 3)
    made = (
        {"raw": wave, "sampling_rate": RATE},
        {"array": wave, "sampling_rate": RATE, "path": "nowhere"},
        {"raw": wave, "sampling_rate": RATE, "stride": (800, 1600)},
        {"raw": wave, "sampling_rate": RATE, "stride": (0, 500), "partial": True, "name": "x"},
        {"raw": np.stack([wave, 0.5 * wave]), "sampling_rate": RATE},
    )
    for one in made:
        same(ours(dict(one)), theirs(dict(one)), str([*one]))
        same(ours(dict(one), return_timestamps="char"), theirs(dict(one), return_timestamps="char"), str([*one]))
    same(ours([dict(one) for one in made[:3]], batch_size=2), theirs([dict(one) for one in made[:3]], batch_size=2))
    given = dict(made[2])
    ours(given)
    assert [*given] == [*made[2]]  # the caller's own is left as it was
    path = tmp_path / "a.wav"
    soundfile.write(path, wave, RATE, subtype="FLOAT")
    text = ours(wave)
    assert ours(str(path)) == ours(path) == ours(path.read_bytes()) == ours({"path": str(path)}) == text
    assert ours({"raw": wave[::2], "sampling_rate": 8000})["text"] == ours((wave[::2], 8000))["text"]


def test_words_by_a_model_of_words() -> None:
    pytest.importorskip("kenlm")
    ours, theirs = both(TASK, wav2vec2_with_words())
    plain = pipeline(TASK, wav2vec2())
    if theirs.type != "ctc_with_lm":  # a release whose own folders do not say that they have one
        theirs.type, theirs.decoder = "ctc_with_lm", ours.decoder
    assert ours.type == "ctc_with_lm"
    assert ours(sound(0.3, 1))["text"] != plain(sound(0.3, 1))["text"]
    for more in ({}, {"return_timestamps": "word"}, {"chunk_length_s": 0.2}):
        for beams in ({"beam_width": 2}, {"beam_width": 6, "beam_prune_logp": -3.0}):
            given = {**more, "decoder_kwargs": beams}
            same(ours(sound(0.52, 2), **given), theirs(sound(0.52, 2), **given), str(given), near=1e-9)
    given = pipeline(TASK, wav2vec2(), decoder=ours.decoder)
    assert given(sound(0.3, 1)) == ours(sound(0.3, 1))
    with pytest.raises(InputError, match="'word'"):
        ours(sound(0.2), return_timestamps="char")


def test_refused() -> None:
    ours = pipeline(model=wav2vec2())
    assert ours.task == TASK
    for given in (
        {"return_timestamps": True}, {"return_timestamps": "sentence"}, {"return_language": True},
        {"chunk_length_s": -1}, {"chunk_length_s": 1, "stride_length_s": 0.5}, {"stride_length_s": (1, 2, 3),
        "chunk_length_s": 9}, {"generate_kwargs": {"num_beams": 2}}, {"max_new_tokens": 3}, {"generate_kwargs": 3},
    ):  # fmt: skip
        with pytest.raises(InputError):
            ours(sound(0.2), **given)
    for stride in ((RATE, 0), "both", (1,), (1.5, 2)):
        with pytest.raises(InputError):
            ours({"raw": sound(0.2), "sampling_rate": RATE, "stride": stride})
    broken = ours([sound(0.2), sound(0.2) * np.nan, sound(0.3)], on_error="return")
    assert [type(one) for one in broken] == [dict, InputError, dict]


def test_saved_with_its_parts(tmp_path: Path) -> None:
    ours = pipeline(TASK, wav2vec2())
    ours.save_pretrained(tmp_path)
    assert pipeline(TASK, tmp_path)(sound(0.5, 1)) == ours(sound(0.5, 1))
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["sampling_rate"] == RATE
