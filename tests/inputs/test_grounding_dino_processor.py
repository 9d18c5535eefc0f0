"""Grounding DINO's processors against the reference's: phrases in, and what was found of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from test_owlvit_processor import PICTURES, SIZES
from test_processors import same
from test_tokenizers_folders import bert

import omniform
from omniform.core.errors import InputError
from reference import transformers


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grounding")
    tokenizer = transformers.BertTokenizer.from_pretrained(bert(folder / "tokenizer"))
    images = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 24, "longest_edge": 40})
    transformers.GroundingDinoProcessor(images, tokenizer).save_pretrained(folder / "saved")
    found = [one.AutoProcessor.from_pretrained(folder / "saved") for one in (omniform, transformers)]
    assert type(found[0]) is omniform.GroundingDinoProcessor
    return found


@pytest.mark.parametrize(
    "call",
    [
        {"images": PICTURES[0], "text": "a fox. the world."},
        {"images": PICTURES[0], "text": ["A Fox ", "the world"]},
        {"images": PICTURES[:2], "text": [["a fox", "hello"], ["World"]], "padding": True},
        {"images": PICTURES[:2], "text": ["a fox. hello.", "world."], "padding": True, "return_tensors": "pt"},
        {"images": PICTURES[:2], "return_tensors": "pt"},
        {"text": "fox.", "return_tensors": "pt", "return_token_type_ids": False},
        {"text": [["fox"], ["the", "world"]], "padding": "max_length", "max_length": 12, "return_tensors": "np"},
    ],
    ids=lambda call: ",".join(call),
)  # fmt: skip
def test_calls(pair, call):
    ours, theirs = pair
    found, expected = ours(**call), theirs(**call)
    assert list(found) == list(expected)
    for name in expected:
        same(found[name], expected[name], name)


@pytest.mark.parametrize("sizes", SIZES, ids=["none", "list", "tensor"])
def test_found(pair, sizes):
    ours, theirs = pair
    torch.manual_seed(0)
    ids = theirs.tokenizer(["a fox. hello world.", "the world."], padding=True, return_tensors="pt")["input_ids"]
    logits = torch.full((2, 7, 30), float("-inf"))
    logits[:, :, : ids.shape[1]] = torch.randn(2, 7, ids.shape[1]) * 2
    outputs = SimpleNamespace(logits=logits, pred_boxes=torch.rand(2, 7, 4), input_ids=ids)
    for threshold, words in ((0.25, 0.25), (0.6, 0.9), (0.99, 0.1), (0.0, 0.5)):
        call = {"threshold": threshold, "text_threshold": words, "target_sizes": sizes}
        found, expected = (one.post_process_grounded_object_detection(outputs, **call) for one in (ours, theirs))
        for one, other in zip(found, expected, strict=True):
            assert list(one) == list(other) and one["text_labels"] == other["text_labels"]
            same([one["scores"], one["boxes"]], [other["scores"], other["boxes"]])
        found, expected = (
            one.image_processor.post_process_object_detection(outputs, threshold, sizes) for one in (ours, theirs)
        )
        for one, other in zip(found, expected, strict=True):
            same([*one.values()], [*other.values()])
    given = SimpleNamespace(logits=logits, pred_boxes=outputs.pred_boxes, input_ids=None)
    assert ours.post_process_grounded_object_detection(given, ids, target_sizes=sizes)
    with pytest.raises(InputError, match="which words"):
        ours.post_process_grounded_object_detection(given)


@pytest.mark.parametrize("call", [{}, {"text": [3]}, {"text": [["fox"], 3]}])
def test_bad_calls(pair, call):
    with pytest.raises(InputError):
        pair[0](**call)
