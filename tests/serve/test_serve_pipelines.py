"""Tasks over HTTP: what their pipelines say, and no file, address or program that a client names."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from serving import serving

from checkpoints import text_checkpoint
from omniform.hub.bundled import ASSETS, bundled_checkpoint
from omniform.pipelines.factory import pipeline
from omniform.pipelines.registry import PIPELINE_REGISTRY
from omniform.serve.config import ModelSource
from omniform.serve.plain_json import plain

EXAMPLES = Path(__file__).parents[2] / "examples"
SCENE, COMMAND = EXAMPLES / "pictures" / "scene.png", EXAMPLES / "sounds" / "command.wav"
PICTURE = "data:image/png;base64," + base64.b64encode(SCENE.read_bytes()).decode()
SOUND = base64.b64encode(COMMAND.read_bytes()).decode()
MODELS = ("scenes-rtdetr", "scenes-segformer", "scenes-clip", "scenes-llava")
LABELS = ["a red circle", "a dog"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    tiny = text_checkpoint(tmp_path_factory.mktemp("tiny"), chat=True)
    places = {name: ASSETS / name for name in MODELS} | {"tiny": tiny, "commands": bundled_checkpoint("audio")}
    sources = tuple(ModelSource(name=name, source=str(place)) for name, place in places.items())
    with serving(models=sources, preload=False) as server, server.raw() as client:
        yield client


def asked(raw, task, model, inputs, **parameters):
    answer = raw.post(f"/pipelines/{task}", json={"model": model, "inputs": inputs, "parameters": parameters})
    assert answer.status_code == 200, answer.text
    return answer.json()


def near(found, expected):
    """Whether answers are the same, but for the last digits."""
    if isinstance(expected, float):
        return found == pytest.approx(expected, abs=1e-4)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(near(found[name], expected[name]) for name in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(near, found, expected))
    return found == expected


def test_pictures(raw):
    for task, name, options in (
        ("object-detection", "scenes-rtdetr", {"threshold": 0.3}), ("image-segmentation", "scenes-segformer", {}),
        ("zero-shot-image-classification", "scenes-clip", {"candidate_labels": LABELS}),
    ):  # fmt: skip
        own = plain(pipeline(task, model=ASSETS / name)(str(SCENE), **options))
        assert near(asked(raw, task, name, PICTURE, **options), own), task
        both = asked(raw, task, name, [PICTURE, PICTURE.partition(",")[2]], **options)
        assert len(both) == 2 and near(both[0], own) and near(both[1], own)
    mask = asked(raw, "image-segmentation", "scenes-segformer", PICTURE)[0]["mask"]
    shown = Image.open(io.BytesIO(base64.b64decode(mask.removeprefix("data:image/png;base64,"))))
    assert shown.size == Image.open(SCENE).size
    question = {"image": PICTURE, "question": "What colour is the circle?"}
    own = pipeline("visual-question-answering", model=ASSETS / "scenes-llava")(
        {"image": str(SCENE), "question": question["question"]}
    )
    assert asked(raw, "visual-question-answering", "scenes-llava", question) == plain(own)


def test_chats_texts_and_sounds(raw):
    chat = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}},
                                         {"type": "text", "text": "Describe the picture."}]}]  # fmt: skip
    told = asked(raw, "image-text-to-text", "scenes-llava", chat, max_new_tokens=12, return_full_text=False)
    assert told[0]["generated_text"]
    own = asked(raw, "automatic-speech-recognition", "commands", SOUND, return_timestamps="word")
    assert own["text"].split() and own["chunks"][0]["timestamp"][1] > 0
    written = asked(raw, "text-generation", "tiny", "abc", max_new_tokens=4, do_sample=False)
    assert written[0]["generated_text"].startswith("abc")
    retrieved = asked(raw, "image-text-retrieval", "scenes-clip", {"images": [PICTURE], "text": LABELS})
    assert len(retrieved["similarity"][0]) == 2


def test_the_tasks_are_told(raw):
    told = raw.get("/pipelines").json()["data"]
    assert [one["id"] for one in told] == sorted(PIPELINE_REGISTRY.supported_tasks)
    assert {one["kind"] for one in told} == {"text", "image", "audio", "video", "multimodal"}


FILE, ADDRESS = str(SCENE), "http://127.0.0.1:1/x.png"
WRONG = {
    "no such task": ("fortune-telling", "tiny", "a", {}, 404, "task_not_found"),
    "another kind of model": ("object-detection", "tiny", PICTURE, {}, 400, None),
    "no picture": ("object-detection", "scenes-rtdetr", "data:image/png;base64,AAAA", {}, 400, None),
    "no bytes": ("object-detection", "scenes-rtdetr", "data:image/png,xx", {}, 400, "invalid_value"),
    "a number": ("object-detection", "scenes-rtdetr", 7, {}, 400, None),
    "nothing": ("object-detection", "scenes-rtdetr", None, {}, 400, None),
    "an option": ("object-detection", "scenes-rtdetr", PICTURE, {"threshhold": 1}, 400, None),
    "an option's kind": ("object-detection", "scenes-rtdetr", PICTURE, {"threshold": "x"}, 400, None),
    "many": ("object-detection", "scenes-rtdetr", [PICTURE] * 200, {}, 400, "too_many"),
    "beams": ("text-generation", "tiny", "a", {"num_beams": 5000}, 400, "too_many"),
    "a text that is none": ("text-generation", "tiny", {"a": 1}, {}, 400, None),
}
for _task, _model, _form in (
    ("object-detection", "scenes-rtdetr", "{}"), ("zero-shot-image-classification", "scenes-clip", "{}"),
    ("automatic-speech-recognition", "commands", "{}"), ("automatic-speech-recognition", "commands", '{"path": "{}"}'),
    ("visual-question-answering", "scenes-llava", '{"image": "{}", "question": "a"}'),
    ("image-text-retrieval", "scenes-clip", '{"images": ["{}"], "text": ["a"]}'),
    ("image-text-retrieval", "scenes-clip", '{"images": [{"path": "{}"}], "text": ["a"]}'),
    ("image-text-to-text", "scenes-llava", '[{"role": "user", "content": [{"type": "image", "image": "{}"}]}]'),
    ("image-text-to-text", "scenes-llava", '[{"role": "user", "content": [{"type": "image", "url": "{}"}]}]'),
    ("image-text-to-text", "scenes-llava", '{"images": "{}", "text": "<image> a"}'),
):  # fmt: skip
    for _place in (FILE, ADDRESS, f"file://{FILE}"):
        _given = _place if _form == "{}" else json.loads(_form.replace("{}", _place))
        _options = {"candidate_labels": LABELS} if "zero" in _task else {}
        WRONG[f"{_task} {_form} {_place}"] = (_task, _model, _given, _options, 400, None)
for _name in ("custom_generate", "assistant_model", "media_access", "generation_config", "logits_processor", "vocoder"):
    WRONG[f"no {_name}"] = ("text-generation", "tiny", "a", {_name: FILE}, 400, "unsupported_parameter")
    WRONG[f"no {_name} inside"] = (
        "text-generation", "tiny", "a", {"generate_kwargs": {_name: FILE}}, 400, "unsupported_parameter",
    )  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(raw, name):
    task, model, inputs, parameters, status, code = WRONG[name]
    answer = raw.post(f"/pipelines/{task}", json={"model": model, "inputs": inputs, "parameters": parameters})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["message"] and "Traceback" not in error["message"] and code in (None, error["code"])


def test_what_json_holds():
    import numpy as np
    import torch

    told = plain({1: torch.tensor([1.5, float("nan")]), "a": (np.int64(3), np.array([True])), "b": b"xy", "c": None})
    assert json.loads(json.dumps(told, allow_nan=False)) == {"1": [1.5, None], "a": [3, [True]], "b": "eHk=", "c": None}
