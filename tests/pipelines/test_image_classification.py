"""Classes of pictures, given beforehand or named at the call, and features, against the reference's pipelines."""

from __future__ import annotations

import base64
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from seen import both, clip, detr, picture, pictures, same, vit, ways

from omniform import pipeline
from omniform.core.errors import InputError, RepoError, UnknownArgumentError
from omniform.core.outputs import ClassifierOutput
from omniform.inputs.media_access import MediaAccess
from omniform.pipelines import KeyDataset
from omniform.pipelines.seeing import rows_of


def test_every_way_in_gives_the_references_classes() -> None:
    ours, theirs = both("image-classification", vit())
    expected = theirs(pictures())
    for how, answers in ways(ours, KeyDataset):
        same(answers, expected, how)
    assert len(expected[0]) == 5 and isinstance(ours(pictures()[0])[0]["score"], float)


@pytest.mark.parametrize(
    "changes",
    [(("num_labels", 1),), (("problem_type", "regression"), ("num_labels", 2)),
     (("problem_type", "multi_label_classification"), ("num_labels", 3)), ()],
    ids=["one label", "regression", "several labels at once", "classes"],
)  # fmt: skip
def test_scores_mean_what_the_config_says(changes: tuple[tuple[str, object], ...]) -> None:
    ours, theirs = both("image-classification", vit("ForImageClassification", *changes))
    for given in ({}, {"top_k": 2}, {"top_k": 50}, {"function_to_apply": "none"}, {"function_to_apply": "Sigmoid"},
                  {"function_to_apply": "softmax", "top_k": 1}):  # fmt: skip
        same(ours(pictures()[0], **given), theirs(pictures()[0], **given), str(given))
    kept = pipeline("image-classification", vit("ForImageClassification", *changes), top_k=1)
    assert kept(pictures()[0]) == ours(pictures()[0], top_k=1)
    assert ours(pictures()[0], function_to_apply="default") == ours(pictures()[0])


def test_pictures_come_by_path_base64_bytes_and_as_arrays(tmp_path: Path) -> None:
    ours, theirs = both("image-classification", vit())
    path = tmp_path / "one.png"
    image = picture(50, 40)
    image.save(path)
    expected = theirs(image)
    text = base64.b64encode(path.read_bytes()).decode()
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for source in (image, str(path), path, path.read_bytes(), io.BytesIO(path.read_bytes()), text, {"path": str(path)},
                   f"data:image/png;base64,{text}", array, tensor):  # fmt: skip
        same(ours(source), expected, type(source).__name__)
    same(ours(images=image), expected)
    same(ours(array), theirs(array))


def test_what_is_no_picture_is_refused_in_one_sentence(tmp_path: Path) -> None:
    pipe = pipeline("image-classification", vit())
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"bad\.png"):
        pipe(str(tmp_path / "bad.png"))
    with pytest.raises(RepoError, match="nowhere"):
        pipe("/nowhere.png")
    with pytest.raises(InputError, match="there is no picture"):
        pipe(None)
    with pytest.raises(RepoError, match="addresses on the network are not read"):
        pipe("https://example.com/a.png", media_access=MediaAccess(urls="none"))
    for given in ({"timeout": "long"}, {"timeout": -1}, {"top_k": 0}, {"function_to_apply": "tanh"}):
        with pytest.raises(InputError):
            pipe(pictures()[0], **given)
    with pytest.raises(UnknownArgumentError, match="top_k"):
        pipe(pictures()[0], topk=2)
    with pytest.raises(InputError, match="does not do image-classification"):
        pipeline("image-classification", detr())
    told = pipe([pictures()[0], "/nowhere.png"], on_error="return", timeout=3)
    assert told[0] == pipe(pictures()[0]) and isinstance(told[1], RepoError)


def test_a_list_of_pictures_is_not_prepared_all_at_once() -> None:
    pipe = pipeline("image-classification", vit())
    read = []

    def source():
        for number in itertools.count():
            read.append(number)
            yield picture(20, 20)

    answers = pipe(source(), batch_size=2)
    next(answers)
    assert len(read) <= 8 and pipe.window <= 32


def test_a_steps_owner_gets_the_models_output_by_name_in_batches_too() -> None:
    from omniform.pipelines.image_classification import ImageClassificationPipeline

    class Mine(ImageClassificationPipeline):
        def postprocess(self, model_outputs, **given):
            return model_outputs.logits[0].tolist()

    pipe = pipeline("image-classification", vit(), pipeline_class=Mine)
    alone = [pipe(one) for one in pictures()]
    for mine, other in zip(alone, pipe(pictures(), batch_size=3), strict=True):
        assert mine == pytest.approx(other, abs=1e-5) and len(mine) == 6
    assert rows_of(ClassifierOutput(logits=torch.zeros(2, 3), loss=torch.tensor(1.0)), 2).keys() == {"logits"}


def test_features_are_the_references() -> None:
    ours, theirs = both("image-feature-extraction", vit("Model"))
    expected = theirs(pictures())
    for how, answers in ways(ours, KeyDataset):
        same(answers, expected, how)
    image = pictures()[0]
    for given in ({"pool": True}, {"return_tensors": True}, {"pool": True, "return_tensors": True},
                  {"image_processor_kwargs": {"do_normalize": False, "do_rescale": True}}):  # fmt: skip
        same(ours(image, **given), theirs(image, **given), str(given))
    assert torch.equal(ours(image, return_tensors="pt"), ours(image, return_tensors=True))
    assert pipeline(model=vit("Model")).task == "image-feature-extraction"
    assert pipeline(model=ours.model, image_processor=ours.image_processor).task == "image-feature-extraction"
    bare = pipeline("image-feature-extraction", vit("ForMaskedImageModeling"))
    with pytest.raises(UnknownArgumentError, match="size"):
        ours(image, image_processor_kwargs={"sise": 3})
    assert len(bare(image)[0]) == 10
    with pytest.raises(InputError, match="not drawn"):
        ours.draw(image, ours(image))


def test_labels_that_are_named_at_the_call() -> None:
    ours, theirs = both("zero-shot-image-classification", clip())
    labels = ["a cat", "the dog runs", "b"]
    expected = theirs(pictures(), candidate_labels=labels)
    for how, answers in ways(ours, KeyDataset, candidate_labels=labels):
        same(answers, expected, how)
    image = pictures()[0]
    for given in ({"hypothesis_template": "{} it is"}, {"candidate_labels": ["one"]}):
        given = {"candidate_labels": labels, **given}
        same(ours(image, **given), theirs(image, **given), str(given))
    assert ours(image, labels) == ours(image=image, candidate_labels="a cat, the dog runs,b")
    assert ours(image, labels, tokenizer_kwargs={"padding": "max_length", "max_length": 40})
    for given in ({}, {"candidate_labels": []}, {"candidate_labels": 3}, {"candidate_labels": labels,
                  "hypothesis_template": "nothing"}):  # fmt: skip
        with pytest.raises((InputError, TypeError)):
            ours(image, **given)
