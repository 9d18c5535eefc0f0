"""Classes of videos, against the reference's pipeline, and from the command line."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from seen import new_folder

import omniform
from omniform import pipeline
from omniform.cli.main import main
from omniform.core.errors import InputError, RepoError, UnknownArgumentError
from omniform.inputs.media_access import MediaAccess
from omniform.inputs.videos import load_video
from reference import saved_reference, transformers

sys.path.insert(0, str(Path(__file__).parent.parent / "inputs"))

from films import film, frames

TINY = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 8, "num_frames": 4}  # fmt: skip
LABELS = {"id2label": dict(enumerate(["dancing", "running", "sleeping", "eating", "reading", "singing"]))}
SMALL = {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}}


@cache
def folder(kind: str = "VideoMAE", *changes: tuple[str, object]) -> Path:
    """A checkpoint of before there were video processors: one file for pictures."""
    place, told = new_folder(), dict(changes)
    config = getattr(transformers, f"{kind}Config")(**{**TINY, **(told or LABELS)})
    saved_reference(getattr(transformers, f"{kind}ForVideoClassification"), config, place)
    transformers.VideoMAEImageProcessor(**SMALL).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("films") / "clip.mp4"
    path.write_bytes(film())
    return path


def theirs(place: Path, kind: str = "VideoMAE", **parts: object):
    model = getattr(transformers, f"{kind}ForVideoClassification").from_pretrained(place)
    return transformers.VideoClassificationPipeline(model=model, **parts)


def same(ours: object, expected: object) -> None:
    assert [one["label"] for one in ours] == [one["label"] for one in expected]
    assert np.allclose([one["score"] for one in ours], [one["score"] for one in expected], atol=1e-5)


@pytest.mark.parametrize("kind", ["VideoMAE", "Timesformer"])
@pytest.mark.parametrize("given", [
    {}, {"top_k": 2}, {"top_k": 50}, {"function_to_apply": "none"}, {"function_to_apply": "sigmoid", "top_k": 1},
    {"frame_sampling_rate": 3}, {"num_frames": 4, "frame_sampling_rate": 2},
])  # fmt: skip
def test_with_an_image_processor(clip, kind, given):
    processor = transformers.VideoMAEImageProcessor.from_pretrained(folder(kind))
    expected = theirs(folder(kind), kind, image_processor=processor)(str(clip), **given)
    model = omniform.AutoModelForVideoClassification.from_pretrained(folder(kind))
    pipe = pipeline("video-classification", model, image_processor=folder(kind))
    same(pipe(str(clip), **given), expected)


@pytest.mark.parametrize("kind", ["VideoMAE", "Timesformer"])
def test_with_a_video_processor(clip, kind, monkeypatch):
    """It is taken where there is one, for files of before too; the frames are from all of the video then."""
    base = transformers.video_processing_utils.BaseVideoProcessor
    monkeypatch.setattr(base, "fetch_videos", lambda self, videos, sample_indices_fn=None: tuple(zip(*(
        transformers.video_utils.load_video(one, sample_indices_fn=sample_indices_fn) for one in videos
    ), strict=True)))  # fmt: skip
    processor = transformers.AutoVideoProcessor.from_pretrained(folder(kind))
    other = theirs(folder(kind), kind, video_processor=processor)
    ours = pipeline(model=folder(kind))
    assert type(ours).__name__ == "VideoClassificationPipeline" and ours.task == "video-classification"
    assert type(ours.video_processor).__name__ == type(processor).__name__
    for given in ({}, {"top_k": 3, "frame_sampling_rate": 4}):
        same(ours(str(clip), **given), other(str(clip), **given))
    same(ours(load_video(clip)[0]), other(str(clip)))
    several = ours([clip, clip.read_bytes(), str(clip)], batch_size=2, top_k=1)
    assert len(several) == 3
    for answer in several:
        same(answer, other(str(clip), top_k=1))
    same(pipeline("video-classification", folder(kind), top_k=2)(videos=str(clip)), other(str(clip), top_k=2))


@pytest.mark.parametrize("changes", [(("num_labels", 1),), (("problem_type", "regression"), ("num_labels", 2)),
                                     (("problem_type", "multi_label_classification"), ("num_labels", 3))])  # fmt: skip
def test_scores_mean_what_the_config_says(clip, changes):
    place = folder("VideoMAE", *changes)
    processor = transformers.VideoMAEImageProcessor.from_pretrained(place)
    expected = theirs(place, image_processor=processor)(str(clip))
    model = omniform.AutoModelForVideoClassification.from_pretrained(place)
    same(pipeline("video-classification", model, image_processor=place)(str(clip)), expected)


def test_it_is_saved_with_its_processor(clip, tmp_path):
    pipe = pipeline("video-classification", folder())
    pipe.save_pretrained(tmp_path)
    same(pipeline(model=tmp_path)(clip), pipe(clip))


def test_calls_that_cannot_be_answered(clip):
    pipe = pipeline("video-classification", folder())
    with pytest.raises(UnknownArgumentError, match="num_frames"):
        pipe(str(clip), num_frame=3)
    with pytest.raises(InputError, match="softmax"):
        pipe(str(clip), function_to_apply="max")
    with pytest.raises(InputError, match="fewer frames"):
        pipe(frames(3))
    with pytest.raises(InputError, match="no video"):
        pipe()
    with pytest.raises(RepoError, match="allowed folders"):
        pipe(str(clip), media_access=MediaAccess(roots=[]))
    bare = omniform.AutoModelForVideoClassification.from_pretrained(folder())
    with pytest.raises(InputError, match="neither a video processor"):
        pipeline("video-classification", bare)(str(clip))
    with pytest.raises(InputError, match="no such frame"):
        pipeline("video-classification", bare, image_processor=folder())(str(clip), frame_sampling_rate=9)
    answers = pipe([str(clip), "nowhere.mp4"], on_error="return")
    assert isinstance(answers[0], list) and isinstance(answers[1], RepoError)
    assert torch.is_grad_enabled()


def test_from_the_command_line(clip, capsys):
    expected = pipeline("video-classification", folder())(str(clip))
    asked = ["run", "--task", "video-classification", "--model", str(folder()), "--video", str(clip)]
    capsys.readouterr()  # the reference talks while the checkpoint is made
    assert main([*asked, "--json"]) == 0
    same(json.loads(capsys.readouterr().out)["answer"], expected)
    assert main(asked) == 0
    assert expected[0]["label"] in capsys.readouterr().out
    assert main(["run", "--text", "what is this?", "--video", str(clip)]) != 0
    assert "reads no videos" in capsys.readouterr().err
