"""Generation of a decoder against the reference, and the ways to hand over prompts."""

from __future__ import annotations

import pytest
import torch

from omniform.core.errors import InputError, UnknownArgumentError
from reference import close, omniform, padded, ragged, saved_reference, transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    theirs = saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**TINY), folder, scale=0.3)
    return omniform.AutoModelForCausalLM.from_pretrained(folder), theirs


GREEDY = {
    "plain": {},
    "several ends": {"eos_token_id": [5, 9, 20, 31, 40, 52, 66, 77, 88]},
    "penalty": {"repetition_penalty": 1.7},
    "no repeats": {"no_repeat_ngram_size": 2},
    "suppress": {"suppress_tokens": list(range(3, 60))},
    "begin": {"begin_suppress_tokens": list(range(3, 90))},
    "minimum": {"min_new_tokens": 9, "eos_token_id": list(range(3, 60))},
    "forced end": {"forced_eos_token_id": 7},
}


@pytest.mark.parametrize("case", GREEDY)
@pytest.mark.parametrize("length", [1, 9])
def test_greedy_token_for_token(pair, case, length):
    ours, theirs = pair
    settings = {"max_new_tokens": 15, "do_sample": False, **GREEDY[case]}
    for row in ragged(97, [length] * 4, seed=length):
        expected = theirs.generate(row[None], attention_mask=torch.ones(1, length, dtype=torch.long), **settings)
        assert ours.generate(row[None], **settings).tolist() == expected.tolist()


def test_left_padded_batch_equals_the_reference(pair):
    ours, theirs = pair
    ids, mask = padded(ragged(97, [9, 4, 1]), side="left")
    expected = theirs.generate(ids, attention_mask=mask, max_new_tokens=12, repetition_penalty=1.3)
    assert (
        ours.generate(ids, attention_mask=mask, max_new_tokens=12, repetition_penalty=1.3).tolist() == expected.tolist()
    )


def test_ragged_left_right_and_alone_are_the_same(pair):
    ours, _ = pair
    rows = ragged(97, [9, 4, 1, 13])
    settings = {"max_new_tokens": 12, "min_new_tokens": 12}
    alone = [ours.generate(row[None], **settings)[0, len(row) :].tolist() for row in rows]
    assert ours.generate([row.tolist() for row in rows], **settings)[:, 13:].tolist() == alone
    for side in ("left", "right"):
        ids, mask = padded(rows, side=side)
        assert ours.generate(ids, attention_mask=mask, **settings)[:, 13:].tolist() == alone


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_p": 0.6, "top_k": 0},
        {"min_p": 0.2, "temperature": 1.8},
        {"top_k": 12, "top_p": 0.8, "temperature": 1.3, "repetition_penalty": 1.2},
    ],
)
def test_sampling_draws_the_reference_s_tokens(pair, settings):
    ours, theirs = pair
    ids = torch.stack(ragged(97, [6, 6, 6]))
    torch.manual_seed(3)
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=12, **settings)
    torch.manual_seed(3)
    assert ours.generate(ids, do_sample=True, max_new_tokens=12, **settings).tolist() == expected.tolist()


def test_a_seed_makes_draws_reproducible_and_leaves_the_global_generator_alone(pair):
    ours, _ = pair
    ids = torch.stack(ragged(97, [6, 6]))
    draws = [ours.generate(ids, do_sample=True, seed=5, temperature=3.0, max_new_tokens=20) for _ in range(2)]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], ours.generate(ids, do_sample=True, seed=6, temperature=3.0, max_new_tokens=20))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    ours.generate(ids, do_sample=True, seed=5, max_new_tokens=3)
    assert torch.equal(before, torch.get_rng_state())


def test_scores_and_logits(pair):
    ours, theirs = pair
    ids = torch.stack(ragged(97, [6, 6]))
    asked = {"max_new_tokens": 4, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), **asked)
    found = ours.generate(ids, **asked)
    assert torch.equal(found.sequences, expected.sequences)
    close(found.scores, expected.scores)
    close(found.logits, expected.logits)


def test_stream_and_streamer_give_what_generate_gives(pair):
    ours, _ = pair
    ids = torch.stack(ragged(97, [6, 6]))
    whole = ours.generate(ids, max_new_tokens=8)
    assert torch.stack(list(omniform.stream(ours, ids, max_new_tokens=8)), 1).tolist() == whole[:, 6:].tolist()

    class Notes:
        def __init__(self):
            self.notes = []

        def put(self, value):
            self.notes.append(value)

        def end(self):
            self.notes.append("end")

    notes = Notes()
    ours.generate(ids, max_new_tokens=8, streamer=notes)
    assert notes.notes[-1] == "end" and torch.equal(notes.notes[0], ids)
    assert torch.stack(notes.notes[1:-1], 1).tolist() == whole[:, 6:].tolist()


def test_lengths_of_answers(pair):
    ours, theirs = pair
    ids = torch.stack(ragged(97, [6]))
    assert ours.generate(ids, min_new_tokens=20).shape == theirs.generate(ids, min_new_tokens=20).shape == (1, 26)
    assert ours.generate(ids, min_new_tokens=5, max_length=11).shape == (1, 11)
    # Up to the last position, and no further: the token after the last position needs no position of its own.
    assert ours.generate(ids, min_new_tokens=500, max_new_tokens=500).shape == (1, 65)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"max_new_token": 3}, UnknownArgumentError, "max_new_tokens"),
        ({"temprature": 3}, UnknownArgumentError, "temperature"),
        ({"max_new_tokens": 0}, InputError, "max_new_tokens"),
        ({"max_length": 2}, InputError, "max_length"),
        ({"do_sample": True, "temperature": -0.5}, InputError, "temperature"),
        ({"do_sample": True, "top_p": 1.5}, InputError, "top_p"),
        ({"top_k": "many"}, InputError, "top_k"),
        ({"attention_mask": torch.ones(1, 3)}, InputError, "attention_mask"),
        ({"attention_mask": torch.tensor([[1, 0, 1, 1]])}, InputError, "hole"),
        ({"attention_mask": torch.zeros(1, 4)}, InputError, "empty"),
    ],
)
def test_bad_settings(pair, arguments, error, says):
    with pytest.raises(error, match=says):
        pair[0].generate(torch.tensor([[5, 6, 7, 8]]), **arguments)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([], "no prompt"),
        ([[]], "empty"),
        ([[3, 4], []], "row 1"),
        (torch.tensor([[0.5]]), "integers"),
        (torch.tensor([[97]]), "vocabulary"),
        (torch.tensor([[-1]]), "vocabulary"),
        ("hello", r"token ids.*Encode it first"),
        ([["a"]], "row 0"),
        (["hello"], "row 0.*Encode it first"),
        ({"input_ids": [5]}, r"token ids.*generate\(\*\*inputs\)"),
        ([{"role": "user", "content": "hello"}], "row 0.*apply_chat_template"),
        (torch.full((1, 65), 5), "positions"),
    ],
)
def test_bad_prompts(pair, ids, says):
    with pytest.raises(InputError, match=says):
        pair[0].generate(ids)


def test_lists_with_a_mask_are_told_of_tensors(pair):
    with pytest.raises(InputError, match=r'attention_mask.*return_tensors="pt"'):
        pair[0].generate([5, 6, 7], attention_mask=[1, 1, 1])


def test_what_has_no_effect_names_the_setting_that_is_in_its_way(pair, caplog):
    caplog.set_level("WARNING", logger="omniform")
    pair[0].generate(torch.tensor([[5, 6]]), max_new_tokens=2, num_beams=2, penalty_alpha=0.37, top_k=4)
    assert "no effect without do_sample=False and num_beams=1: penalty_alpha" in caplog.text


def test_padding_tells_the_mask_where_nobody_gives_one(pair):
    ours, theirs = pair
    ids, mask = padded(ragged(97, [9, 4, 1]), side="left")
    assert ours.generate(ids, max_new_tokens=12).tolist() == theirs.generate(ids, max_new_tokens=12).tolist()
    assert (
        ours.generate(ids, max_new_tokens=12).tolist()
        == ours.generate(ids, attention_mask=mask, max_new_tokens=12).tolist()
    )
