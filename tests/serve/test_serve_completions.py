"""Texts written on over HTTP, asked by OpenAI's own client, beside the engine's own answers."""

from __future__ import annotations

import math

import openai
import pytest
from serving import serving

from checkpoints import text_checkpoint
from omniform.serve.config import ModelSource

PROMPT = "the cat"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    source = ModelSource(name="tiny", source=str(text_checkpoint(tmp_path_factory.mktemp("tiny"))))
    with serving(models=(source,)) as server:
        yield server


@pytest.fixture(scope="module")
def client(served):
    return served.client()


@pytest.fixture(scope="module")
def engine(served):
    return next(iter(served.desk.shelf.loaded())).writes()


def ask(client, **more):
    return client.completions.create(**{"model": "tiny", "prompt": PROMPT, "temperature": 0, "max_tokens": 8, **more})


def ids(engine, text):
    return engine.processor(text=text)["input_ids"]


def test_a_text_ids_and_several_of_each(client, engine):
    expected = engine.generate(PROMPT, do_sample=False, max_new_tokens=8)
    other = engine.generate("a dog", do_sample=False, max_new_tokens=8).text
    tokens = ids(engine, PROMPT)
    answer = ask(client)
    (choice,) = answer.choices
    assert choice.text == expected.text and choice.finish_reason == "length" and choice.logprobs is None
    assert answer.usage.prompt_tokens == len(tokens) and answer.usage.completion_tokens == 8
    assert ask(client, prompt=tokens).choices[0].text == expected.text
    for prompts in ([PROMPT, "a dog"], [tokens, ids(engine, "a dog")]):
        both = ask(client, prompt=prompts)
        assert [(one.index, one.text) for one in both.choices] == [(0, expected.text), (1, other)]
        assert both.usage.prompt_tokens == len(tokens) + len(ids(engine, "a dog"))


def test_several_answers_to_several_prompts(client, engine):
    drawn = ask(client, prompt=[PROMPT, "a dog"], n=3, best_of=3, temperature=1.5, seed=5)
    again = ask(client, prompt=[PROMPT, "a dog"], n=3, temperature=1.5, seed=5)
    texts = [one.text for one in drawn.choices]
    assert [one.index for one in drawn.choices] == list(range(6)) and texts == [one.text for one in again.choices]
    own = engine.generate(
        "a dog", do_sample=True, temperature=1.5, seed=5, top_k=0, num_return_sequences=3, max_new_tokens=8
    )
    assert texts[3:] == [one.text for one in own.sequences] and len(set(texts)) > 3
    assert len({one.text for one in ask(client, n=2).choices}) == 1


def test_logprobs_and_echo(client, engine):
    own = engine.generate(PROMPT, do_sample=False, max_new_tokens=8, logprobs=3, prompt_logprobs=3)
    (plain,), (echoed,) = (ask(client, logprobs=3, echo=echo).choices for echo in (False, True))
    assert echoed.text == PROMPT + plain.text
    assert plain.logprobs.token_logprobs == pytest.approx([one.logprob for one in own.logprobs], abs=1e-5)
    read = [None if one is None else one.logprob for one in own.prompt_logprobs]
    told = echoed.logprobs
    assert told.token_logprobs[0] is None and told.top_logprobs[0] is None
    assert told.token_logprobs[1:] == pytest.approx([*read[1:], *plain.logprobs.token_logprobs], abs=1e-5)
    assert "".join(told.tokens[: len(PROMPT)]) == PROMPT and told.text_offset[: len(PROMPT)] == list(range(len(PROMPT)))
    assert told.text_offset[len(PROMPT) :] == plain.logprobs.text_offset and plain.logprobs.text_offset[0] == 7
    likely = plain.logprobs
    for token, value, top in zip(likely.tokens, likely.token_logprobs, likely.top_logprobs, strict=True):
        assert top[token] == value == max(top.values()) and len(top) == 3
    (alone,) = ask(client, logprobs=0).choices
    assert all(len(top) == 1 for top in alone.logprobs.top_logprobs)


def test_a_prompt_alone_is_told_of(client, engine):
    answer = ask(client, max_tokens=0, echo=True, logprobs=1)
    (choice,) = answer.choices
    assert choice.text == PROMPT and choice.finish_reason == "length" and answer.usage.completion_tokens == 0
    (score,) = engine.score([(PROMPT[:1], PROMPT[1:])])
    assert math.fsum(choice.logprobs.token_logprobs[1:]) == pytest.approx(score.total, abs=1e-4)
    assert ask(client, max_tokens=0, echo=True).choices[0].text == PROMPT


@pytest.mark.parametrize("more", [{}, {"logprobs": 2}, {"echo": True}, {"echo": True, "logprobs": 2}], ids=str)
def test_a_stream_says_the_same(client, more):
    asked = {"prompt": [PROMPT, "a dog"], "n": 2, "seed": 3, "temperature": 1.2, **more}
    whole = ask(client, **asked)
    chunks = list(ask(client, **asked, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        mine = [one.choices[0] for one in chunks if one.choices and one.choices[0].index == choice.index]
        assert "".join(one.text for one in mine) == choice.text
        assert [one.finish_reason for one in mine if one.finish_reason] == [choice.finish_reason]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset") if "logprobs" in more else ():
            told = [value for one in mine if one.logprobs for value in getattr(one.logprobs, name)]
            expected = getattr(choice.logprobs, name)
            if name in ("tokens", "text_offset"):
                assert told == expected
            else:  # company in a batch moves the last digits
                for one, other in zip(told, expected, strict=True):
                    assert one == pytest.approx(other, abs=1e-4)
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices


def test_penalties_bias_and_stop(client, engine):
    free = ask(client, max_tokens=24).choices[0].text
    ruled = ask(client, max_tokens=24, frequency_penalty=2, presence_penalty=1.5).choices[0].text
    own = engine.generate(
        PROMPT, do_sample=False, max_new_tokens=24, frequency_penalty=2.0, presence_penalty=1.5, stop_strings=None
    )
    assert ruled == own.text != free
    first = engine.generate(PROMPT, do_sample=False, max_new_tokens=1).tokens[0]
    assert ask(client, logit_bias={str(first): -100}).choices[0].text[:1] != free[:1]
    end = next(letter for letter in free[2:] if letter.isascii() and letter not in free[:2])
    assert ask(client, max_tokens=24, stop=end).choices[0].text == free.split(end)[0]


WRONG = {
    "no such model": ({"model": "nope"}, 404, "model", "model_not_found"),
    "an empty text": ({"prompt": ""}, 400, "prompt", "invalid_value"),
    "an empty one among others": ({"prompt": ["a", ""]}, 400, "prompt.1", "invalid_value"),
    "no prompts": ({"prompt": []}, 400, "prompt", "invalid_value"),
    "a prompt of another kind": ({"prompt": {"a": 1}}, 400, "prompt", "invalid_value"),
    "a token that is none": ({"prompt": [5, 99999]}, 400, None, None),
    "a negative token": ({"prompt": [5, -3]}, 400, None, None),
    "a suffix": ({"suffix": "end"}, 400, "suffix", "unsupported_parameter"),
    "the best of more": ({"best_of": 4}, 400, "best_of", "unsupported_parameter"),
    "logprobs": ({"logprobs": 6}, 400, "logprobs", "invalid_value"),
    "a temperature": ({"temperature": 3}, 400, "temperature", "invalid_value"),
    "a penalty": ({"presence_penalty": 3}, 400, "presence_penalty", "invalid_value"),
    "too many": ({"n": 1000}, 400, "n", "too_many"),
    "too long": ({"prompt": "x" * 200}, 400, "input_ids", "context_length_exceeded"),
    "tokens to write": ({"max_tokens": -1}, 400, "max_tokens", "invalid_value"),
    "a bias": ({"logit_bias": {"cat": 1}}, 400, "logit_bias", "invalid_value"),
    "a bias outside": ({"logit_bias": {"123456": 1}}, 400, "sequence_bias", None),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_told(client, name, stream):
    changes, status, param, code = WRONG[name]
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, stream=stream, **changes)
    assert caught.value.status_code == status and caught.value.body["message"]
    assert caught.value.body["code"] == code and param in (None, caught.value.body["param"])
