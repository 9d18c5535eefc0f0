"""Zero-shot classification against the reference's pipeline."""

from __future__ import annotations

import logging

import pytest
from kinds import TEXTS, both, same

from omniform.core.errors import InputError, UnknownArgumentError

KIND = "ForSequenceClassification"
LAST = {"id2label": {0: "contradiction", 1: "neutral", 2: "ENTAILMENT"}}
FIRST = {"id2label": {0: "entailment", 1: "neutral", 2: "contradiction"}}
for _labels in (LAST, FIRST):
    _labels["label2id"] = {label: index for index, label in _labels["id2label"].items()}


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
@pytest.mark.parametrize("config", [LAST, FIRST, {"num_labels": 3}], ids=["last", "first", "unnamed"])
def test_classes_are_ranked_as_the_reference_does(model_type: str, config: dict[str, object]) -> None:
    ours, theirs = both("zero-shot-classification", model_type, KIND, config)
    long = " ".join(TEXTS * 5)  # cut, but never its class's sentence
    for inputs in (TEXTS[0], [TEXTS[0]], [TEXTS[1], long]):
        for given in (
            {"candidate_labels": "sport, politics,love ,"},
            {"candidate_labels": ["a"]},
            {"candidate_labels": ["red", "blue", "x y"], "multi_label": True},
            {"candidate_labels": ["red", "blue"], "hypothesis_template": "It is about {}, yes."},
        ):
            same(ours(inputs, **given), theirs(inputs, **given), f"{inputs} {given}")
    same(ours([*TEXTS], ["u", "v"], batch_size=3), theirs([*TEXTS], ["u", "v"]))


def test_options_of_the_pipeline_hold_for_its_calls() -> None:
    labels = ["red", "blue", "good"]
    ours, theirs = both("zero-shot-classification", "bert", KIND, LAST, candidate_labels=labels, multi_label=True)
    same(ours(TEXTS[0]), theirs(TEXTS[0]))
    assert ours(TEXTS[0], multi_class=False) == ours(TEXTS[0], multi_label=False)
    assert sum(ours(TEXTS[0], multi_label=False)["scores"]) == pytest.approx(1)
    same(list(ours(text for text in TEXTS)), ours([*TEXTS]))


def test_a_config_that_names_no_entailment_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "omniform"):
        ours, _ = both("zero-shot-classification", "bert", KIND, {"num_labels": 3})
        ours(TEXTS[0], "a, b")
    assert ours.entailment_id == -1 and caplog.text.count("entailment") == 1


def test_what_cannot_be_asked_is_refused_by_name() -> None:
    ours, _ = both("zero-shot-classification", "bert", KIND, LAST)
    for labels in ([], "", " , ", None):
        with pytest.raises(InputError, match="label"):
            ours(TEXTS[0], candidate_labels=labels)
    for text in ("", [], 3):
        with pytest.raises(InputError, match="text"):
            ours(text, ["a"])
    for given in ({"hypothesis_template": "no place"}, {"hypothesis_template": "{name}"}, {"hypothesis_template": "{"},
                  {"multi_label": "yes"}, {"candidate_labels": 3}):  # fmt: skip
        with pytest.raises(InputError, match=next(iter(given))):
            ours(TEXTS[0], **{"candidate_labels": ["a"], **given})
    with pytest.raises(UnknownArgumentError, match="candidate_labels"):
        ours(TEXTS[0], labels=["a"])
