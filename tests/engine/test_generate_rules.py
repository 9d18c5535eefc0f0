"""Rules that change scores, one by one and all together, against the reference: tokens and scores."""

from __future__ import annotations

import random

import pytest
import torch

from omniform.core.errors import InputError
from reference import close, omniform, padded, ragged, saved_reference, transformers

VOCABULARY = 97
TINY = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ENDS = [5, 9, 20, 31, 40, 52, 66, 77, 88]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    theirs = saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**TINY), folder, scale=0.3)
    return omniform.AutoModelForCausalLM.from_pretrained(folder), theirs


LONE = [[[i], 0.7 * (i % 7 - 3)] for i in range(3, 90, 4)]
RUNS = [[[i, j], 9.0] for i in range(3, 90) for j in (11, 12)] + [[[7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17], 50.0]]
RULES = {
    "sequence_bias": [LONE, RUNS, LONE + RUNS, [[[5], -1e9]]],
    "bad_words_ids": [[[i] for i in range(3, 60)], [[i, j] for i in range(97) for j in range(0, 97, 2)], [[5], [6, 7]]],
    "exponential_decay_length_penalty": [[2, 1.5], [0, 1.05], [5, 0.3]],
    "remove_invalid_values": [True],
    "renormalize_logits": [True],
    "repetition_penalty": [1.4],
    "no_repeat_ngram_size": [2],
    "min_new_tokens": [4],
    "suppress_tokens": [list(range(20, 40))],
    "begin_suppress_tokens": [list(range(40, 60))],
    "forced_eos_token_id": [7],
}
NARROWING = {
    "temperature": [0.6, 1.9],
    "top_h": [0.4],
    "top_k": [7, 0],
    "top_p": [0.8],
    "min_p": [0.05],
    "typical_p": [0.2, 0.95],
    "epsilon_cutoff": [0.02, 0.9],
    "eta_cutoff": [0.02, 0.9],
}


def check(pair, lengths, seed, **settings):
    ours, theirs = pair
    ids, mask = padded(ragged(VOCABULARY, lengths), side="left")
    asked = {"max_new_tokens": 9, "return_dict_in_generate": True, "output_scores": True, **settings}
    torch.manual_seed(seed)
    expected = theirs.generate(ids, attention_mask=mask, **asked)
    torch.manual_seed(seed)
    found = ours.generate(ids, attention_mask=mask, **asked)
    assert found.sequences.tolist() == expected.sequences.tolist()
    written = found.sequences[:, ids.shape[1] :]
    for at, (mine, other) in enumerate(zip(found.scores, expected.scores, strict=True)):
        for row in range(len(mine)):
            if not bool(torch.isin(written[row, :at], torch.tensor(settings.get("eos_token_id", 2))).any()):
                near = other[row].isfinite()
                assert torch.equal(mine[row].isfinite(), near)
                close(mine[row][near], other[row][near])


@pytest.mark.parametrize("name", [*RULES, *NARROWING])
def test_one_rule(pair, name):
    for value in (RULES | NARROWING)[name]:
        for draws in (False, True) if name in RULES else (True,):
            check(pair, [9, 4, 1], 3, do_sample=draws, eos_token_id=ENDS, **{name: value})


@pytest.mark.parametrize("draws", [False, True])
def test_rules_about_what_was_read(pair, draws):
    """In rows without padding, which the reference counts as read."""
    for size, penalty in ((1, 1.0), (2, 1.5), (0, 0.6)):
        rules = {"encoder_no_repeat_ngram_size": size, "encoder_repetition_penalty": penalty}
        check(pair, [30, 30], 3, do_sample=draws, eos_token_id=ENDS, **rules, repetition_penalty=1.2)


@pytest.mark.parametrize("seed", range(30))
def test_rules_together_in_the_reference_s_order(pair, seed):
    chance = random.Random(seed)
    draws = chance.random() < 0.7
    known = RULES | NARROWING if draws else RULES
    chosen = {name: chance.choice(known[name]) for name in chance.sample(sorted(known), chance.randint(2, 6))}
    ends = chance.choice((2, ENDS))
    check(pair, chance.choice(([9, 4, 1], [3])), seed, do_sample=draws, eos_token_id=ends, **chosen)


@pytest.mark.parametrize("seed", range(15))
def test_rules_in_beams(pair, seed):
    ours, theirs = pair
    chance = random.Random(seed)
    draws = chance.random() < 0.5
    known = RULES | NARROWING if draws else RULES
    asked = {name: chance.choice(known[name]) for name in chance.sample(sorted(known), chance.randint(1, 4))}
    asked |= {"num_beams": 3, "max_new_tokens": 8, "eos_token_id": ENDS, "do_sample": draws}
    # The reference cannot draw as many candidates as it needs where the rules leave fewer.
    asked["top_k"] = 0
    ids = ragged(VOCABULARY, [7], seed=seed)[0][None]
    torch.manual_seed(seed)
    try:
        expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), **asked)
    except RuntimeError:
        pytest.skip("the reference finds no candidates")
    torch.manual_seed(seed)
    assert ours.generate(ids, **asked).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sequence_bias", [[5, 1.0]]), ("sequence_bias", [[[5], "x"]]), ("sequence_bias", [[[-1], 1.0]]),
        ("sequence_bias", [[[], 1.0]]), ("sequence_bias", 3), ("sequence_bias", [[[97], 1.0]]),
        ("bad_words_ids", [5]), ("bad_words_ids", [[]]), ("bad_words_ids", [[1.5]]), ("bad_words_ids", [[4, 970]]),
        ("exponential_decay_length_penalty", [1]), ("exponential_decay_length_penalty", [1, "x"]),
        ("exponential_decay_length_penalty", [1, 0]), ("typical_p", 0.0), ("typical_p", 1.1), ("epsilon_cutoff", 1.0),
        ("eta_cutoff", -0.1), ("renormalize_logits", "yes"), ("encoder_repetition_penalty", 0), ("top_h", 1.4),
        ("encoder_no_repeat_ngram_size", -2),
    ],
)  # fmt: skip
def test_bad_values(pair, name, value):
    for ask in ({name: value}, {"generation_config": omniform.GenerationConfig(**{name: value})}):
        with pytest.raises((InputError, TypeError), match=name):
            pair[0].generate(torch.tensor([[5, 6]]), do_sample=True, **ask)


def test_a_mapping_of_biases(pair):
    ours, _ = pair
    ids = torch.tensor([[5, 6]])
    biased = ours.generate(ids, max_new_tokens=5, min_new_tokens=5, sequence_bias={(7,): 100.0, (7, 8): 200.0})
    assert biased[0, 2:].tolist() == [7, 8, 7, 8, 7]
