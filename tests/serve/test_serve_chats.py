"""Chats over HTTP, asked by OpenAI's own client, beside the engine's own answers."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from serving import Served, serving

SCENE = Path(__file__).parents[2] / "examples" / "pictures" / "scene.png"
PICTURE = "data:image/png;base64," + base64.b64encode(SCENE.read_bytes()).decode()


def asking(text: str) -> list[dict[str, object]]:
    image = {"type": "image_url", "image_url": {"url": PICTURE}}
    return [{"role": "user", "content": [image, {"type": "text", "text": text}]}]


DESCRIBE = asking("Describe the picture.")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return served.client()


@pytest.fixture(scope="module")
def expected(served: Served) -> str:
    """What the engine answers."""
    loaded = next(iter(served.desk.shelf.loaded()))
    content = [{"type": "image", "image": SCENE.read_bytes()}, {"type": "text", "text": "Describe the picture."}]
    return str(loaded.writes().generate([{"role": "user", "content": content}], do_sample=False).text)


def test_models(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["scenes"]
    assert client.models.retrieve("scenes").id == "scenes"


def test_an_answer(client: openai.OpenAI, expected: str) -> None:
    answer = client.chat.completions.create(
        model="scenes", messages=DESCRIBE, temperature=0, logprobs=True, top_logprobs=2
    )
    (choice,) = answer.choices
    assert choice.message.content == expected and choice.finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    told = choice.logprobs.content
    assert len(told) == answer.usage.completion_tokens
    assert expected.startswith("".join(bytes(one.bytes).decode() for one in told[:5]).lstrip())
    assert all(one.logprob == one.top_logprobs[0].logprob and len(one.top_logprobs) == 2 for one in told)


def test_a_stream(client: openai.OpenAI, expected: str) -> None:
    stream = client.chat.completions.create(
        model="scenes", messages=DESCRIBE, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == expected
    assert [one.choices[0].finish_reason for one in chunks if one.choices].count("stop") == 1
    assert chunks[-1].usage.completion_tokens > 5 and all(one.usage is None for one in chunks[:-1])
    assert len({one.id for one in chunks}) == 1


def test_a_connection_is_kept_after_a_stream(served: Served) -> None:
    """An answer that is whole is no client that went away."""
    body = {"model": "scenes", "messages": DESCRIBE, "stream": True, "max_tokens": 2, "temperature": 0}
    with served.raw() as raw:
        for _ in range(20):
            answer = raw.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n")
        connections = {id(one) for one in raw._transport._pool.connections}
    assert len(connections) == 1


def test_several_answers_and_a_seed(client: openai.OpenAI) -> None:
    asked = {"model": "scenes", "messages": DESCRIBE, "n": 3, "temperature": 1.5, "seed": 7, "max_tokens": 8}
    first, again = (client.chat.completions.create(**asked) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) > 1 and [choice.finish_reason for choice in first.choices] == ["length"] * 3


def test_stop(client: openai.OpenAI, expected: str) -> None:
    word = expected.split()[3]
    answer = client.chat.completions.create(model="scenes", messages=DESCRIBE, temperature=0, stop=[word])
    assert answer.choices[0].message.content == expected.split(word)[0]
    assert answer.choices[0].finish_reason == "stop"


def test_whoever_goes_away_gives_back_its_blocks(served: Served) -> None:
    engine = next(iter(served.desk.shelf.loaded())).writes()
    stream = served.client().chat.completions.create(
        model="scenes", messages=DESCRIBE, stream=True, max_tokens=200, temperature=2, logit_bias={"2": -100}
    )
    next(iter(stream))
    stream.close()
    until = time.monotonic() + 5
    while engine.stats().running or engine.stats().blocks_used:
        assert time.monotonic() < until, "what nobody reads is still written"
        time.sleep(0.02)


WRONG = {
    "no such model": ({"model": "nope"}, 404, "model"),
    "no messages": ({"messages": []}, 400, "messages"),
    "a temperature": ({"temperature": 5}, 400, "temperature"),
    "a type": ({"max_tokens": "many"}, 400, "max_tokens"),
    "no picture": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}
            ]
        },
        400,
        None,
    ),
    "an address": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}]}
            ]
        },
        400,
        None,
    ),
    "a file": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}]},
        400,
        None,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(name: str, client: openai.OpenAI) -> None:
    changes, status, param = WRONG[name]
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**{"model": "scenes", "messages": DESCRIBE, **changes})
    assert caught.value.status_code == status
    assert isinstance(caught.value.body, dict) and caught.value.body["message"]
    assert param is None or caught.value.body["param"] == param


def test_unknown_fields_are_named(served: Served) -> None:
    with served.raw() as raw:
        body = {"model": "scenes", "messages": DESCRIBE, "max_tokens": 1, "colour": "blue"}
        answer = raw.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200 and answer.headers["x-omniform-ignored"] == "colour"
