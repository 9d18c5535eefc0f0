"""A call's own processors, criteria and functions: they see, and do, what they do in the reference."""

from __future__ import annotations

import logging
import random
from contextlib import closing

import pytest
import torch

from omniform.core.errors import InputError, OmniformError
from omniform.engine.engine import Engine
from reference import close, omniform, padded, ragged, saved_reference, transformers

V = 97
TINY = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
T5 = {
    "vocab_size": V, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
    "eos_token_id": 2, "decoder_start_token_id": 0,
}  # fmt: skip
GPT2 = {
    "vocab_size": V,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    made = {}
    for name, model, config, auto in (
        ("llama", transformers.LlamaForCausalLM, transformers.LlamaConfig(**TINY), omniform.AutoModelForCausalLM),
        ("gpt2", transformers.GPT2LMHeadModel, transformers.GPT2Config(**GPT2), omniform.AutoModelForCausalLM),
        ("t5", transformers.T5ForConditionalGeneration, transformers.T5Config(**T5), omniform.AutoModelForSeq2SeqLM),
    ):
        folder = tmp_path_factory.mktemp(name)
        theirs = saved_reference(model, config, folder, scale=0.3)
        made[name] = auto.from_pretrained(folder), theirs
    return made


class Recorder:
    """Notes what it sees, and bends the scores by it."""

    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores):
        self.seen.append((input_ids.clone(), scores.clone()))
        scores[:, 5] -= 3.0  # in place: what it is given is its own
        return scores + 0.1 * torch.sin(input_ids.sum(-1, keepdim=True) * torch.arange(scores.shape[-1]))


class Ends:
    """Notes what it sees, and ends rows by their last tokens."""

    def __init__(self, modulus):
        self.seen, self.modulus = [], modulus

    def __call__(self, input_ids, scores, **kwargs):
        self.seen.append((input_ids.clone(), None if scores is None else len(scores)))
        return input_ids[:, -1] % self.modulus == 0


def both(pair, ids, mask, seed=0, **settings):
    found = []
    for model in pair:
        own = {name: value() if isinstance(value, type) else value for name, value in settings.items()}
        torch.manual_seed(seed)
        found.append((model.generate(ids, attention_mask=mask, pad_token_id=0, **own), own))
    return found


WAYS = [
    {}, {"do_sample": True}, {"do_sample": True, "num_return_sequences": 3, "top_k": 9, "temperature": 0.7},
    {"num_beams": 3}, {"num_beams": 2, "do_sample": True, "top_k": 20},
    {"repetition_penalty": 1.3, "min_new_tokens": 3},
]  # fmt: skip


def prompts(way):
    # Where searches draw, the reference goes on drawing for prompts that are done; so these are one prompt.
    draws = WAYS[way].get("num_beams", 1) > 1 and WAYS[way].get("do_sample")
    return padded(ragged(V, [5] if draws else [5, 2, 7]), side="left")


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("way", range(len(WAYS)))
def test_processors_see_the_whole_call(pairs, family, way):
    ids, mask = padded(ragged(V, [5, 2, 7]), side="left")
    recorders = []

    def chain():
        recorders.append(Recorder())
        return [recorders[-1]]

    ours, theirs = pairs[family]
    found = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        asked = {"max_new_tokens": 7, "logits_processor": chain(), **WAYS[way]}
        found.append(model.generate(ids, attention_mask=mask, pad_token_id=0, **asked))
    assert torch.equal(*found)
    mine, other = (recorder.seen for recorder in recorders)
    assert len(mine) == len(other)
    beams = WAYS[way].get("num_beams", 1) > 1
    for step, ((row, scores), (expected_row, expected)) in enumerate(zip(mine, other, strict=True)):
        assert scores.dtype == torch.float32 and scores.shape == expected.shape
        alive = torch.ones(len(row), dtype=torch.bool)
        if not beams and family != "t5":
            alive = ~(expected_row[:, ids.shape[1] :] == 2).any(1)
        elif family == "t5" and not beams:
            alive = ~(expected_row == 2).any(1)
        if beams and step:
            continue  # rows of searches that have ended differ, as nothing is computed for them
        assert torch.equal(row, expected_row)
        assert torch.equal(scores[alive].isfinite(), expected[alive].isfinite())
        close(scores[alive].clamp(min=-1e4), expected[alive].clamp(min=-1e4))


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("way", range(len(WAYS)))
@pytest.mark.parametrize("scores", [False, True])
def test_criteria_end_rows(pairs, family, way, scores):
    ids, mask = prompts(way)
    asked = {"max_new_tokens": 9, "return_dict_in_generate": scores, "output_scores": scores, **WAYS[way]}
    found, rules = [], []
    for model in pairs[family]:
        rules.append(Ends(5))
        torch.manual_seed(1)
        got = model.generate(ids, attention_mask=mask, pad_token_id=0, stopping_criteria=[rules[-1]], **asked)
        found.append(got.sequences if scores else got)
    assert torch.equal(*found)
    if not WAYS[way].get("num_beams"):
        assert len(rules[0].seen) == len(rules[1].seen)
        for (row, steps), (expected, expected_steps) in zip(rules[0].seen, rules[1].seen, strict=True):
            assert torch.equal(row, expected) and steps == expected_steps


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("way", range(len(WAYS)))
def test_what_may_follow(pairs, family, way):
    ids, mask = padded(ragged(V, [5, 2, 7]), side="left")
    calls = [[], []]

    def asked(calls):
        def allowed(prompt, row):
            calls.append((prompt, row.tolist()))
            return [(7 * prompt + 3 * int(row[-1]) + k) % 90 + 3 for k in range(9)]

        return allowed

    found = []
    for model, noted in zip(pairs[family], calls, strict=True):
        torch.manual_seed(1)
        found.append(model.generate(ids, attention_mask=mask, pad_token_id=0, max_new_tokens=6,
                                    prefix_allowed_tokens_fn=asked(noted), **WAYS[way]))  # fmt: skip
    assert torch.equal(*found)
    assert calls[0] == calls[1]


def test_the_same_kind_takes_the_settings_place(pairs, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("omniform"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="omniform")
    ids, mask = padded(ragged(V, [5, 2, 7]), side="left")
    found = [
        model.generate(
            ids, attention_mask=mask, pad_token_id=0, max_new_tokens=8, repetition_penalty=1.1,
            suppress_tokens=[7, 8, 9], min_new_tokens=3,
            logits_processor=library.LogitsProcessorList(
                [Recorder(), library.SuppressTokensLogitsProcessor(list(range(10, 60))),
                 library.RepetitionPenaltyLogitsProcessor(5.0)]
            ),
        )
        for model, library in zip(pairs["llama"], (omniform, transformers), strict=True)
    ]  # fmt: skip
    assert torch.equal(*found)
    assert "own RepetitionPenaltyLogitsProcessor takes the place" in caplog.text


def test_a_criterion_of_length_takes_the_settings_place(pairs):
    ids, mask = padded(ragged(V, [5, 2, 7]), side="left")
    for length in (9, 30):
        found = [
            model.generate(ids, attention_mask=mask, pad_token_id=0, max_new_tokens=8, eos_token_id=None,
                           stopping_criteria=library.StoppingCriteriaList([library.MaxLengthCriteria(length)]))
            for model, library in zip(pairs["llama"], (omniform, transformers), strict=True)
        ]  # fmt: skip
        assert torch.equal(*found) and found[0].shape[1] == length


WATERMARKS = [
    {"bias": 3.0}, {"seeding_scheme": "selfhash", "greenlist_ratio": 0.5}, {"greenlist_ratio": 0.5, "context_width": 2},
    {"ngram_len": 3, "keys": [5, 9, 11, 2], "context_history_size": 8, "sampling_table_size": 512},
]  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("way", range(len(WAYS)))
def test_watermarks(pairs, family, way):
    ids, mask = prompts(way)
    number = (way + len(family)) % len(WATERMARKS)
    found = []
    for model, library in zip(pairs[family], (omniform, transformers), strict=True):
        torch.manual_seed(2)
        tournament = "ngram_len" in WATERMARKS[number]
        kind = library.SynthIDTextWatermarkingConfig if tournament else library.WatermarkingConfig
        asked = {"max_new_tokens": 8, "watermarking_config": kind(**WATERMARKS[number]), **WAYS[way]}
        found.append(model.generate(ids, attention_mask=mask, pad_token_id=0, **asked))
    assert torch.equal(*found)


SETTINGS = {
    "repetition_penalty": [1.3, 0.8], "no_repeat_ngram_size": [2, 3], "min_new_tokens": [4], "min_length": [9],
    "suppress_tokens": [list(range(20, 40))], "begin_suppress_tokens": [list(range(40, 60))],
    "forced_eos_token_id": [7],
    "bad_words_ids": [[[5], [6, 7], *([i, 9] for i in range(3, 90))]], "remove_invalid_values": [True],
    "sequence_bias": [[[[i], 0.5 * (i % 5 - 2)] for i in range(3, 90, 3)] + [[[i, 11], 4.0] for i in range(3, 90)]],
    "exponential_decay_length_penalty": [[2, 1.4]], "renormalize_logits": [True],
    "watermarking_config": [{"bias": 1.5}],
}  # fmt: skip
DRAWS = {
    "temperature": [0.6, 1.7], "top_k": [0, 5, 30], "top_p": [0.7], "top_h": [0.5], "min_p": [0.1], "typical_p": [0.6],
    "epsilon_cutoff": [0.01], "eta_cutoff": [0.02],
}  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("seed", range(12))
def test_settings_together(pairs, family, seed):
    pick = random.Random(seed)
    draws = pick.random() < 0.7
    known = SETTINGS | DRAWS if draws else SETTINGS
    asked = {name: pick.choice(known[name]) for name in pick.sample(sorted(known), pick.randint(2, 6))}
    if family == "t5":
        asked |= {"encoder_no_repeat_ngram_size": pick.choice([0, 2]), "forced_bos_token_id": pick.choice([None, 8])}
        asked["encoder_repetition_penalty"] = pick.choice([1.0, 1.4])
    lengths = pick.choice([[6], [5, 2, 7], [4, 4]])
    if family == "t5":
        lengths = [max(lengths)] * len(lengths)  # the reference counts padding as read
    ids, mask = padded(ragged(V, lengths, seed=seed), side="left")
    asked |= {"do_sample": draws, "max_new_tokens": 8, "eos_token_id": [2, 30, 66]}
    asked["num_return_sequences"] = pick.choice([1, 2]) if draws else 1
    found = both(pairs[family], ids, mask, seed, **asked)
    assert torch.equal(found[0][0], found[1][0])


# -- through an engine ---------------------------------------------------------------------------------------------


class Fails:
    def __init__(self, what, when=2):
        self.what, self.when, self.calls = what, when, 0

    def __call__(self, input_ids, scores, **kwargs):
        self.calls += 1
        if self.calls <= self.when:
            return scores if scores is not None else False
        if isinstance(self.what, Exception):
            raise self.what
        return self.what(scores) if callable(self.what) else self.what


BROKEN = {
    "raises": (ZeroDivisionError("oh"), "ZeroDivisionError: oh"),
    "nothing": (None, "found None"),
    "a number": (1.5, "found 1.5"),
    "one row less": (lambda scores: scores[:-1], "shape \\[0, 97\\]"),
    "one token less": (lambda scores: scores[:, 1:], "shape \\[1, 96\\]"),
    "whole numbers": (lambda scores: scores.long(), "torch.int64"),
    "no numbers": (lambda scores: scores * float("nan"), "no numbers"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_processor_that_fails_ends_its_request_only(pairs, name):
    model = pairs["llama"][0]
    what, words = BROKEN[name]
    with closing(Engine(model)) as engine:
        alone = engine.generate([4, 5, 6], max_new_tokens=9).tokens
        others = [engine.submit([4, 5, 6], max_new_tokens=9) for _ in range(2)]
        broken = engine.submit([4, 5, 6], max_new_tokens=9, logits_processor=[Fails(what)])
        with pytest.raises(OmniformError, match=words) as caught:
            broken.result(timeout=60)
        assert "Fails, row 0, step 2" in str(caught.value)
        assert [other.result(timeout=60).tokens for other in others] == [alone, alone]


def test_a_criterion_that_fails_ends_its_request_only(pairs):
    model = pairs["llama"][0]
    with closing(Engine(model)) as engine:
        alone = engine.generate([4, 5, 6], max_new_tokens=9).tokens
        other = engine.submit([4, 5, 6], max_new_tokens=9)
        for what, words in ((KeyError("x"), "KeyError"), (3, "found 3"), (torch.zeros(2).bool(), "shape \\[2\\]")):
            broken = engine.submit([4, 5, 6], max_new_tokens=9, stopping_criteria=[Fails(what)])
            with pytest.raises(OmniformError, match=f"Fails, row 0, step 2.*{words}"):
                broken.result(timeout=60)
        assert other.result(timeout=60).tokens == alone


def test_requests_bring_their_own(pairs):
    model = pairs["llama"][0]
    with closing(Engine(model)) as engine:
        plain = engine.generate([4, 5, 6], max_new_tokens=9).tokens
        some = [
            engine.submit([4, 5, 6], max_new_tokens=9, logits_processor=[wants])
            for wants in (lambda ids, x, t=t: x.index_fill(1, torch.tensor([t]), 99.0) for t in (11, 12))
        ]
        one = engine.submit([4, 5, 6], max_new_tokens=9, stopping_criteria=[lambda ids, x: ids.shape[1] >= 7])
        asked = engine.submit([4, 5, 6], max_new_tokens=4, prefix_allowed_tokens_fn=lambda i, row: [40 + i + len(row)])
        rest = engine.submit([4, 5, 6], max_new_tokens=9)
        assert [handle.result(timeout=60).tokens for handle in some] == [[11] * 9, [12] * 9]
        assert one.result(timeout=60).tokens == plain[:4] and one.result().finish_reason == "stop"
        assert asked.result(timeout=60).tokens == [43, 44, 45, 46]
        assert rest.result(timeout=60).tokens == plain
        both = engine.generate_batch([[4, 5, 6], [7, 8]], logits_processor=[Recorder()], max_new_tokens=5)
        assert both[0].tokens == engine.generate([4, 5, 6], logits_processor=[Recorder()], max_new_tokens=5).tokens


@pytest.mark.parametrize(
    ("name", "value"),
    [("logits_processor", 5), ("logits_processor", [5]), ("logits_processor", lambda ids, x: x),
     ("stopping_criteria", "x"), ("prefix_allowed_tokens_fn", [3]),
     ("logits_processor", [omniform.HammingDiversityLogitsProcessor(0.5, 2, 2)])],
)  # fmt: skip
def test_what_takes_no_part(pairs, name, value):
    words = "HammingDiversity" if isinstance(value, list) and callable(value[0]) else name
    with pytest.raises((InputError, ValueError), match=words):
        pairs["llama"][0].generate(torch.tensor([[4, 5]]), max_new_tokens=3, **{name: value})


def test_objects_may_be_kept_and_computed_with(pairs):
    kept = []

    def keeps(ids, scores):
        kept.append(scores)
        return scores

    pairs["llama"][0].generate(torch.tensor([[4, 5]]), max_new_tokens=3, logits_processor=[keeps])
    weight = torch.ones((), requires_grad=True)
    (kept[0] * weight).sum().backward()  # no inference tensor
    assert weight.grad is not None


def test_a_row_ends_and_the_others_go_on(pairs):
    pick = random.Random(0)
    for _ in range(3):
        lengths = [pick.randint(1, 9) for _ in range(4)]
        ids, mask = padded(ragged(V, lengths, seed=pick.randint(0, 99)), side="left")
        ends = [pick.randrange(3, V) for _ in range(12)]
        found = both(pairs["llama"], ids, mask, max_new_tokens=12, eos_token_id=ends, do_sample=True,
                     watermarking_config={"bias": 1.0}, renormalize_logits=True, top_k=0)  # fmt: skip
        assert torch.equal(found[0][0], found[1][0])
