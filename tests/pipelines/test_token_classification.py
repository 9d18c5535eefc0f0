"""Token classification against the reference's: strategies, long texts, words, places; and its maths by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from kinds import LABELS, TAGS, TEXTS, both, same

from omniform.core.errors import InputError, UnknownArgumentError
from omniform.pipelines.entities import AggregationStrategy, entities_of_words, grouped, without_overlaps

KIND = "ForTokenClassification"
LONG = " ".join(TEXTS * 4)
STRATEGIES = [strategy.value for strategy in AggregationStrategy]


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_tells_what_the_reference_tells(model_type: str, strategy: str) -> None:
    ours, theirs = both("token-classification", model_type, KIND, TAGS, aggregation_strategy=strategy)
    for inputs in (TEXTS[0], [TEXTS[2]], [*TEXTS, LONG, "", "  ", "😀 日本語 zz"]):
        for given in ({}, {"ignore_labels": []}, {"ignore_labels": ["PER", "I-LOC"]}):
            found = ours(inputs, **given)
            same(found, theirs(inputs, **given), f"{inputs} {given}")
            json.dumps(found)  # plain numbers
    same(ours([*TEXTS], batch_size=3), theirs([*TEXTS]))


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta"])
def test_long_texts_are_read_in_chunks_that_overlap(model_type: str) -> None:
    for stride in (0, 11):
        given = {"stride": stride, "aggregation_strategy": "average"}
        ours, theirs = both("ner", model_type, KIND, TAGS, **given)
        for inputs in (LONG, [TEXTS[1], LONG, ""]):
            same(ours(inputs, aggregation_strategy="simple"), theirs(inputs, aggregation_strategy="simple"))
            same(ours(inputs, batch_size=3), theirs(inputs))
    ends = [entity["end"] for entity in ours(LONG)]
    assert max(ends) > 200, "only the first chunk was read"


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_texts_in_words_are_placed_in_the_joined_text(model_type: str) -> None:
    ours, theirs = both("token-classification", model_type, KIND, TAGS, aggregation_strategy="first")
    words = TEXTS[2].split()
    for inputs in (words, [words, TEXTS[0].split()], LONG.split()):
        for given in ({}, {"delimiter": "--"}, {"delimiter": ""}, {"aggregation_strategy": "none"}, {"stride": 3}):
            same(
                ours(inputs, is_split_into_words=True, **given),
                theirs(inputs, is_split_into_words=True, **given),
                given,
            )
    at_start = both("ner", model_type, KIND, TAGS, aggregation_strategy="first", is_split_into_words=True)[0]
    same(at_start(words), theirs(words, is_split_into_words=True))


def test_places_that_a_caller_knows_count_for_each_text() -> None:
    ours, theirs = both("token-classification", "bert", KIND, TAGS, aggregation_strategy="first")
    places = [[(index, index + 2) for index in range(len(ours.tokenizer(text)["input_ids"]))] for text in TEXTS[:2]]
    first, second = (theirs(text, offset_mapping=row) for text, row in zip(TEXTS, places, strict=False))
    same(ours(TEXTS[0], offset_mapping=places[0]), first)
    same(ours([*TEXTS[:2]], offset_mapping=places), [first, second])
    with pytest.raises(InputError, match="offset_mapping"):
        ours([*TEXTS], offset_mapping=places)


def test_scripts_know_no_places_as_in_the_reference() -> None:
    ours, theirs = both("token-classification", "esm", KIND, {**TAGS, "token_dropout": False})
    proteins = ["MKTAYIAKQR QISF", "MK"]
    same(ours(proteins), theirs(proteins))
    same(ours(proteins, aggregation_strategy="simple"), theirs(proteins, aggregation_strategy="simple"))
    assert ours("MK", ignore_labels=[])[0]["start"] is None
    for given in ({"aggregation_strategy": "first"}, {"stride": 2, "aggregation_strategy": "simple"}):
        with pytest.raises(InputError, match="this tokenizer"):
            ours("MK", **given)


def test_older_spellings_of_strategies() -> None:
    ours, _ = both("token-classification", "bert", KIND, TAGS)
    for given, strategy in (
        ({"grouped_entities": True}, "simple"),
        ({"grouped_entities": True, "ignore_subwords": True}, "first"),
        ({"grouped_entities": False}, "none"),
    ):
        with pytest.warns(UserWarning, match="aggregation_strategy"):
            found = ours(TEXTS[2], **given)
        assert found == ours(TEXTS[2], aggregation_strategy=strategy)


def test_words_agree_as_each_strategy_says() -> None:
    told = [
        ("mic", 0, False, [0.1, 0.5, 0.2, 0.1, 0.1]),
        ("##ro", 3, True, [0.0, 0.0, 0.1, 0.0, 0.9]),
        ("and", 6, False, [0.8, 0.1, 0.0, 0.1, 0.0]),
        ("soft", 10, False, [0.0, 0.0, 0.7, 0.3, 0.0]),
    ]
    tokens = [
        {"word": word, "scores": np.array(row, np.float32), "start": at, "end": at + len(word.strip("#")), "index": 0,
         "is_subword": goes_on}
        for word, at, goes_on, row in told
    ]  # fmt: skip
    labels, join = dict(enumerate(LABELS)), lambda words: "".join(words).replace("##", "")
    for name, label, score in (("first", "B-PER", 0.5), ("max", "I-LOC", 0.9), ("average", "I-LOC", 0.5)):
        words = entities_of_words(tokens, AggregationStrategy(name), labels, join)
        assert [(word["word"], word["start"], word["end"]) for word in words] == [
            ("micro", 0, 5), ("and", 6, 9), ("soft", 10, 14),
        ]  # fmt: skip
        assert words[0]["entity"] == label and words[0]["score"] == pytest.approx(score)
        assert [group["entity_group"] for group in grouped(words, join)] == [label[2:], "O", "PER"]


def test_labels_that_begin_never_go_on() -> None:
    def groups(*labels: str) -> list[tuple[str, str]]:
        entities = [{"entity": label, "score": 1.0, "word": label[-1], "start": 0, "end": 1} for label in labels]
        return [(group["entity_group"], group["word"]) for group in grouped(entities, "".join)]

    assert groups("B-A", "I-A", "B-A", "A", "I-B") == [("A", "AA"), ("A", "AA"), ("B", "B")]


def test_of_overlapping_entities_the_longest_and_surest_stays() -> None:
    def entity(start: int, end: int, score: float) -> dict[str, object]:
        return {"entity_group": "A", "score": score, "word": "", "start": start, "end": end}

    short, longer, sure = entity(0, 3, 0.9), entity(2, 8, 0.2), entity(5, 11, 0.4)
    assert without_overlaps([sure, short, longer, entity(20, 22, 0.1)]) == [sure, entity(20, 22, 0.1)]
    assert without_overlaps([]) == []


def test_what_cannot_be_read_is_refused_by_name() -> None:
    ours, _ = both("token-classification", "bert", KIND, TAGS)
    for inputs in ([], (), None, [3], [["a", "list"]]):
        with pytest.raises(InputError, match="text"):
            ours(inputs)
    with pytest.raises(InputError, match="list of words"):
        ours([3, 4], is_split_into_words=True)
    for given in (
        {"aggregation_strategy": "mean"},
        {"stride": 64},
        {"stride": 5, "aggregation_strategy": "none"},
        {"ignore_labels": "O"},
        {"offset_mapping": [3]},
    ):
        with pytest.raises(InputError, match=next(iter(given))):
            ours(TEXTS[0], **given)
    with pytest.raises(UnknownArgumentError, match="aggregation_strategy"):
        ours(TEXTS[0], aggregation_stratgy="simple")
