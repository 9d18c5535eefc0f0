"""Guesses that the text itself makes (prompt lookup): the same tokens in fewer steps, in every way to ask."""

from __future__ import annotations

import pytest
import torch
from test_contract import answers, cases, rows, wanted
from test_states import VOCABULARY, model

from engines import family, idle, roomy, tight
from omniform.core.errors import InputError
from omniform.engine.block_pool import WHOLE, BlockTable
from omniform.engine.calls import read_call
from omniform.engine.engine import Engine
from omniform.engine.handle import Handle
from omniform.engine.lookup import RunIndex
from omniform.engine.pace import Pace
from omniform.engine.paged_state import ROWS
from reference import transformers

LOOKUP = {"prompt_lookup_num_tokens": 5}
FAMILIES = ["llama", "mistral", "gpt2", "bert", "t5", "whisper", "llava", "llama dynamic"]


def naive(text: list[int], size: int, most: int) -> list[list[int]]:
    """What follows earlier places of the last tokens, all of them."""
    found = []
    for n in range(min(size, len(text) - 1), 0, -1):
        for start in range(len(text) - n):
            if text[start : start + n] == text[-n:]:
                found.append(text[start + n : start + n + most])
    return found


def test_an_index_finds_what_a_search_finds():
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(0, 9, (60,), generator=generator).tolist()
    index = RunIndex(3)
    for stop in range(1, len(text) + 1):
        index.grow(text[:stop])
        found, wanted = list(index.follows(4)), naive(text[:stop], 3, 4)
        assert bool(found) == bool(wanted) and all(guess in wanted for guess in found)
    index.grow(text[:5])
    assert all(guess in naive(text[:5], 3, 4) for guess in index.follows(4)), "a row that begins anew"


def test_of_many_places_the_one_most_like_the_end_comes_first():
    index = RunIndex(2)
    index.grow([5, 1, 2, 30, 6, 1, 2, 40, 7, 1, 2, 50, 6, 1, 2])
    assert list(index.follows(1)) == [[40], [30], [50], [40], [30], [50]]
    source = RunIndex(2, before=[8, 9, 10, 11])
    source.grow([3, 8, 9])
    assert next(source.follows(9)) == [10, 11]


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_the_same(name, sampled):
    f = family(name)
    expected = wanted(f, sampled=sampled)
    some = [(prompt, {**own, **LOOKUP}) for prompt, own in cases(f, sampled=sampled)]
    engine = roomy(f.ours, block_size=4)
    assert answers(engine, some[::-1])[::-1] == expected
    assert engine.stats().tokens_drafted
    assert [answers(engine, [case])[0] for case in some] == expected, "alone, with known beginnings"
    idle(engine)
    short = roomy(f.ours, max_tokens_per_step=7, block_size=2)
    assert answers(short, some) == expected
    idle(short)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_tokens_are_the_same_after_giving_way(name):
    f = family(name)
    both = cases(f) + cases(f, sampled=True)[:3]
    some = [(prompt, {**own, **LOOKUP}) for prompt, own in both]
    engine, found = tight(f.ours, [p for p, _ in some], [s for _, s in some], block_size=4)
    assert [c.tokens for c in found] == wanted(f) + wanted(f, sampled=True)[:3]
    idle(engine)


STATES = ["recurrent only", "hybrid", "hybrid of all", "latent", ["length", "full"]]


def repeated(count: int = 4) -> list[list[int]]:
    """Prompts that repeat themselves."""
    g = torch.Generator().manual_seed(3)
    return [torch.randint(3, VOCABULARY, (4 + 3 * n,), generator=g).tolist() * 2 for n in range(count)]


@pytest.mark.parametrize("name", STATES, ids=str)
def test_states_of_every_kind_go_back(name, monkeypatch):
    """States of fixed size too, which cannot be shortened: with and without room for a second one."""
    monkeypatch.setattr(Pace, "length", lambda pace, most, cost: most)  # guesses in every step, whatever came of others
    m = model(name)
    settings = [{"max_new_tokens": 20 - n, "prompt_lookup_num_tokens": 3 + n} for n in range(4)]
    expected = Engine(m, memory="4MB").generate_batch(repeated(), [{"max_new_tokens": 20 - n} for n in range(4)])
    for options in ({}, {"max_tokens_per_step": 9, "block_size": 2}):
        engine = Engine(m, memory="4MB", **options)
        found = engine.generate_batch(repeated(), settings)
        assert [c.tokens for c in found] == [c.tokens for c in expected]
        assert all(c.accepted_tokens for c in found)
        idle(engine)
    for least in (0, 10**6):  # no room for a second state, and room
        engine = Engine(m, memory="4MB", block_size=2)
        pool = engine._scheduler.pools.get(ROWS)
        taken = BlockTable(WHOLE)
        if pool is not None:
            pool.grow(taken, max(0, pool.available - 4 - least), 0)
        assert pestered(engine, repeated(), settings) == [c.tokens for c in expected]
        if pool is not None:
            pool.release(taken)
        assert engine.stats().preemptions == 0 and (not least or engine.stats().tokens_accepted)
        idle(engine)


def pestered(engine, prompts, settings):
    """Answers of rows that have to give way again and again, whatever they were doing."""
    handles, turn = [], 0
    for prompt, own in zip(prompts, settings, strict=True):
        call = read_call(engine.model, None, prompt, own)
        handles.append(Handle(lambda: None, None))
        engine.enqueue(call.prompt, call.settings, handles[-1], parts=call.parts)
    while not all(handle.done for handle in handles):
        engine.step()
        turn += 1
        if turn % 3 == 0 and engine._scheduler.running:
            engine._scheduler.preempt(engine._scheduler.running[turn % len(engine._scheduler.running)])
    return [handle.result().tokens for handle in handles]


def test_what_came_of_it_is_told():
    m = model("hybrid")
    ids = torch.tensor([repeated(3)[2]])
    plain = twenty(m, ids)
    out = twenty(m, ids, **LOOKUP, return_dict_in_generate=True)
    told = out.speculation
    assert torch.equal(out.sequences, plain)
    assert told.steps + told.accepted == 20 and 0 < told.accepted <= told.drafted
    assert told.acceptance == told.accepted / told.drafted
    assert twenty(m, ids, return_dict_in_generate=True).speculation is None
    engine = Engine(m, memory="4MB")
    completion = engine.generate(ids[0], max_new_tokens=20, **LOOKUP)
    stats = engine.stats()
    assert (completion.drafted_tokens, completion.accepted_tokens) == (told.drafted, told.accepted)
    assert (stats.tokens_drafted, stats.tokens_accepted, stats.steps) == (told.drafted, told.accepted, told.steps)
    assert Engine(m, memory="4MB").generate(ids[0], max_new_tokens=20).model_steps == 20


def twenty(m, ids, **settings):
    """Twenty tokens."""
    return m.generate(ids, max_new_tokens=20, **settings)


class Shown:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.got = []

    def put(self, value):
        self.got.append(value.clone())

    def end(self):
        self.got.append(None)


def test_a_streamer_gets_tokens_one_by_one():
    m = model(["full", "full"])
    ids = torch.tensor([repeated(3)[2]])
    plain, guessed = Shown(), Shown()
    m.generate(ids, max_new_tokens=20, streamer=plain)
    m.generate(ids, max_new_tokens=20, streamer=guessed, **LOOKUP)
    assert len(plain.got) == len(guessed.got) == 22
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(plain.got, guessed.got, strict=True))


def test_scores_and_logprobs_are_those_of_each_token():
    m = model(["full", "full"])
    ids = torch.tensor(repeated(3)[2:])
    asked = {"output_scores": True, "output_logits": True, "return_dict_in_generate": True, "repetition_penalty": 1.01}
    plain, guessed = m.generate(ids, max_new_tokens=20, **asked), m.generate(ids, max_new_tokens=20, **asked, **LOOKUP)
    assert guessed.speculation.accepted
    for one, other in ((plain.scores, guessed.scores), (plain.logits, guessed.logits)):
        torch.testing.assert_close(torch.stack(one), torch.stack(other), atol=1e-4, rtol=1e-4)
    a, b = (Engine(m, memory="4MB").generate(ids[0], max_new_tokens=20, logprobs=2, **s) for s in ({}, LOOKUP))
    assert [p.token for p in a.logprobs] == [p.token for p in b.logprobs]
    assert [p.logprob for p in a.logprobs] == pytest.approx([p.logprob for p in b.logprobs], abs=1e-4)


@pytest.mark.parametrize(
    "rule",
    [
        {"no_repeat_ngram_size": 3}, {"suppress_tokens": list(range(3, 20))}, {"bad_words_ids": [[5], [7, 9]]},
        {"repetition_penalty": 1.3}, {"min_new_tokens": 12, "eos_token_id": list(range(3, 30, 2))},
        {"eos_token_id": list(range(3, 30, 5))}, {"encoder_no_repeat_ngram_size": 2}, {"max_length": 31},
    ],
    ids=lambda rule: next(iter(rule)),
)  # fmt: skip
def test_rules_hold_and_are_not_drafted_against(rule):
    m = model(["full", "full"])
    ids = torch.tensor(repeated(3)[2:])
    length = {} if "max_length" in rule else {"max_new_tokens": 20}
    expected = m.generate(ids, **length, **rule)
    out = m.generate(ids, **length, **rule, **LOOKUP, return_dict_in_generate=True)
    assert torch.equal(out.sequences, expected)
    if "no_repeat_ngram_size" in rule:
        # A run of three is forbidden to come again, so no more than the third token of it is ever guessed.
        assert out.speculation.drafted <= 2 * out.speculation.steps
    if "encoder_no_repeat_ngram_size" in rule:
        assert out.speculation.drafted <= 2 * out.speculation.steps


def test_the_reference_writes_the_same():
    f = family("llama")
    ids = torch.tensor([rows("text")[1][:9] * 3])
    for settings in ({}, {"max_matching_ngram_size": 3}, {"repetition_penalty": 1.2}):
        asked = {"max_new_tokens": 24, "do_sample": False, "prompt_lookup_num_tokens": 4, **settings}
        theirs = transformers.GenerationMixin.generate(f.theirs, ids, attention_mask=torch.ones_like(ids), **asked)
        assert torch.equal(f.ours.generate(ids, **asked), theirs)


def test_several_answers_guess_each_for_itself():
    m = model(["full", "full"])
    ids = torch.tensor(repeated(2)[1:])
    asked = {"do_sample": True, "num_return_sequences": 3, "seed": 4, "top_k": 3, "max_new_tokens": 20}
    out = m.generate(ids, **asked, **LOOKUP, return_dict_in_generate=True)
    assert torch.equal(out.sequences, m.generate(ids, **asked)) and out.speculation.drafted


def test_what_does_not_go_together_is_said():
    m = model(["full", "full"])
    with pytest.raises(InputError, match="num_beams=3") as error:
        m.generate(torch.tensor([[4, 5, 6]]), num_beams=3, **LOOKUP)
    assert error.value.where == "prompt_lookup_num_tokens"
    with pytest.raises(InputError, match="prompt_lookup_num_tokens"):
        m.generate(torch.tensor([[4, 5, 6]]), prompt_lookup_num_tokens=-1)
    with pytest.raises(InputError, match="max_matching_ngram_size"):
        m.generate(torch.tensor([[4, 5, 6]]), max_matching_ngram_size=0, **LOOKUP)
