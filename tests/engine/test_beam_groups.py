"""Diverse and constrained beam search, which the reference no longer has, against their definitions."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_beam_generate import FAMILIES, VOCABULARY, pairs  # noqa: F401

from omniform.engine.constraints import DisjunctiveConstraint, PhrasalConstraint
from omniform.engine.engine import Engine
from reference import omniform, ragged

END = 2


def holds(row: list[int], run: list[int]) -> bool:
    return any(row[i : i + len(run)] == run for i in range(len(row) - len(run) + 1))


def logprobs(model, rows):
    return model(torch.tensor(rows)).logits[:, -1].float().log_softmax(-1)


def diverse_by_definition(model, prompt, groups, width, penalty, steps):
    """Algorithm 1 of Vijayakumar et al. 2016, without ends: every group of beams in turn."""
    beams = [[(0.0, list(prompt))] for _ in range(groups)]
    for _ in range(steps):
        used: list[int] = []
        for g in range(groups):
            scores = logprobs(model, [row for _, row in beams[g]]).clone()
            for token in used:
                scores[:, token] -= penalty
            every = [
                (s + float(scores[i, t]), row, t) for i, (s, row) in enumerate(beams[g]) for t in range(VOCABULARY)
            ]
            best = sorted(every, key=lambda c: -c[0])[:width]
            beams[g] = [(score, [*row, token]) for score, row, token in best]
            used += [token for _, _, token in best]
    merged = sorted(itertools.chain(*beams), key=lambda c: -c[0])
    return [(score / steps, row) for score, row in merged]


@pytest.mark.parametrize(("groups", "width", "penalty"), [(2, 2, 1.0), (3, 1, 0.5), (4, 2, 5.0)])
def test_groups_by_definition(pairs, groups, width, penalty):  # noqa: F811
    ours, _ = pairs("llama")
    prompt = ragged(VOCABULARY, [6])[0].tolist()
    expected = diverse_by_definition(ours, prompt, groups, width, penalty, 6)
    found = ours.generate(
        torch.tensor([prompt]), num_beams=groups * width, num_beam_groups=groups, diversity_penalty=penalty,
        num_return_sequences=groups * width, max_new_tokens=6, eos_token_id=None, return_dict_in_generate=True,
        output_scores=True,
    )  # fmt: skip
    assert found.sequences.tolist() == [row for _, row in expected]
    assert found.sequences_scores.tolist() == pytest.approx([score for score, _ in expected], abs=1e-4)
    told = ours.compute_transition_scores(found.sequences, found.scores, found.beam_indices)
    assert (told.sum(-1) / 6).tolist() == pytest.approx(found.sequences_scores.tolist(), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_differ_and_batches_do_not_matter(pairs, family):  # noqa: F811
    ours, _ = pairs(family)
    inputs = FAMILIES[family][1]()
    asked = {
        "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 30.0, "num_return_sequences": 4, "max_new_tokens": 7,
    }  # fmt: skip
    whole = ours.generate(**inputs, **asked)
    count = len(next(iter(inputs.values())))
    for i in range(count):
        alone = ours.generate(**{name: value[i : i + 1] for name, value in inputs.items()}, **asked)
        width = alone.shape[1]
        assert whole[4 * i : 4 * i + 4, :width].tolist() == alone.tolist()
        # Several answers of Whisper are as many searches, as in the ecosystem, and each tells its best.
        assert len({tuple(row) for row in alone.tolist()}) == (1 if family == "whisper" else 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_forced_words_are_there(pairs, family):  # noqa: F811
    ours, _ = pairs(family)
    inputs = FAMILIES[family][1]()
    before = 1 if "encoder" in family or family in ("t5", "whisper") else 0
    words = [[40, 41, 42], [[50, 51], [60]]]
    found = ours.generate(**inputs, num_beams=4, force_words_ids=words, num_return_sequences=2, max_new_tokens=12)
    start = before or inputs["input_ids"].shape[1]
    for row in found[:, start:].tolist():
        assert holds(row, [40, 41, 42]) and (holds(row, [50, 51]) or holds(row, [60])), row
    objects = [PhrasalConstraint([40, 41, 42]), DisjunctiveConstraint([[50, 51], [60]])]
    same = ours.generate(**inputs, num_beams=4, constraints=objects, num_return_sequences=2, max_new_tokens=12)
    assert same.tolist() == found.tolist()


def test_constraints_that_would_be_fulfilled_anyway_change_nothing(pairs):  # noqa: F811
    ours, _ = pairs("llama")
    row = ragged(VOCABULARY, [6])[0][None]
    free = ours.generate(row, num_beams=4, max_new_tokens=8, eos_token_id=None)
    kept = ours.generate(row, num_beams=4, max_new_tokens=8, eos_token_id=None, force_words_ids=[[int(free[0, 6])]])
    assert kept.tolist() == free.tolist()


def test_the_best_answer_that_holds_the_word(pairs):  # noqa: F811
    """With beams enough for all there is, the search finds the very best answer under the constraint."""
    ours, _ = pairs("llama")
    allowed = [3, 4, 5, 6]
    others = [t for t in range(VOCABULARY) if t not in allowed]
    row = ragged(VOCABULARY, [5])[0].tolist()
    best = []
    for tokens in itertools.product(allowed, repeat=4):
        if holds(list(tokens), [6, 3]):
            score = sum(float(logprobs(ours, [row + list(tokens[:i])])[0, t]) for i, t in enumerate(tokens))
            best.append((score / 4, list(tokens)))
    best.sort(reverse=True)
    found = ours.generate(
        torch.tensor([row]), num_beams=200, num_return_sequences=3, force_words_ids=[[6, 3]], max_new_tokens=4,
        suppress_tokens=others, eos_token_id=None, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    assert found.sequences[:, 5:].tolist() == [tokens for _, tokens in best[:3]]
    assert found.sequences_scores.tolist() == pytest.approx([score for score, _ in best[:3]], abs=1e-4)


def test_no_answer_ends_before_its_word_and_the_impossible_is_said(pairs, caplog):  # noqa: F811
    caplog.set_level("WARNING", logger="omniform")
    ours, _ = pairs("llama")
    row = ragged(VOCABULARY, [6])[0][None]
    found = ours.generate(
        row, num_beams=3, force_words_ids=[[40, 41]], max_new_tokens=20, sequence_bias=[[[END], 20.0]]
    )
    assert holds(found[0].tolist(), [40, 41]) and int(found[0, -1]) == END
    assert not caplog.records
    short = ours.generate(row, num_beams=3, force_words_ids=[[40, 41, 42, 43]], max_new_tokens=2)
    assert short.shape == (1, 8) and "do not hold" in caplog.text


def test_requests_with_and_without_share_an_engine(pairs):  # noqa: F811
    ours, _ = pairs("llama")
    prompts = [row.tolist() for row in ragged(VOCABULARY, [6, 9, 4])]
    each = [
        {"num_beams": 3, "force_words_ids": [[40]]}, {},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 3.0, "num_return_sequences": 2},
    ]  # fmt: skip
    alone = [
        Engine(ours, memory="8MB").generate(p, max_new_tokens=8, **s).tokens for p, s in zip(prompts, each, strict=True)
    ]
    engine = Engine(ours, memory="8MB", max_tokens_per_step=5)
    assert [c.tokens for c in engine.generate_batch(prompts, each, max_new_tokens=8)] == alone


def test_a_constraint_of_one_s_own(pairs):  # noqa: F811
    class Twice(PhrasalConstraint):
        """A token, and the same once more."""

        def __init__(self, token_ids):
            super().__init__(token_ids if len(token_ids) == 2 else [*token_ids, *token_ids])

    ours, _ = pairs("gpt2")
    row = ragged(VOCABULARY, [6])[0][None]
    found = ours.generate(row, num_beams=3, constraints=[Twice([44])], max_new_tokens=8)
    assert holds(found[0, 6:].tolist(), [44, 44])
    assert isinstance(omniform.PhrasalConstraint([1]), omniform.Constraint)
