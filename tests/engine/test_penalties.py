"""Penalties on what an answer holds, beside the formula written out in the reference's loop: tokens and scores."""

from __future__ import annotations

import pytest
import torch

from omniform.core.errors import InputError
from omniform.engine.engine import Engine
from omniform.engine.history import Counts, History
from omniform.engine.processors import FrequencyPenaltyLogitsProcessor, PresencePenaltyLogitsProcessor
from reference import close, omniform, padded, ragged, saved_reference, transformers

VOCABULARY = 41
TINY = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip
PENALTIES = (
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.4},
    {"presence_penalty": -2.0, "frequency_penalty": 0.9},
    {"frequency_penalty": -0.7, "repetition_penalty": 1.2},
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    theirs = saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**TINY), folder, scale=0.3)
    return omniform.AutoModelForCausalLM.from_pretrained(folder), theirs


class Formula:
    """OpenAI's formula, token by token: ``mu[j] - c[j] * frequency - (c[j] > 0) * presence``."""

    def __init__(self, prompt: int, presence_penalty: float = 0.0, frequency_penalty: float = 0.0) -> None:
        self.prompt, self.presence, self.frequency = prompt, presence_penalty, frequency_penalty

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        for row, ids in enumerate(input_ids.tolist()):
            written = ids[self.prompt :]
            for token in set(written):
                scores[row, token] -= written.count(token) * self.frequency + self.presence
        return scores


def beside_the_formula(theirs, ids, mask, asked, penalties):
    others = {name: value for name, value in penalties.items() if name == "repetition_penalty"}
    own = {name: value for name, value in penalties.items() if name not in others}
    processors = transformers.LogitsProcessorList([Formula(ids.shape[1], **own)])
    return theirs.generate(ids, attention_mask=mask, **asked, **others, logits_processor=processors)


@pytest.mark.parametrize("penalties", PENALTIES, ids=str)
@pytest.mark.parametrize(
    "how",
    [{}, {"do_sample": True, "top_k": 0}, {"num_beams": 3}, {"do_sample": True, "top_k": 6, "num_return_sequences": 2}],
    ids=str,
)
def test_the_formula(pair, penalties, how):
    ours, theirs = pair
    ids, mask = padded(ragged(VOCABULARY, [9, 4, 1]), side="left")
    asked = {"max_new_tokens": 16, "return_dict_in_generate": True, "output_scores": True, "do_sample": False, **how}
    torch.manual_seed(5)
    expected = beside_the_formula(theirs, ids, mask, asked, penalties)
    torch.manual_seed(5)
    found = ours.generate(ids, attention_mask=mask, **asked, **penalties)
    assert found.sequences.tolist() == expected.sequences.tolist()
    for mine, other in zip(found.scores, expected.scores, strict=True):
        near = other.isfinite()
        assert torch.equal(mine.isfinite(), near)
        close(mine[near], other[near])


@pytest.mark.parametrize("penalties", PENALTIES, ids=str)
def test_alone_in_company_and_with_guesses(pair, penalties):
    prompts = [*ragged(VOCABULARY, [7, 3]), [5, 6, 7, 8] * 4]
    engine = Engine(pair[0], memory="4MB")
    for how in ({}, {"do_sample": True, "seed": 3, "temperature": 0.7}):
        alone = [engine.generate(p, max_new_tokens=24, **how, **penalties).tokens for p in prompts]
        others = [engine.generate(p, max_new_tokens=24, **how).tokens for p in prompts]
        assert alone != others, "a penalty that nobody notices is no test"
        together = engine.generate_batch(prompts, max_new_tokens=24, **how, **penalties)
        assert [one.tokens for one in together] == alone
        mixed = engine.generate_batch(prompts, [penalties, {}, penalties], max_new_tokens=24, **how)
        assert [one.tokens for one in mixed] == [alone[0], others[1], alone[2]]
        guessed = engine.generate_batch(prompts, max_new_tokens=24, prompt_lookup_num_tokens=4, **how, **penalties)
        assert [one.tokens for one in guessed] == alone and sum(one.drafted_tokens for one in guessed)


def test_a_prompt_of_vectors_does_not_count(pair):
    ours, _ = pair
    ids = torch.tensor([[4, 9, 9, 4, 17]])
    asked = {"max_new_tokens": 20, "frequency_penalty": 0.8, "presence_penalty": 0.3}
    expected = ours.generate(ids, **asked)[:, ids.shape[1] :]
    assert torch.equal(ours.generate(inputs_embeds=ours.get_input_embeddings()(ids), **asked), expected)


def test_a_processor_of_the_call_takes_the_place(pair):
    ours, _ = pair
    ids = torch.tensor([[4, 9, 9, 4, 17]])
    own = [FrequencyPenaltyLogitsProcessor(0.8, 5), PresencePenaltyLogitsProcessor(0.3, 5)]
    expected = ours.generate(ids, max_new_tokens=20, frequency_penalty=0.8, presence_penalty=0.3)
    assert torch.equal(ours.generate(ids, max_new_tokens=20, logits_processor=own), expected)
    wild = {"frequency_penalty": 7.0, "presence_penalty": 9.0}
    assert torch.equal(ours.generate(ids, max_new_tokens=20, logits_processor=own, **wild), expected)


def test_counts_follow_a_row_that_is_cut_back_and_goes_on():
    history = History().follow([5, 5, 7])
    assert dict(zip(*map(list, history.counts(1)), strict=True)) == {5: 1, 7: 1}
    twin = history.copy()
    history.follow([5, 5, 7, 7, 9])
    assert dict(zip(*map(list, history.counts(1)), strict=True)) == {5: 1, 7: 2, 9: 1}
    assert dict(zip(*map(list, twin.counts(1)), strict=True)) == {5: 1, 7: 1}
    assert dict(zip(*map(list, history.follow([5, 8]).counts(1)), strict=True)) == {8: 1}
    many = Counts()
    many.add([token % 150 for token in range(400)])
    tokens, counts = many.told
    assert sorted(tokens.tolist()) == list(range(150)) and counts.sum() == 400 and set(counts.tolist()) == {2, 3}


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "much", [1, 2], True])
def test_values_that_cannot_be(pair, name, value):
    with pytest.raises(InputError, match=name):
        pair[0].generate(torch.tensor([[4, 5]]), max_new_tokens=2, **{name: value})
