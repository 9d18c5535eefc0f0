"""A decoding loop of the caller's own, which everything is made ready for."""

from __future__ import annotations

import pytest
import torch
from test_beam_generate import FAMILIES, VOCABULARY, pairs  # noqa: F401

from omniform.core.errors import InputError, TrustError, UnknownArgumentError
from reference import padded, ragged


def greedy(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
    """A loop as in the ecosystem's documentation: whole rows every step, no cache."""
    model_kwargs.pop("past_key_values")
    mask = model_kwargs.pop("attention_mask", None)
    encodes = "encoder_outputs" in model_kwargs
    done = torch.zeros(len(input_ids), dtype=torch.bool)
    while not done.all():
        named = {"decoder_input_ids": input_ids} if encodes else {"input_ids": input_ids}
        more = {} if mask is None else {"attention_mask": mask}
        scores = logits_processor(input_ids, model(**named, **more, **model_kwargs).logits[:, -1])
        chosen = torch.where(done, generation_config.pad_token_id, scores.argmax(-1))
        input_ids = torch.cat((input_ids, chosen[:, None]), 1)
        if mask is not None and not encodes:
            mask = torch.cat((mask, mask.new_ones(len(mask), 1)), 1)
        done |= stopping_criteria(input_ids, None)
    return input_ids


@pytest.mark.parametrize("family", ["llama", "t5", "llava", "whisper"])
@pytest.mark.parametrize("rules", [{}, {"repetition_penalty": 1.5, "min_new_tokens": 3, "suppress_tokens": [4, 5]}])
def test_it_gets_what_ours_gets(pairs, family, rules):  # noqa: F811
    ours, _ = pairs(family)
    inputs = FAMILIES[family][1]()
    asked = {"max_new_tokens": 7, "eos_token_id": [2, 9, 30, 50], **rules}
    found = ours.generate(**inputs, **asked, custom_generate=greedy)
    expected = ours.generate(**inputs, **asked)
    # Whisper's own answers are given back without what they open with.
    assert found[:, found.shape[1] - expected.shape[1] :].tolist() == expected.tolist()


def test_with_a_cache_and_arguments_of_its_own(pairs):  # noqa: F811
    def loop(
        model, input_ids, attention_mask, past_key_values, logits_processor, stopping_criteria, favourite, times=1
    ):
        while not bool(stopping_criteria(input_ids, None).all()):
            new = input_ids[:, past_key_values.get_seq_length() :]
            found = model(new, attention_mask=attention_mask, past_key_values=past_key_values, use_cache=True)
            scores = logits_processor(input_ids, found.logits[:, -1])
            scores[:, favourite] += 3.0 * times
            input_ids = torch.cat((input_ids, scores.argmax(-1)[:, None]), 1)
            attention_mask = torch.cat((attention_mask, attention_mask.new_ones(len(attention_mask), 1)), 1)
        return input_ids

    ours, _ = pairs("llama")
    ids, mask = padded(ragged(VOCABULARY, [9, 4]), side="left")
    asked = {"max_new_tokens": 6, "eos_token_id": None}
    found = ours.generate(ids, attention_mask=mask, custom_generate=loop, favourite=40, times=2, **asked)
    expected = ours.generate(ids, attention_mask=mask, sequence_bias=[[[40], 6.0]], **asked)
    assert found.tolist() == expected.tolist()
    with pytest.raises(UnknownArgumentError, match="favorite"):
        ours.generate(ids, custom_generate=loop, favorite=40)


def test_several_answers_and_one_s_own_objects(pairs):  # noqa: F811
    seen = {}

    def loop(model, input_ids, logits_processor, stopping_criteria, generation_config, **more):
        seen.update(ids=input_ids, processors=logits_processor, criteria=stopping_criteria, config=generation_config)
        return input_ids

    ours, _ = pairs("llama")
    row = ragged(VOCABULARY, [5])[0][None]
    mine, stop = (lambda ids, scores: scores), (lambda ids, scores: True)
    found = ours.generate(
        row, custom_generate=loop, num_return_sequences=3, do_sample=True, temperature=0.5, max_time=9.0,
        logits_processor=[mine], stopping_criteria=[stop],
    )  # fmt: skip
    assert found.shape == (3, 5) and seen["processors"][-1] is mine and seen["criteria"][-1] is stop
    assert seen["criteria"][0].max_length == 25 and seen["config"].temperature == 0.5
    assert seen["criteria"].max_length == 25


def test_without_a_cache_there_is_none(pairs):  # noqa: F811
    seen = []

    def loop(model, input_ids, use_cache, past_key_values):
        seen.append((use_cache, past_key_values is None))
        return input_ids

    for asked in ({}, {"use_cache": False}):
        pairs("llama")[0].generate(torch.tensor([[5, 6]]), custom_generate=loop, **asked)
    assert seen == [(True, False), (False, True)]


def test_a_streamer_goes_to_the_loop_or_is_refused(pairs):  # noqa: F811
    ours, _ = pairs("llama")
    ids, heard = torch.tensor([[5, 6]]), []

    class Notes:
        def put(self, value):
            heard.append(value.tolist())

        def end(self):
            heard.append("end")

    def loop(model, input_ids, streamer):
        streamer.put(input_ids[0])
        streamer.end()
        return input_ids

    assert ours.generate(ids, custom_generate=loop, streamer=Notes()).tolist() == [[5, 6]]
    assert heard == [[5, 6], "end"]
    with pytest.raises(InputError, match="streamer"):
        ours.generate(ids, custom_generate=lambda model, input_ids: input_ids, streamer=Notes())


def test_what_is_no_loop(pairs):  # noqa: F811
    ours, _ = pairs("llama")
    with pytest.raises(InputError, match="custom_generate"):
        ours.generate(torch.tensor([[5, 6]]), custom_generate=3)
    with pytest.raises(TrustError, match=r"org/repo.*custom_generate"):
        ours.generate(torch.tensor([[5, 6]]), custom_generate="org/repo")
