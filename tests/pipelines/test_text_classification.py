"""Text classification against the reference's, on the same checkpoints."""

from __future__ import annotations

import math

import pytest
from kinds import TAGS, TEXTS, both, checkpoint, same

import omniform
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.pipelines.text_classification import ClassificationFunction

PAIR = {"text": TEXTS[0], "text_pair": TEXTS[1]}
INPUTS = [TEXTS[0], [TEXTS[0]], [*TEXTS], PAIR, [PAIR, {"text": "a"}], "", [[[TEXTS[0], TEXTS[1]]]]]
KIND = "ForSequenceClassification"


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta"])
def test_one_text_a_list_and_pairs_are_answered_as_the_reference_does(model_type: str) -> None:
    ours, theirs = both("text-classification", model_type, KIND, TAGS)
    ways = ({}, {"top_k": None}, {"top_k": 1}, {"top_k": 9}, {"function_to_apply": "sigmoid", "top_k": 2})
    for inputs in INPUTS:
        for given in ways:
            same(ours(inputs, **given), theirs(inputs, **given), f"{inputs} {given}")
    same(ours([*TEXTS], batch_size=3), theirs([*TEXTS], batch_size=1))


@pytest.mark.parametrize(
    "config",
    [
        {"num_labels": 1},
        {"num_labels": 1, "problem_type": "regression"},
        {"num_labels": 3, "problem_type": "regression"},
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        {"num_labels": 3, "problem_type": "single_label_classification"},
    ],
    ids=str,
)
def test_the_config_tells_what_the_numbers_mean(config: dict[str, object]) -> None:
    for at_start in ({}, {"top_k": None}, {"function_to_apply": "softmax"}):
        ours, theirs = both("text-classification", "bert", KIND, config, **at_start)
        for inputs in (TEXTS[0], [*TEXTS]):
            same(ours(inputs), theirs(inputs))
            same(ours(inputs, function_to_apply="none"), theirs(inputs, function_to_apply="none"))
    plain = ours(TEXTS[0], function_to_apply="default", top_k=None)
    assert plain == ours(TEXTS[0], function_to_apply=ClassificationFunction.DEFAULT, top_k=None)
    same(plain, both("text-classification", "bert", KIND, config)[1](TEXTS[0], top_k=None))


def test_older_spelling_of_all_classes_keeps_the_models_order() -> None:
    ours, _ = both("sentiment-analysis", "bert", KIND, TAGS, return_all_scores=True)
    (found,) = ours(TEXTS[0])
    assert [entry["label"] for entry in found] == list(TAGS["id2label"].values())
    assert math.isclose(sum(entry["score"] for entry in found), 1, abs_tol=1e-5)
    best = max(found, key=lambda entry: entry["score"])
    assert ours(TEXTS[0], return_all_scores=False) == [best]


def test_long_texts_are_cut_where_the_tokenizer_is_asked_to() -> None:
    ours, theirs = both("text-classification", "bert", KIND)
    text = "a cat " * 100
    same(ours(text, truncation=True, max_length=9), theirs(text, truncation=True, max_length=9))
    with pytest.raises(InputError, match=r"positions|longer"):
        ours(text)


def test_a_decoder_that_has_nothing_to_pad_with_answers_lists() -> None:
    ours, theirs = both("text-classification", "gpt2", KIND)
    expected = theirs([*TEXTS])
    for part in (ours.tokenizer, theirs.tokenizer):
        part.pad_token = None
    same(ours([*TEXTS]), expected)


@pytest.mark.parametrize(("pad", "side"), [(1, "right"), (1, "left"), (5, "left")])
def test_a_batch_of_a_decoder_answers_as_each_text_alone(pad: int, side: str) -> None:
    # Padding in front moves positions, and the row's last token is told by the config's own padding token.
    ours, theirs = both("text-classification", "gpt2", KIND, {"pad_token_id": pad})
    ours.tokenizer.padding_side = side
    same(ours([*TEXTS], batch_size=4), theirs([*TEXTS]))


def test_what_cannot_be_read_is_refused_by_name() -> None:
    ours, _ = both("text-classification", "bert", KIND)
    for inputs in ([[TEXTS[0], TEXTS[1]]], {"txt": "a"}, [{"text": 3}], [7]):
        with pytest.raises(InputError, match="text_pair"):
            ours(inputs)
    for given in ({"top_k": 0}, {"top_k": "all"}, {"function_to_apply": "tanh"}, {"function_to_apply": 3}):
        with pytest.raises(InputError, match=next(iter(given))):
            ours(TEXTS[0], **given)
    with pytest.raises(UnknownArgumentError, match="top_k"):
        ours(TEXTS[0], topk=3)
    tokens = omniform.AutoModelForTokenClassification.from_pretrained(checkpoint("bert", "ForTokenClassification"))
    with pytest.raises(InputError, match="another task"):
        omniform.pipeline("text-classification", tokens, tokenizer=ours.tokenizer)(TEXTS[0])
    with pytest.raises(InputError, match="no tokenizer"):
        omniform.TextClassificationPipeline(model=ours.model)(TEXTS[0])
