"""Classes of sounds, against the reference's pipeline."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import soundfile
import torch
from heard import RATE, sound, sounds, whisper_classifier
from seen import both, same

from omniform import pipeline
from omniform.core.errors import InputError, RepoError, UnknownArgumentError
from omniform.inputs.audio import load_audio
from omniform.inputs.media_access import MediaAccess
from omniform.pipelines import KeyDataset
from omniform.pipelines.audio_classification import AudioClassificationPipeline


def test_every_way_in_gives_the_references_classes() -> None:
    ours, theirs = both("audio-classification", whisper_classifier())
    assert isinstance(ours, AudioClassificationPipeline)
    expected = theirs(sounds())
    rows = [{"audio": one} for one in sounds()]
    same(ours(sounds()), expected, "a list")
    same(ours(sounds(), batch_size=2), theirs(sounds(), batch_size=2), "batches")
    same([ours(one) for one in sounds()], expected, "one by one")
    same([*ours(one for one in sounds())], expected, "a generator")
    same([*ours(KeyDataset(rows, "audio"))], expected, "a dataset")
    assert len(expected[0]) == 7


@pytest.mark.parametrize(
    "changes",
    [(("num_labels", 1),), (("problem_type", "regression"), ("num_labels", 2)),
     (("problem_type", "multi_label_classification"), ("num_labels", 3)), ()],
    ids=["one label", "regression", "several labels at once", "classes"],
)  # fmt: skip
def test_scores_mean_what_the_config_says(changes: tuple[tuple[str, object], ...]) -> None:
    ours, theirs = both("audio-classification", whisper_classifier(*changes))
    for given in ({}, {"top_k": 2}, {"top_k": 50}, {"top_k": None}, {"function_to_apply": "none"},
                  {"function_to_apply": "sigmoid"}, {"function_to_apply": "softmax", "top_k": 1}):  # fmt: skip
        same(ours(sound(0.4), **given), theirs(sound(0.4), **given), str(given))
    kept = pipeline("audio-classification", whisper_classifier(*changes), top_k=1)
    assert kept(sound(0.4)) == ours(sound(0.4), top_k=1)


def test_sounds_come_by_path_bytes_and_with_their_rate(tmp_path: Path) -> None:
    ours, theirs = both("audio-classification", whisper_classifier())
    wave, path = sound(0.5), tmp_path / "one.wav"
    soundfile.write(path, wave, RATE, subtype="FLOAT")
    expected = theirs(wave)
    sources = (
        str(path), path, path.read_bytes(), io.BytesIO(path.read_bytes()), torch.from_numpy(wave), (wave, RATE),
        {"raw": wave, "sampling_rate": RATE}, {"array": wave, "sampling_rate": RATE, "path": "nowhere"},
    )  # fmt: skip
    for source in sources:
        same(ours(source), expected, type(source).__name__)
    given = {"array": wave, "sampling_rate": RATE}
    ours(given)
    assert set(given) == {"array", "sampling_rate"}
    # Two channels are heard as their mean, and other rates as the model's.
    same(ours({"raw": wave[:, None].repeat(2, 1), "sampling_rate": RATE}), expected, "stereo")
    slower = sound(1.0)[::2]
    assert (
        ours({"raw": slower, "sampling_rate": 8000}) == ours(load_audio((slower, 8000), RATE)) == ours((slower, 8000))
    )


def test_refused() -> None:
    ours = pipeline(model=whisper_classifier())
    assert ours.task == "audio-classification"
    with pytest.raises(UnknownArgumentError, match="top_k"):
        ours(sound(0.2), topk=1)
    with pytest.raises(InputError, match="top_k"):
        ours(sound(0.2), top_k=0)
    with pytest.raises(InputError, match="softmax"):
        ours(sound(0.2), function_to_apply="relu")
    with pytest.raises(InputError, match="sampling_rate"):
        ours({"raw": sound(0.2)})
    with pytest.raises(RepoError, match="nowhere"):
        ours("nowhere.wav")
    with pytest.raises(RepoError):
        ours("http://127.0.0.1:9/a.wav", media_access=MediaAccess(urls="none"))
    with pytest.raises(InputError):
        ours(sound(0.2)[:0])
    with pytest.raises(InputError, match="finite"):
        ours(sound(0.2) * float("nan"))
