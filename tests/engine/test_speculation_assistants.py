"""Assistants: the same tokens in fewer steps, whoever guesses and however well."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from test_contract import answers, cases, wanted
from test_speculation import STATES, pestered, repeated
from test_states import model

from engines import family, idle, roomy
from omniform.core.errors import InputError
from omniform.engine.engine import Engine
from reference import omniform, transformers

FEW = {"num_assistant_tokens": 3, "assistant_confidence_threshold": 0.0}
FAMILIES = ["llama", "mistral", "gpt2", "t5", "whisper", "llava", "llama dynamic"]


@cache
def near(name: str, noise: float = 0.01) -> omniform.Model:
    """A model that mostly writes what a family's model writes."""
    twin = copy.deepcopy(family(name).ours)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in twin.parameters():
            p += noise * p.abs().mean() * torch.randn(p.shape, generator=generator)
    return twin


def inner_of(engine: Engine) -> Engine:
    """The engine of the one assistant of an engine."""
    [(assistant, _)] = engine._drafters._assistants.values()
    return assistant._engine


def guessed(some, **asked):
    """Cases with somebody who guesses."""
    return [(prompt, {**own, **FEW, **asked}) for prompt, own in some]


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_the_same(name, sampled):
    f = family(name)
    expected, some = wanted(f, sampled=sampled), cases(f, sampled=sampled)
    engine = roomy(f.ours, block_size=4)
    assert answers(engine, guessed(some, assistant_model=near(name))[::-1])[::-1] == expected
    stats, inner = engine.stats(), inner_of(engine)
    assert stats.tokens_accepted > stats.tokens_drafted / 6
    prompts = sum(len(c.decoder_prompt) for c in engine.generate_batch([p for p, _ in some], max_new_tokens=1))
    # Nothing that came true is read again: each guess, and each token of the model's own, once.
    assert inner.stats().tokens_computed <= prompts + stats.tokens_drafted + sum(map(len, expected))
    assert inner.stats().steps <= 4 * stats.steps + 2, "all rows guess in the same steps"
    idle(inner)
    assert answers(engine, guessed(some[:3], assistant_early_exit=1)) == expected[:3]
    idle(engine)
    short = roomy(f.ours, max_tokens_per_step=7, block_size=2)
    assert answers(short, guessed(some, assistant_model=near(name))) == expected
    idle(short)


def test_a_text_model_helps_one_that_sees():
    f, text = family("llava"), family("llama").ours
    engine = roomy(f.ours)
    assert answers(engine, guessed(cases(f), assistant_model=text)) == wanted(f)
    assert engine.stats().tokens_drafted
    idle(engine)


@pytest.mark.parametrize("name", STATES, ids=str)
def test_states_of_every_kind_go_back(name):
    """On both sides: of the model, and of the assistant; also where rows give way all the time."""
    m = model(name)
    lengths = [{"max_new_tokens": 16 - n} for n in range(4)]
    expected = [c.tokens for c in Engine(m, memory="4MB").generate_batch(repeated(), lengths)]
    for asked in ({"assistant_model": m}, {"assistant_early_exit": 1}):
        engine = Engine(m, memory="4MB")
        settings = [{**own, **FEW, **asked} for own in lengths]
        assert [c.tokens for c in engine.generate_batch(repeated(), settings)] == expected
        stats = engine.stats()
        if "assistant_model" in asked:
            assert stats.tokens_accepted == stats.tokens_drafted > 0
        assert pestered(engine, repeated(), settings) == expected
        idle(engine)
        idle(inner_of(engine))


def test_an_assistant_without_room_for_all(monkeypatch):
    f = family("llama")
    engine = roomy(f.ours, block_size=4)
    monkeypatch.setattr("omniform.engine.inner.free_memory", lambda device: 4 * 42_000)
    assert answers(engine, guessed(cases(f), assistant_model=near("llama"))) == wanted(f)
    assert engine.stats().tokens_accepted
    idle(inner_of(engine))


def test_the_reference_writes_the_same():
    f = family("llama")
    assistant = transformers.LlamaForCausalLM(f.theirs.config)
    assistant.load_state_dict({k: v.clone() for k, v in near("llama").state_dict().items()})
    ids = torch.tensor([cases(f)[1][0]])
    for settings in ({}, {"repetition_penalty": 1.3}, {"min_new_tokens": 9}):
        asked = {"max_new_tokens": 14, "do_sample": False, **settings}
        theirs = transformers.GenerationMixin.generate(
            f.theirs, ids, attention_mask=torch.ones_like(ids), assistant_model=assistant.eval(), **asked
        )
        ours = f.ours.generate(ids, assistant_model=near("llama"), **asked, return_dict_in_generate=True)
        assert torch.equal(ours.sequences, theirs) and ours.speculation.accepted


def test_the_same_model_is_always_right():
    f = family("llama")
    ids = torch.tensor([cases(f)[1][0]])
    asked = {"max_new_tokens": 21, "eos_token_id": None, **FEW, "return_dict_in_generate": True}
    out = f.ours.generate(ids, assistant_model=f.ours, **asked)
    # One token by the prompt, then four a step.
    assert (out.speculation.drafted, out.speculation.accepted, out.speculation.steps) == (15, 15, 6)
    torch.manual_seed(0)
    drawn = f.ours.generate(ids, assistant_model=f.ours, do_sample=True, top_k=0, **asked)
    assert drawn.speculation.drafted == drawn.speculation.accepted == 15


def test_how_far_it_guesses():
    f = family("llama")
    ids = torch.tensor([cases(f)[1][0]])
    asked = {"max_new_tokens": 40, "eos_token_id": None, "return_dict_in_generate": True, **FEW}
    same = copy.copy(f.ours)
    same.generation_config = copy.deepcopy(f.ours.generation_config)

    def steps(**more):
        return f.ours.generate(ids, assistant_model=same, **{**asked, **more}).speculation.steps

    assert steps() == steps(num_assistant_tokens_schedule="constant") == 11
    # 3, 5, 7, 9, 11 guesses and one token more each.
    assert steps(num_assistant_tokens_schedule="heuristic_transient") == 6
    assert same.generation_config.num_assistant_tokens is None
    assert steps(num_assistant_tokens_schedule="heuristic") == 6
    assert same.generation_config.num_assistant_tokens == 13, "kept for the next call, as in the ecosystem"
    assert steps(num_assistant_tokens=None) == 4, "what the assistant's own config says"
    same.generation_config.num_assistant_tokens = None
    assert steps(assistant_confidence_threshold=1.0) == 21, "one guess a time: none is that sure"
    assert steps(num_assistant_tokens=0) == 40


def test_a_bad_assistant_costs_little_where_nobody_says_how_far_to_guess():
    f = family("llama")
    ids = torch.tensor([cases(f)[1][0]])
    asked = {"max_new_tokens": 40, "eos_token_id": None, "assistant_confidence_threshold": 0.0}
    expected = f.ours.generate(ids, **asked)

    def notes(**more):
        torch.manual_seed(0)
        out = f.ours.generate(ids, **asked, return_dict_in_generate=True, **more)
        assert "do_sample" in more or torch.equal(out.sequences, expected)
        return out.speculation

    bad = near("llama", 3.0)
    learned, told = notes(assistant_model=bad), notes(assistant_model=bad, num_assistant_tokens_schedule="constant")
    assert learned.drafted <= 20 + 2 * learned.steps < told.drafted / 4
    good = notes(assistant_model=f.ours)
    assert good.steps == 3 and good.accepted == good.drafted, "twenty at a time, and no fewer"
    # Draws of a row with a seed depend on nobody's guesses; where guesses are proposals, nothing is learned.
    drawn = {"do_sample": True, "assistant_model": bad}
    assert notes(seed=3, **drawn).drafted < notes(**drawn).drafted


@pytest.mark.parametrize(
    "rule",
    [
        {"no_repeat_ngram_size": 2}, {"suppress_tokens": list(range(3, 20))}, {"bad_words_ids": [[5], [7, 9]]},
        {"repetition_penalty": 1.3}, {"min_new_tokens": 12, "eos_token_id": list(range(3, 60, 2))},
        {"eos_token_id": list(range(3, 60, 7))}, {"max_time": 60.0},
        {"num_return_sequences": 2, "do_sample": True, "seed": 3},
    ],
    ids=lambda rule: next(iter(rule)),
)  # fmt: skip
def test_rules_hold_on_both_sides(rule):
    f = family("llama")
    ids = torch.tensor([cases(f)[1][0]])
    asked = {"max_new_tokens": 20, **rule}
    out = f.ours.generate(ids, **asked, **FEW, assistant_model=f.ours, return_dict_in_generate=True)
    assert torch.equal(out.sequences, f.ours.generate(ids, **asked))
    assert out.speculation.accepted == out.speculation.drafted, "the same rules for the guesses"


def test_what_does_not_go_together_is_said():
    llama, other = family("llama").ours, model(["full", "full"])
    ids = torch.tensor([[4, 5, 6]])
    for asked, where, words in (
        ({"assistant_model": other}, "assistant_model", "41 tokens"),
        ({"assistant_model": object()}, "assistant_model", "a model that writes"),
        ({"assistant_model": llama, "num_beams": 2}, "assistant_model", "num_beams=2"),
        ({"assistant_model": llama, "prompt_lookup_num_tokens": 2}, "assistant_model", "prompt_lookup_num_tokens"),
        ({"assistant_model": other, "assistant_tokenizer": object()}, "assistant_tokenizer", "tokenizer=..."),
        ({"prompt_lookup_num_tokens": 2, "dola_layers": "low"}, "prompt_lookup_num_tokens", "dola_layers=low"),
        ({"assistant_model": llama, "penalty_alpha": 0.6}, "assistant_model", "penalty_alpha=0.6"),
        ({"assistant_early_exit": 2}, "assistant_early_exit", "a layer from 1 to 1"),
        ({"assistant_early_exit": 0}, "assistant_early_exit", "from 1"),
        ({"assistant_early_exit": 1, "num_beams": 2}, "assistant_early_exit", "num_beams=2"),
        ({"num_assistant_tokens_schedule": "x"}, "num_assistant_tokens_schedule", "heuristic_transient"),
        ({"assistant_model": family("whisper").ours}, "assistant_model", "input_ids"),
    ):
        with pytest.raises(InputError) as error:
            llama.generate(ids, **asked)
        assert error.value.where == where and words in str(error.value), error.value


# -- another tokenizer -------------------------------------------------------------------------------------------------

TEXT = "the cat sat on the mat and the dog lay by the door while the rain fell on the roof. "


@cache
def spellers():
    """Tokenizers of one text: of letters, and of pieces of words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    found = []
    for size in (30, 60):
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=size, special_tokens=["<s>", "</s>"]))
        found.append(transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"))
    return found


@cache
def taught(which: int):
    """A tiny model that has learnt the text."""
    tokenizer = spellers()[which]
    config = omniform.AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=512, eos_token_id=1, bos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    m = omniform.AutoModelForCausalLM.from_config(config)
    ids = torch.tensor([tokenizer(TEXT * 3)["input_ids"]])[:, :200]
    optimizer = torch.optim.AdamW(m.parameters(), lr=0.01)
    for _ in range(60):
        loss = m(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return m.eval()


@pytest.mark.parametrize("which", [0, 1], ids=["letters guess for pieces", "pieces guess for letters"])
def test_another_tokenizer(which):
    target, assistant = taught(1 - which), taught(which)
    tokenizer, theirs = spellers()[1 - which], spellers()[which]
    asked = {"max_new_tokens": 40, "tokenizer": tokenizer, "eos_token_id": None}
    ids = [tokenizer(TEXT[:n])["input_ids"] for n in (34, 22, 11)]
    helped = {"assistant_model": assistant, "assistant_tokenizer": theirs, "num_assistant_tokens": 8}
    plain = target.generate(ids, **asked)
    for more in ({}, {"target_lookbehind": 3, "assistant_lookbehind": 4}):
        out = target.generate(ids, **asked, **helped, **more, return_dict_in_generate=True)
        assert torch.equal(out.sequences, plain)
        assert out.speculation.acceptance > 0.15 and out.speculation.steps < 3 * 40 / 2, out.speculation
    drawn = {**asked, "do_sample": True, "seed": 3, "temperature": 0.7}
    out = target.generate(ids, **drawn, **helped, return_dict_in_generate=True)
    assert torch.equal(out.sequences, target.generate(ids, **drawn)) and out.speculation.accepted


def test_the_same_tokenizer_under_two_sizes_is_known():
    """Matrices of one vocabulary are padded to sizes of their own."""
    m, wide = taught(1), copy.deepcopy(taught(1))
    wide.resize_token_embeddings(len(spellers()[1]) + 7)
    tokenizer = spellers()[1]
    ids = torch.tensor([tokenizer(TEXT[:30])["input_ids"]])
    for target, assistant in ((m, wide), (wide, m)):
        asked = {"max_new_tokens": 20, "eos_token_id": None, "tokenizer": tokenizer}
        out = target.generate(
            ids, **asked, assistant_model=assistant, assistant_tokenizer=spellers()[1], return_dict_in_generate=True
        )
        assert torch.equal(out.sequences, target.generate(ids, **asked)) and out.speculation.acceptance > 0.9


def test_texts_that_cannot_be_told_are_not_guessed_for():
    target, assistant = taught(1), taught(0)
    ids = torch.tensor([[0, 0, 0]])  # special tokens only: no text
    asked = {"max_new_tokens": 6, "eos_token_id": None, "tokenizer": spellers()[1]}
    out = target.generate(ids, **asked, assistant_model=assistant, assistant_tokenizer=spellers()[0])
    assert torch.equal(out, target.generate(ids, **asked))


@pytest.mark.parametrize("name", ["full", "hybrid", "recurrent only"])
def test_a_cache_that_is_given_back_holds_no_wrong_guesses(name):
    m = model(["full", "full"] if name == "full" else name)
    ids = torch.tensor([repeated(1)[0]])
    plain = m.generate(ids, max_new_tokens=20, eos_token_id=None, no_repeat_ngram_size=1)
    answer, wrong = plain[0, ids.shape[1] :].tolist(), 0
    for end in (token for at, token in enumerate(answer) if token not in answer[:at]):
        asked = {"max_new_tokens": 20, "eos_token_id": end, "no_repeat_ngram_size": 1, "assistant_early_exit": 1, **FEW}
        out = m.generate(ids, **asked, return_dict_in_generate=True)
        left = 20 - (out.sequences.shape[1] - ids.shape[1])
        if left:
            asked |= {"max_new_tokens": left, "eos_token_id": None, "attention_mask": torch.ones_like(out.sequences)}
            assert torch.equal(m.generate(out.sequences, past_key_values=out.past_key_values, **asked), plain)
        wrong += out.speculation.drafted - out.speculation.accepted
    assert wrong


def test_guidance_goes_without_guesses():
    m = family("llama").ours
    ids = torch.tensor([[5, 6, 7, 5, 6, 7]])
    asked = {"guidance_scale": 1.5, "max_new_tokens": 8}
    assert torch.equal(m.generate(ids, **asked, prompt_lookup_num_tokens=3), m.generate(ids, **asked))


class Counting(omniform.LogitsProcessor):
    """Depends on how long the rows are that it is shown, and on their last tokens."""

    def __call__(self, ids, scores):
        scores = scores.clone()
        scores[torch.arange(len(ids)), (ids[:, -1] * 3 + ids.shape[1]) % 61] += 2.0
        return scores


@pytest.mark.parametrize(
    "asked",
    [
        {"logits_processor": [Counting()]},
        {"prefix_allowed_tokens_fn": lambda row, ids: [3 + int(ids[-1]) % 20 + len(ids) % 5, 30, 31]},
        {"stopping_criteria": [lambda ids, scores, **more: (ids[:, -2:].sum(1) + ids.shape[1]) % 11 == 0]},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_objects_of_a_call_see_rows_that_are_equally_far(asked):
    m = family("llama").ours
    ids = torch.tensor([[5, 6, 7, 8] * 4, [9, 10, 11, 12] * 4, [13, 14, 15, 16] * 4])
    plain = m.generate(ids, max_new_tokens=16, eos_token_id=None, **asked)
    for guesses in (
        {"prompt_lookup_num_tokens": 4},
        {"assistant_model": m, **FEW},
        {"assistant_model": near("llama"), **FEW},
    ):
        assert torch.equal(m.generate(ids, max_new_tokens=16, eos_token_id=None, **asked, **guesses), plain)
