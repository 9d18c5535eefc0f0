"""Vectors of texts against the reference's pipeline; pooled ones against their definition."""

from __future__ import annotations

import pytest
import torch
from kinds import TEXTS, both, same

from omniform.core.errors import InputError, UnknownArgumentError


@pytest.mark.parametrize("model_type", ["bert", "roberta", "gpt2"])
def test_vectors_are_those_of_the_reference(model_type: str) -> None:
    ours, theirs = both("feature-extraction", model_type, "Model")
    padded = {"tokenize_kwargs": {"padding": "max_length", "max_length": 60}}
    for inputs in (TEXTS[0], [TEXTS[0]], [*TEXTS]):
        for given in ({}, {"return_tensors": True}, {"tokenize_kwargs": {"truncation": True, "max_length": 5}}, padded):
            same(ours(inputs, **given), theirs(inputs, **given), f"{given}")
    same(ours(TEXTS[0] * 4, truncation=True), theirs(TEXTS[0] * 4, truncation=True))
    # A batch pads nobody's answer.
    same(ours([*TEXTS], batch_size=4), theirs([*TEXTS]))


def test_a_head_gives_its_own_numbers() -> None:
    ours, theirs = both("feature-extraction", "bert", "ForSequenceClassification")
    same(ours([*TEXTS]), theirs([*TEXTS]))


@pytest.mark.parametrize("side", ["right", "left"])
def test_pooling_leaves_padding_out(side: str) -> None:
    ours, _ = both("feature-extraction", "bert", "Model", return_tensors=True)
    ours.tokenizer.padding_side = side
    whole = [ours(text)[0] for text in TEXTS]
    expected = {
        "mean": [vectors.mean(0) for vectors in whole],
        "cls": [vectors[0] for vectors in whole],
        "max": [vectors.max(0).values for vectors in whole],
        "last": [vectors[-1] for vectors in whole],
    }
    padded = {"tokenize_kwargs": {"padding": "max_length", "max_length": 64}}
    for kind, vectors in expected.items():
        for given in ({}, {"batch_size": 4}):
            found = ours([*TEXTS], pooling=kind, **given)
            assert [list(vector.shape) for vector in found] == [[1, 16]] * len(TEXTS)
            assert torch.allclose(torch.cat(found), torch.stack(vectors), atol=1e-5), (kind, given)
        unit = torch.cat(ours([*TEXTS], pooling=kind, normalize=True))
        assert torch.allclose(unit, torch.nn.functional.normalize(torch.stack(vectors)), atol=1e-5)
        if side == "right":  # else the caller's own padding moves the positions
            assert torch.allclose(ours(TEXTS[0], pooling=kind, **padded)[0], vectors[0], atol=1e-5)
    (found,) = ours(TEXTS[0], pooling="mean", return_tensors=False)
    assert found == pytest.approx(expected["mean"][0].tolist(), abs=1e-5)
    assert torch.allclose(ours(TEXTS[0], normalize=True)[0], torch.nn.functional.normalize(whole[0]), atol=1e-5)


def test_what_cannot_be_asked_is_refused_by_name() -> None:
    ours, _ = both("feature-extraction", "bert", "Model")
    for given in (
        {"pooling": "sum"},
        {"pooling": 3},
        {"normalize": "yes"},
        {"return_tensors": "tf"},
        {"tokenize_kwargs": []},
    ):
        with pytest.raises(InputError, match=next(iter(given))):
            ours(TEXTS[0], **given)
    with pytest.raises(InputError, match="truncation"):
        ours(TEXTS[0], truncation=True, tokenize_kwargs={"truncation": True})
    with pytest.raises(UnknownArgumentError, match="pooling"):
        ours(TEXTS[0], pool="mean")
    with pytest.raises(InputError, match="not a text"):
        ours([3])
