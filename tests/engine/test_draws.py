"""Large vocabularies: a part of the scores decides, and the token is the one that all of them would give."""

from __future__ import annotations

import random

import pytest
import torch

from omniform.engine.draws import MANY, Candidates, _replays, drawn, drawn_of, narrowed
from omniform.engine.history import History
from omniform.engine.processors import warpers
from omniform.engine.request import Row
from omniform.engine.settings import Asked
from reference import omniform, padded, ragged, saved_reference, transformers

V = MANY + 904
TINY = {
    "vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FILTERS = {
    "temperature": [0.6, 1.9], "top_h": [0.3, 0.9], "top_k": [1, 7, 300, 3000, 0], "top_p": [0.8, 0.05, 0.999],
    "min_p": [0.05, 0.9], "typical_p": [0.2, 0.95], "epsilon_cutoff": [0.0003, 0.9], "eta_cutoff": [0.001, 0.9],
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    theirs = saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**TINY), folder, scale=0.5)
    return omniform.AutoModelForCausalLM.from_pretrained(folder), theirs


def chosen(pick):
    return {name: pick.choice(FILTERS[name]) for name in pick.sample(sorted(FILTERS), pick.randint(1, 5))}


@pytest.mark.parametrize("seed", range(25))
def test_tokens_are_the_reference_s(pair, seed):
    pick = random.Random(seed)
    asked = {"do_sample": True, "max_new_tokens": 8, **chosen(pick), "repetition_penalty": pick.choice([1.0, 1.3])}
    asked |= {"renormalize_logits": pick.random() < 0.3, "num_return_sequences": pick.choice([1, 2])}
    ids, mask = padded(ragged(V, pick.choice([[5], [9, 4, 1]]), seed=seed), side="left")
    found = []
    for model in pair:
        torch.manual_seed(seed)
        found.append(model.generate(ids, attention_mask=mask, **asked))
        found.append(torch.rand(3))  # the generator has gone as far
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])


def scores(kind, rows=3):
    generator = torch.Generator().manual_seed(5)
    made = torch.randn(rows, V, generator=generator)
    if kind == "peaked":
        return made * 4
    if kind == "halves":  # as a model in bfloat16 gives them: many are equal
        return (made * 3).bfloat16().float()
    if kind == "banned":
        return made.masked_fill(made < 1.5, float("-inf")) * 3
    return made if kind == "flat" else torch.zeros(rows, V)


@pytest.mark.parametrize("kind", ["peaked", "halves", "banned", "flat", "equal"])
@pytest.mark.parametrize("name", ["TopPLogitsWarper", "TypicalLogitsWarper", "TopKLogitsWarper", "MinPLogitsWarper",
                                  "EtaLogitsWarper", "EpsilonLogitsWarper", "TopHLogitsWarper"])  # fmt: skip
def test_a_part_decides_as_all_would(kind, name):
    given = scores(kind)
    for value in (0.02, 0.3, 0.7, 0.9, 0.99):
        for least in (1, 3):
            arguments = (int(value * 100),) if name == "TopKLogitsWarper" else (value,)
            more = {} if name == "TopHLogitsWarper" else {"min_tokens_to_keep": least}
            ours = getattr(omniform, name)(*arguments, **more)(None, given)
            assert torch.equal(ours, getattr(transformers, name)(*arguments, **more)(None, given)), (value, least)


def test_a_part_is_enough_for_what_models_give():
    assert warpers._outside_top_p_of_few(scores("peaked"), 0.9, 1) is not None
    assert warpers._outside_top_p_of_few(scores("flat"), 0.99, 1) is None
    peaked = scores("peaked").log_softmax(-1)
    entropy = -(peaked * peaked.exp()).nansum(-1, keepdim=True)
    assert warpers._atypical_of_few((-peaked - entropy).abs(), peaked, 0.5, 1) is not None


def test_torch_s_draws_are_made_as_they_were():
    assert _replays(), "torch draws otherwise than it did: engine/draws.py draws from all of the vocabulary now"


@pytest.mark.parametrize("own", [False, True])
def test_a_draw_among_few_is_the_draw_among_all(pair, own):
    settings = Asked(pair[0], {"do_sample": True, "top_k": 40})(1)
    given = scores("halves", 4)
    left = narrowed(given, settings)
    assert left.tokens is not None and left.tokens.shape[1] < 200
    rows = [Row([3], 1, lane=lane, lanes=6) for lane in (0, 1, 3, 4)]  # the third and the last have ended
    for seed in range(20):
        for row in rows:
            row.generator = torch.Generator().manual_seed(seed + (row.lane or 0)) if own else None
        torch.manual_seed(seed)
        found = drawn(left, left.scores.softmax(-1), rows)
        torch.manual_seed(seed)
        odds = left.spread().softmax(-1)
        everyone = torch.ones(6, V).index_copy(0, torch.tensor([0, 1, 3, 4]), odds)
        expected = torch.multinomial(everyone, 1)[[0, 1, 3, 4], 0].tolist()
        if own:
            expected = [
                int(torch.multinomial(odds[i], 1, generator=torch.Generator().manual_seed(seed + (row.lane or 0))))
                for i, row in enumerate(rows)
            ]
        assert found == expected


@pytest.mark.parametrize("kind", ["peaked", "halves", "banned", "flat", "equal"])
@pytest.mark.parametrize("name", ["top_p", "typical_p", "min_p", "epsilon_cutoff", "eta_cutoff"])
def test_tokens_in_doubt_are_drawn_as_if_all_had_been_sorted(pair, kind, name):
    given = scores(kind, 3)
    for value in FILTERS[name]:
        settings = Asked(pair[0], {"do_sample": True, "top_k": 0, "temperature": 0.7, name: value})(1)
        rows = [Row([3], 1, lane=lane, lanes=4) for lane in (0, 2, 3)]
        rows[1].generator = torch.Generator()
        for seed in range(12):
            found = []
            for in_doubt in (True, False):
                torch.manual_seed(seed)
                rows[1].generator.manual_seed(seed)
                left = narrowed(given, settings, in_doubt)
                found += [drawn_of(left, left.scores.softmax(-1), rows, given, settings), torch.rand(2).tolist()]
            assert found[:2] == found[2:]


def test_a_token_in_doubt_is_looked_at_again(pair):
    settings = Asked(pair[0], {"do_sample": True, "top_k": 0, "top_p": 0.5})(1)
    given, rows = scores("equal", 1), [Row([3], 1, lane=0, lanes=1)]
    left = narrowed(given, settings, True)
    if left.bounds is None:
        pytest.skip("no native kernels here")
    kept, seen = narrowed(given, settings).spread().isfinite()[0], set()
    for seed in range(30):
        torch.manual_seed(seed)
        seen.update(drawn_of(left, left.scores.softmax(-1), rows, given, settings))
    assert len(seen) > 20 and all(kept[token] for token in seen)


def test_short_lists_are_spread_again():
    given = torch.full((2, V), float("-inf"))
    given[0, [5, 9]], given[1, 0] = torch.tensor([1.0, -2.0]), 3.0
    left = Candidates(given, None, V).few(given.isfinite())
    assert left.scores.shape == (2, 2) and torch.equal(left.spread(), given)


def test_histories_follow_rows():
    pick = random.Random(0)
    tokens = [pick.randrange(5) for _ in range(40)]
    history = History()
    for end in (3, 4, 4, 20, 40):
        history.follow(tokens[:end])
        assert history.tokens.tolist() == tokens[:end]
        assert sorted(history.unique.tolist()) == sorted(set(tokens[:end]))
        for size in (1, 2, 3):
            row = tokens[:end]
            expected = [
                row[i + size - 1]
                for i in range(len(row) - size + 1)
                if row[i : i + size - 1] == row[len(row) - size + 1 :]
            ]
            assert history.runs(size).after(row) == expected
    twin = history.copy()
    twin.follow([*tokens, 4, 4, 4])
    assert history.follow(tokens).tokens.tolist() == tokens
    history.follow([*tokens[:10], 9])
    assert history.tokens.tolist() == [*tokens[:10], 9] and 9 in history.unique
    assert history.runs(1).after([]) == [*tokens[:10], 9]
    many = list(range(500))
    assert History().follow(many).unique.tolist() == many
