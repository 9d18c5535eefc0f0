"""Question answering against its definition, written out with loops; the ecosystem's version 4 gives the same.

Every token of the context, and the one that means "no answer", has a share of the softmax as the first and as the last
token of the answer. A span's score is the product; spans of the same words (in whatever case, in any chunk) add up.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from kinds import TEXTS, checkpoint, same

import omniform
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.pipelines import KeyDataset
from omniform.pipelines.answers import likeliest_spans, shares
from omniform.pipelines.question_answering import SquadExample
from reference import transformers

LONG = " ".join(TEXTS * 4)
QUESTIONS = [
    {"question": "who lives in Berlin ?", "context": TEXTS[0]},
    {"question": "Was?", "context": LONG},
    {"question": "日本語?", "context": TEXTS[2]},
]


@cache
def parts(model_type: str) -> tuple[object, object, object]:
    """Our pipeline, the reference's model, the reference's tokenizer."""
    folder = checkpoint(model_type, "ForQuestionAnswering")
    ours = omniform.pipeline("question-answering", str(folder), device="cpu")
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    return ours, model, transformers.AutoTokenizer.from_pretrained(folder)


def by_definition(
    model, tokenizer, question, context, *, top_k=1, max_answer_len=15, max_seq_len=None, doc_stride=None, whole=True,
    impossible=False,
):  # fmt: skip
    length = max_seq_len or min(tokenizer.model_max_length, 384)
    encoded = tokenizer(
        question, context, truncation="only_second", max_length=length, return_overflowing_tokens=True,
        stride=min(length // 2, 128) if doc_stride is None else doc_stride,
    )  # fmt: skip
    answers, nothing = {}, math.inf
    for index in range(len(encoded["input_ids"])):
        row = encoded.encodings[index]
        names = [name for name in tokenizer.model_input_names if name in encoded]
        with torch.no_grad():
            out = model(**{name: torch.tensor([encoded[name][index]]) for name in names})
        of_context = [at for at, sequence in enumerate(row.sequence_ids) if sequence == 1]
        first, last = {}, {}
        for scores, share in ((out.start_logits[0], first), (out.end_logits[0], last)):
            total = sum(math.exp(scores[at]) for at in [0, *of_context])
            share.update({at: math.exp(scores[at]) / total for at in [0, *of_context]})
        nothing = min(nothing, first[0] * last[0])
        spans = [(first[s] * last[e], s, e) for s in of_context for e in of_context if s <= e < s + max_answer_len]
        for score, s, e in sorted(spans, reverse=True)[: 2 * top_k + 10 if whole else top_k]:
            start, end = row.offsets[s][0], row.offsets[e][1]
            if whole:
                start, end = row.word_to_chars(row.word_ids[s], 1)[0], row.word_to_chars(row.word_ids[e], 1)[1]
            text = context[start:end]
            answer = answers.setdefault(text.lower(), {"score": 0.0, "start": start, "end": end, "answer": text})
            answer["score"] += score
    found = [*answers.values()] + ([{"score": nothing, "start": 0, "end": 0, "answer": ""}] if impossible else [])
    found = sorted(found, key=lambda answer: -answer["score"])[:top_k]
    return found[0] if len(found) == 1 else found


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta"])
def test_answers_follow_the_definition(model_type: str) -> None:
    ours, model, tokenizer = parts(model_type)
    ways = (
        {},
        {"top_k": 3, "handle_impossible_answer": True},
        {"align_to_words": False, "top_k": 4},
        {"max_answer_len": 1},
        {"max_seq_len": 40, "doc_stride": 7, "top_k": 2},
        {"max_seq_len": 40, "doc_stride": 0, "max_answer_len": 4, "handle_impossible_answer": True},
    )
    for given in ways:
        names = {"handle_impossible_answer": "impossible", "align_to_words": "whole"}
        asked = {names.get(name, name): value for name, value in given.items()}
        expected = [by_definition(model, tokenizer, **row, **asked) for row in QUESTIONS]
        same(ours(QUESTIONS, **given), expected, str(given))
        same(ours(QUESTIONS, batch_size=3, **given), expected, str(given))
        same(ours(**QUESTIONS[1], **given), expected[1], str(given))


def test_questions_come_in_every_way() -> None:
    ours, _, _ = parts("bert")
    one, two = ours(QUESTIONS[0]), ours(QUESTIONS[2])
    rows = [QUESTIONS[0], QUESTIONS[2]]
    questions, contexts = [row["question"] for row in rows], [row["context"] for row in rows]
    assert isinstance(one, dict)
    for found in (
        ours(question=questions[0], context=contexts[0]),
        ours(questions[0], contexts[0]),
        ours([QUESTIONS[0]]),
        ours(data=QUESTIONS[0]),
        ours(X=[QUESTIONS[0]]),
        ours({**QUESTIONS[0], "id": "5", "title": "t", "answers": {"text": []}}),  # a row of SQuAD
        ours(SquadExample(question_text=questions[0], context_text=contexts[0])),
        ours(ours.create_sample(questions[0], contexts[0])),
    ):
        same(found, one)
    assert ours(question=questions, context=contexts[0])[0] == one
    for found in (
        ours(question=questions, context=contexts),
        ours(rows),
        ours(*rows),
        ours(ours.create_sample(questions, contexts)),
        list(ours(row for row in rows)),
        list(ours(KeyDataset([{"row": row} for row in rows], "row"))),
    ):
        same(found, [one, two])


def test_long_questions_are_cut_where_that_is_asked_for() -> None:
    ours, model, tokenizer = parts("bert")
    context, question = TEXTS[1], "the cat sat on the mat and the dog ran"
    same(ours(question, context, max_question_len=3), by_definition(model, tokenizer, "the cat sat", context))
    same(ours(question, context, max_question_len=99), by_definition(model, tokenizer, question, context))
    with pytest.raises(InputError, match="max_question_len"):
        ours(question * 9, context)


def test_a_context_may_stand_before_its_question() -> None:
    folder = checkpoint("gpt2", "ForQuestionAnswering")
    ours = omniform.pipeline("question-answering", str(folder), device="cpu")
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    ours.tokenizer.padding_side = "left"
    texts = [{"question": "who ?", "context": text} for text in TEXTS[:2]]
    found = ours(texts, batch_size=2, align_to_words=False)
    for row, answer in zip(texts, found, strict=True):
        encoded = ours.tokenizer(row["context"], row["question"])
        places = encoded.encodings[0]
        ids = [at for at, sequence in enumerate(places.sequence_ids) if sequence == 0]
        with torch.no_grad():
            out = model(input_ids=torch.tensor([encoded["input_ids"]]))
        # The first token, that of "no answer", has a share too.
        first, last = (scores[0][[0, *ids]].softmax(0)[1:] for scores in (out.start_logits, out.end_logits))
        score, s, e = max((first[s] * last[e], s, e) for s in range(len(ids)) for e in range(s, min(s + 15, len(ids))))
        start, end = places.offsets[ids[s]][0], places.offsets[ids[e]][1]
        same(answer, {"score": float(score), "start": start, "end": end, "answer": row["context"][start:end]})


def test_spans_by_hand() -> None:
    first, last = np.array([0.1, 0.6, 0.1, 0.2]), np.array([0.5, 0.1, 0.3, 0.1])
    inside = np.array([False, True, True, True])
    found = [(span.first, span.last) for span in likeliest_spans(first, last, inside, longest=2, most=9)]
    assert found == [(1, 2), (1, 1), (2, 2), (3, 3), (2, 3)], "longest first token to last, none before another"
    assert len(likeliest_spans(first, last, inside, longest=2, most=2)) == 2
    assert likeliest_spans(first, last, np.zeros(4, bool), longest=2, most=2) == []
    assert shares(np.array([1e4, 3.0, -1e9]), np.array([True, False, True])).tolist() == [1, 0, 0]
    assert not shares(np.array([1.0, 2.0]), np.zeros(2, bool)).any()


def test_a_context_without_tokens_has_no_answer() -> None:
    ours, _, _ = parts("bert")
    assert ours("who ?", "   ") == {"score": 0.0, "start": 0, "end": 0, "answer": ""}


def test_what_cannot_be_read_is_refused_by_name() -> None:
    ours, _, _ = parts("bert")
    for row in ({"question": "a"}, {"question": "", "context": "b"}, {"question": "a", "context": None}, 3):
        with pytest.raises(InputError, match=r"question|context"):
            ours([row])
    for args in (("one text",), (3,), ()):
        with pytest.raises(InputError, match="question"):
            ours(*args)
    with pytest.raises(InputError, match="equally many"):
        ours(question=["a", "b"], context=["c"])
    found = ours([QUESTIONS[0], {"question": "a"}], on_error="return")
    assert isinstance(found[0], dict) and isinstance(found[1], InputError)
    for given in (
        {"top_k": 0},
        {"max_answer_len": 0},
        {"doc_stride": 60},
        {"max_seq_len": 5},
        {"align_to_words": "yes"},
    ):
        with pytest.raises(InputError, match=next(iter(given))):
            ours(**QUESTIONS[0], **given)
    with pytest.raises(UnknownArgumentError, match="doc_stride"):
        ours(**QUESTIONS[0], doc_strid=3)
    masked = omniform.AutoModelForMaskedLM.from_pretrained(checkpoint("bert", "ForMaskedLM"))
    with pytest.raises(InputError, match="another task"):
        omniform.pipeline("question-answering", masked, tokenizer=ours.tokenizer)(QUESTIONS[0])
