"""How likely a prompt's own tokens and continuations of it are, against one plain forward of the reference."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import omniform.engine.prompt_notes as prompt_notes
from engines import IMAGE, NEW, VOCABULARY, family, idle, roomy, tight
from omniform.core.errors import InputError
from omniform.engine.engine import Engine
from reference import omniform, ragged

sys.path.insert(0, str(Path(__file__).parent.parent / "inputs"))


FAMILIES = ["llama", "mistral mixed", "gpt2", "llama longrope", "t5", "whisper", "llava"]


def prompt_of(f, length=19, seed=5):
    return f.prompt(ragged(VOCABULARY - 2, [length], seed=seed)[0].tolist(), 1)


def decoder_ids(f, prompt):
    if isinstance(prompt, list):
        return prompt
    return prompt["decoder_input_ids" if "decoder_input_ids" in prompt else "input_ids"][0].tolist()


def expected(f, prompt):
    """Log-probabilities of every next token of a prompt. Shape: [T, V]."""
    inputs = {"input_ids": torch.tensor([prompt])} if isinstance(prompt, list) else dict(prompt)
    with torch.no_grad():
        return f.theirs(**inputs).logits[0].log_softmax(-1)


def check(found, ids, logprobs, first=1):
    assert len(found) == len(ids) and all(one is None for one in found[:first])
    for place in range(first, len(ids)):
        one, row = found[place], logprobs[place - 1]
        assert one.token == ids[place]
        assert one.logprob == pytest.approx(row[ids[place]].item(), abs=1e-4)
        best = row.topk(len(one.top))
        assert [value for _, value in one.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert [row[token].item() for token, _ in one.top] == pytest.approx(best.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_s_own_tokens_are_told_of_from_the_pass_that_reads_it(name):
    f = family(name)
    prompt = prompt_of(f)
    ids, logprobs = decoder_ids(f, prompt), expected(f, prompt)
    whole = roomy(f.ours)
    only = whole.generate(prompt, max_new_tokens=0, prompt_logprobs=3)
    assert (only.tokens, only.finish_reason, only.text) == ([], "length", None)
    assert whole.stats().tokens_computed == len(ids) and whole.stats().steps == 1
    check(only.prompt_logprobs, ids, logprobs)
    idle(whole)
    # In chunks, beside others, and with an answer after it: the same.
    chunked = roomy(f.ours, max_tokens_per_step=4, block_size=4)
    answers = chunked.generate_batch(
        [prompt, prompt, prompt_of(f, 7, 2)],
        [{"prompt_logprobs": 0}, {"prompt_logprobs": 1, "logprobs": 0}, {}],
        max_new_tokens=NEW,
        eos_token_id=None,
    )
    assert answers[0].tokens == answers[1].tokens == f.expected(prompt, eos_token_id=None)
    check(answers[0].prompt_logprobs, ids, logprobs)
    check(answers[1].prompt_logprobs, ids, logprobs)
    assert answers[2].prompt_logprobs is None and len(answers[1].logprobs) == NEW
    idle(chunked)


def test_a_prompt_that_others_have_read_is_read_again():
    f = family("llama")
    prompt, engine = prompt_of(f, 40), roomy(f.ours)
    engine.generate(prompt, max_new_tokens=3)
    told = engine.generate(prompt, max_new_tokens=1, prompt_logprobs=0)
    check(told.prompt_logprobs, prompt, expected(f, prompt))
    assert told.cached_tokens == 0 and engine.generate(prompt, max_new_tokens=1).cached_tokens == 32


@pytest.mark.parametrize("name", ["llama", "t5", "llava"])
def test_nothing_is_noted_twice_when_requests_give_way(name):
    f = family(name)
    prompts = [prompt_of(f, length, seed) for seed, length in enumerate((21, 17, 25, 12))]
    asked = {"max_new_tokens": NEW, "prompt_logprobs": 1, "eos_token_id": None}
    engine, found = tight(f.ours, prompts, [asked] * 4, max_tokens_per_step=5, block_size=2)
    for prompt, one in zip(prompts, found, strict=True):
        check(one.prompt_logprobs, decoder_ids(f, prompt), expected(f, prompt))
        assert one.tokens == f.expected(prompt, eos_token_id=None)
    idle(engine)


def test_scores_are_made_a_few_at_a_time(monkeypatch):
    f, most = family("llama"), []
    prompt = prompt_of(f, 50)
    project = f.ours.project
    monkeypatch.setattr(prompt_notes, "SCORES_AT_ONCE", 7 * VOCABULARY)
    monkeypatch.setattr(f.ours, "project", lambda hidden: most.append(hidden.shape[0]) or project(hidden))
    told = roomy(f.ours).generate(prompt, max_new_tokens=0, prompt_logprobs=0)
    check(told.prompt_logprobs, prompt, expected(f, prompt))
    assert max(most) == 7 and sum(most) == 50


def test_several_answers_and_draws_leave_the_prompt_s_alone():
    f = family("llama")
    prompt, engine = prompt_of(f), roomy(f.ours, max_tokens_per_step=6)
    told = engine.generate(prompt, prompt_logprobs=1, do_sample=True, num_return_sequences=3, seed=4, max_new_tokens=4)
    check(told.prompt_logprobs, prompt, expected(f, prompt))
    plain = roomy(f.ours).generate(prompt, do_sample=True, num_return_sequences=3, seed=4, max_new_tokens=4)
    assert [s.tokens for s in told.sequences] == [s.tokens for s in plain.sequences]
    for more in ({"guidance_scale": 1.5}, {"penalty_alpha": 0.5, "top_k": 3}, {"prompt_lookup_num_tokens": 3}):
        told = engine.generate(prompt, prompt_logprobs=1, max_new_tokens=4, **more)
        check(told.prompt_logprobs, prompt, expected(f, prompt))
        assert told.tokens == roomy(f.ours).generate(prompt, max_new_tokens=4, **more).tokens


def test_vectors_that_are_no_token_s_have_no_probability():
    f = family("llama")
    prompt = prompt_of(f, 9)
    vectors = f.ours.get_input_embeddings()(torch.tensor([prompt]))
    told = roomy(f.ours).generate({"inputs_embeds": vectors}, max_new_tokens=0, prompt_logprobs=1)
    assert told.prompt_logprobs == []  # nothing that has a name was read
    picture = family("llava")
    ids = decoder_ids(picture, prompt_of(picture))
    told = roomy(picture.ours).generate(prompt_of(picture), max_new_tokens=0, prompt_logprobs=1)
    assert [one.token for one in told.prompt_logprobs[1:]] == ids[1:] and IMAGE in ids


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 0, "logprobs": 1}, "max_new_tokens"),
        ({"prompt_logprobs": 1, "num_beams": 2}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": True}, "prompt_logprobs"),
    ],
)
def test_what_cannot_be_told_is_refused_by_name(asked, where):
    with pytest.raises(InputError) as caught:
        roomy(family("llama").ours).generate([5, 6, 7], **asked)
    assert caught.value.where == where


@pytest.mark.parametrize(
    "more",
    [
        {"prompt_lookup_num_tokens": 3}, {"penalty_alpha": 0.5, "top_k": 3}, {"guidance_scale": 1.5},
        {"num_return_sequences": 2, "do_sample": True}, {"dola_layers": "low"}, {"logprobs": 2, "output_scores": True},
    ],
)  # fmt: skip
def test_nothing_is_written_in_any_way_of_writing(more):
    f = family("llama")
    prompt, engine = [5, 6, 7, 8] * 6, roomy(f.ours, max_tokens_per_step=10)
    told = engine.generate(prompt, max_new_tokens=0, prompt_logprobs=1, **more)
    assert told.tokens == [] and told.finish_reason == "length"
    check(told.prompt_logprobs, prompt, expected(f, prompt))
    idle(engine)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_generate_gives_them_back_too(name):
    f = family(name)
    prompt = prompt_of(f)
    inputs = {"input_ids": torch.tensor([prompt])} if isinstance(prompt, list) else prompt
    told = f.ours.generate(**inputs, max_new_tokens=0, prompt_logprobs=2, return_dict_in_generate=True)
    check(told.prompt_logprobs[0], decoder_ids(f, prompt), expected(f, prompt))
    assert told.sequences.tolist() == [decoder_ids(f, prompt)] and told.logprobs is None
    told = f.ours.generate(**inputs, max_new_tokens=3, logprobs=0, return_dict_in_generate=True)
    assert len(told.logprobs[0]) == len(told.sequences[0]) - len(decoder_ids(f, prompt))
    with pytest.raises(InputError, match="return_dict_in_generate") as caught:
        f.ours.generate(**inputs, max_new_tokens=0, prompt_logprobs=2)
    assert caught.value.where == "prompt_logprobs"


# -- scores ------------------------------------------------------------------------------------------------------------


def by_hand(f, prompt, tokens):
    rows = expected(f, f.continued(prompt, tokens))
    start = len(decoder_ids(f, prompt)) - 1
    rows = rows[start : start + len(tokens)]
    return [row[t].item() for row, t in zip(rows, tokens, strict=True)], [
        row.argmax().item() == t for row, t in zip(rows, tokens, strict=True)
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_continuations_are_scored_as_one_forward_does(name):
    f = family(name)
    prompt = prompt_of(f)
    greedy = f.expected(prompt, eos_token_id=None)[:4]
    others = [row.tolist() for row in ragged(VOCABULARY - 2, [1, 3, 9], seed=8)]
    tokens = [greedy, *others, [*greedy[:2], 7], greedy, greedy[:1]]
    engine = roomy(f.ours, max_tokens_per_step=11)
    for own, score in zip(tokens, engine.score([(prompt, own) for own in tokens]), strict=True):
        logprobs, likeliest = by_hand(f, prompt, own)
        assert score.tokens == own and score.greedy == likeliest
        assert score.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert score.total == pytest.approx(sum(logprobs), abs=1e-3) and score.is_greedy == all(likeliest)
    idle(engine)
    one = f.ours.score(prompt, greedy)
    assert one.is_greedy and one.logprobs == pytest.approx(by_hand(f, prompt, greedy)[0], abs=1e-4)


def test_an_encoder_decoder_s_own_beginning_is_scored_after():
    f = family("t5")
    prompt = prompt_of(f, 0)
    assert prompt["decoder_input_ids"].tolist() == [[0]]
    ids = prompt["input_ids"][0].tolist()
    assert f.ours.score(ids, [9, 4]).logprobs == pytest.approx(by_hand(f, prompt, [9, 4])[0], abs=1e-4)


def test_a_context_is_computed_once_for_all_its_continuations():
    f = family("llama")
    context = prompt_of(f, 64)
    endings = [row.tolist() for row in ragged(VOCABULARY - 2, [3] * 10, seed=9)]
    engine = roomy(f.ours, block_size=8)
    engine.score([(context, own) for own in endings])
    # A block that is not full is computed for each, and so are all tokens of each continuation but its last.
    assert engine.stats().tokens_computed <= 64 + 10 * (8 + 2)
    before = engine.stats().tokens_computed
    single = engine.score([(context, [token]) for token in range(3, 60)])
    assert engine.stats().tokens_computed - before <= 8  # one pass tells of all of them
    logprobs = expected(f, context)[-1]
    assert [one.total for one in single] == pytest.approx([logprobs[t].item() for t in range(3, 60)], abs=1e-4)
    again = roomy(f.ours, prefix_cache=False).score([(context, own) for own in endings])
    for one, other in zip(engine.score([(context, own) for own in endings]), again, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5) and one.greedy == other.greedy


def test_a_checkpoint_s_own_settings_do_not_disturb_a_score(monkeypatch):
    f = family("llama")
    plain = f.ours.score([5, 6, 7], [8, 9])
    own = omniform.GenerationConfig(num_beams=3, num_return_sequences=2, do_sample=True, repetition_penalty=1.5)
    monkeypatch.setattr(f.ours, "generation_config", own)
    assert f.ours.score([5, 6, 7], [8, 9]) == plain


@pytest.mark.parametrize(
    ("pair", "where"),
    [
        (([5, 6], []), "continuation"),
        (([5, 6], [VOCABULARY]), "continuation"),
        (([5, 6], "a text"), "prompt"),
        (("a text", [5]), "prompt"),
        (([5, 6], [3] * 96), "continuation"),
        (([5, 6], {5}), "continuation"),
        (([], [5]), "input_ids, row 0"),
        ((5,), "pairs[0]"),
        (5, "pairs[0]"),
    ],
)
def test_pairs_that_cannot_be_scored_are_refused(pair, where):
    engine = roomy(family("llama").ours)
    with pytest.raises(InputError) as caught:
        engine.score([pair])
    assert caught.value.where == where
    idle(engine)
    assert engine.score([]) == []


def test_lists_of_different_lengths_are_refused():
    f = family("llama")
    assert len(f.ours.score([[5], [6, 7]], [[8], [9, 4]])) == 2
    with pytest.raises(InputError, match="one prompt for each"):
        f.ours.score([[5]], [[8], [9]])


# -- memory ------------------------------------------------------------------------------------------------------------


def test_an_engine_says_how_much_memory_it_took_and_why(monkeypatch, caplog):
    import omniform.engine.memory as memory

    f = family("llama")
    token = sum(memory.decoder_bytes(f.ours).values())
    caplog.set_level("INFO", logger="omniform")
    monkeypatch.setattr(memory, "available", lambda device: 100 * 96 * token)
    use = Engine(f.ours, memory="auto").stats().memory
    assert use.budget == 50 * 96 * token and use.tokens == 50 * 96 and use.taken == use.budget and "50%" in use.why
    assert "memory of the engine" in caplog.text and "50%" in caplog.text
    monkeypatch.setattr(memory, "available", lambda device: 10**12)
    use = Engine(f.ours, memory="auto").stats().memory
    assert use.tokens == memory.MANY_ROWS * 96 and use.free == 10**12 and "more is free" in use.why
    assert Engine(f.ours, memory="1MB").stats().memory.why == "as asked"
    monkeypatch.setattr(memory, "available", lambda device: 3 * token)
    with pytest.raises(InputError, match="no room for a single block") as caught:
        Engine(f.ours, memory="auto")
    assert caught.value.where == "memory" and "free" in str(caught.value)


def test_memory_that_a_container_does_not_have_is_not_free(monkeypatch):
    import omniform.engine.memory as memory

    monkeypatch.setattr(memory, "group_memory", lambda: 12345)
    assert memory.available(torch.device("cpu")) == 12345


@pytest.mark.parametrize(
    ("limit", "now", "stat", "expected"),
    [
        ("1000", "700", "anon 300\ninactive_file 150\nactive_file 50\n", 500), ("1000", "1200", "anon 1200\n", 0),
        ("max", "700", "anon 1\n", 2**63), ("", "", "", 2**63), (None, None, None, 2**63),
    ],
)  # fmt: skip
def test_what_a_container_has_left(tmp_path, limit, now, stat, expected):
    import omniform.engine.memory as memory

    for name, text in (("max", limit), ("current", now), ("stat", stat)):
        if text is not None:
            (tmp_path / f"memory.{name}").write_text(text)
    assert memory.group_memory(str(tmp_path)) == expected
