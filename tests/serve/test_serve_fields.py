"""Every field that OpenAI's own client can send is served, named as one that is let be, or refused by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.audio import speech_create_params, transcription_create_params, translation_create_params
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat import (
    completion_create_params as chat_create_params,
)
from openai.types.responses import response_create_params
from pydantic import BaseModel
from serving import Served, serving

from checkpoints import TEXT, tokenizer
from omniform.serve.config import ModelSource
from omniform.serve.doors import audio
from omniform.serve.doors.embeddings import EmbeddingRequest
from omniform.serve.doors.speech import SpeechRequest
from omniform.serve.response_wire import ResponseRequest
from omniform.serve.wire import ChatRequest, CompletionRequest, Message, StreamOptions
from reference import saved_reference, transformers

CHAT = "/v1/chat/completions"
TEMPLATE = (
    "{% if reasoning_effort %}effort {{ reasoning_effort }} {% endif %}"
    "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}\n{% endfor %}"
)
BODY = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, "temperature": 0}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("tiny")
    config = transformers.LlamaConfig(**{**TEXT, "max_position_embeddings": 4096})
    saved_reference(transformers.LlamaForCausalLM, config, folder)
    reader = tokenizer(chat=True)
    reader.chat_template = TEMPLATE
    reader.save_pretrained(folder)
    with serving(models=(ModelSource(name="tiny", source=str(folder)),)) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return served.client()


@pytest.fixture(scope="module")
def raw(served: Served) -> Iterator[httpx.Client]:
    with served.raw() as client:
        yield client


WALKED = {
    "chat": (chat_create_params.CompletionCreateParamsNonStreaming, ChatRequest),
    "completions": (completion_create_params.CompletionCreateParamsNonStreaming, CompletionRequest),
    "responses": (response_create_params.ResponseCreateParamsNonStreaming, ResponseRequest),
    "embeddings": (embedding_create_params.EmbeddingCreateParams, EmbeddingRequest),
    "speech": (speech_create_params.SpeechCreateParams, SpeechRequest),
}


@pytest.mark.parametrize("name", WALKED)
def test_no_field_is_forgotten(name: str) -> None:
    params, kind = WALKED[name]
    known = {(field.alias or at) for at, field in kind.model_fields.items()}
    assert not set(params.__annotations__) - known - kind.INERT - set(kind.UNSERVED)
    assert not kind.INERT & set(kind.UNSERVED) and not (known - {"n"}) & set(kind.UNSERVED)


def test_no_field_of_a_form_is_forgotten() -> None:
    for params in (
        transcription_create_params.TranscriptionCreateParamsNonStreaming,
        translation_create_params.TranslationCreateParams,
    ):
        assert not set(params.__annotations__) - audio.KNOWN - audio.INERT - {"file"}


def test_no_field_of_a_message_is_forgotten() -> None:
    for params in (
        ChatCompletionAssistantMessageParam, ChatCompletionUserMessageParam, ChatCompletionToolMessageParam
    ):  # fmt: skip
        assert set(params.__annotations__) <= set(Message.model_fields)
    assert set(ChatCompletionStreamOptionsParam.__annotations__) <= set(StreamOptions.model_fields)


def test_what_is_let_be_is_named(raw: httpx.Client) -> None:
    for field in sorted(ChatRequest.INERT):
        answer = raw.post(CHAT, json={**BODY, field: "x"})
        assert answer.status_code == 200 and answer.headers["x-omniform-ignored"] == field
    assert "x-omniform-ignored" not in raw.post(CHAT, json={**BODY, "user": None}).headers


@pytest.mark.parametrize("door", [CHAT, "/v1/responses"])
def test_what_is_not_served_is_refused(door: str, raw: httpx.Client) -> None:
    kind, base = (ChatRequest, BODY) if door == CHAT else (ResponseRequest, {"input": "x", "max_output_tokens": 2})
    for field, unserved in kind.UNSERVED.items():
        answer = raw.post(door, json={**base, field: 2 if field == "n" else {"x": 1}})
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["param"] == field and error["code"] == "unsupported_parameter"
        for value in (None, *unserved.but):
            assert raw.post(door, json={**base, field: value}).status_code == 200


def test_how_hard_to_think_is_told_to_the_template(client: openai.OpenAI, raw: httpx.Client) -> None:
    plain = client.chat.completions.create(model="tiny", **BODY).usage.prompt_tokens
    told = client.chat.completions.create(model="tiny", **BODY, reasoning_effort="high").usage.prompt_tokens
    assert told > plain
    asked = {"input": "hello", "max_output_tokens": 2, "temperature": 0}
    answer = raw.post("/v1/responses", json={**asked, "reasoning": {"effort": "high", "summary": "auto"}})
    assert answer.json()["usage"]["input_tokens"] == told
    assert answer.headers["x-omniform-ignored"] == "reasoning.summary"


def test_how_likely_tokens_of_a_response_were(client: openai.OpenAI, raw: httpx.Client) -> None:
    asked = {"input": "hello", "max_output_tokens": 8, "temperature": 0}
    chat = client.chat.completions.create(
        model="tiny", messages=BODY["messages"], max_tokens=8, temperature=0, logprobs=True, top_logprobs=2
    )
    expected = [(one.token, one.logprob) for one in chat.choices[0].logprobs.content]
    include = ["message.output_text.logprobs"]
    whole = client.responses.create(model="tiny", **asked, include=include, top_logprobs=2)
    found = whole.output[0].content[0].logprobs
    assert [(one.token, one.logprob) for one in found] == expected[: len(found)] and len(found) >= len(expected) - 1
    assert all(len(one.top_logprobs) == 2 for one in found)
    events = list(client.responses.create(model="tiny", **asked, include=include, stream=True))
    deltas = [one for event in events if event.type == "response.output_text.delta" for one in event.logprobs]
    assert [(one.token, one.logprob) for one in deltas] == expected[: len(found)]
    assert raw.post("/v1/responses", json={**asked, "top_logprobs": 2}).json()["error"]["param"] == "top_logprobs"
    assert raw.post(CHAT, json={**BODY, "top_logprobs": 2}).json()["error"]["param"] == "top_logprobs"


def test_what_clients_send_back_is_read(client: openai.OpenAI) -> None:
    """A message as it was told, whole, with all its nulls; parts in every role; a refusal; a name."""
    said = client.chat.completions.create(model="tiny", **BODY).choices[0].message.model_dump()
    text = [{"type": "text", "text": "hi"}]
    talk = [
        {"role": "developer", "content": text}, {"role": "user", "content": text, "name": "anna"}, said,
        {"role": "system", "content": "x"}, {"role": "assistant", "content": None, "refusal": "I will not."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I will not."}]},
        {"role": "assistant", "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": text},
    ]  # fmt: skip
    answer = client.chat.completions.create(**{**BODY, "messages": talk}, model="tiny")
    assert answer.usage.prompt_tokens > 50
    with pytest.raises(openai.BadRequestError, match="function_call"):
        talk = [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]
        client.chat.completions.create(**{**BODY, "messages": talk}, model="tiny")


class Inner(BaseModel):
    name: str
    below: list[Inner]


def test_what_a_schema_does_not_name_is_not_written(client: openai.OpenAI) -> None:
    """Pydantic's schemas say nothing of other properties, LangChain and instructor send them as they are."""
    schema = Inner.model_json_schema()
    schema["$defs"]["Inner"]["properties"]["name"] = {"enum": ["a", "b"]}
    schema["$defs"]["Inner"]["properties"]["below"]["maxItems"] = 1
    form = {"type": "json_schema", "json_schema": {"name": "inner", "schema": schema}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"enum": [1, 2]}}}}}
    for seed in range(4):
        asked = {**BODY, "model": "tiny", "max_tokens": 600, "temperature": 1, "seed": seed}
        answer = client.chat.completions.create(**asked, response_format=form)
        if answer.choices[0].finish_reason == "stop":
            Inner.model_validate_json(answer.choices[0].message.content)
        assert '"b' not in answer.choices[0].message.content.replace('"below"', "").replace('"b"', "")
        answer = client.chat.completions.create(**asked, tools=[tool], tool_choice="required")
        for call in answer.choices[0].message.tool_calls:
            assert set(json.loads(call.function.arguments)) <= {"a"}


def tool(name: str) -> dict[str, object]:
    parameters = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
    return {"name": name, "parameters": parameters}


def test_some_tools_are_allowed(client: openai.OpenAI, raw: httpx.Client) -> None:
    tools = [{"type": "function", "function": tool(name)} for name in ("f", "g", "h")]

    def allowed(mode: str, *names: str) -> dict[str, object]:
        named = [{"type": "function", "function": {"name": name}} for name in names]
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}

    asked = {**BODY, "model": "tiny", "max_tokens": 400, "temperature": 1, "tools": tools}
    called = set()
    for seed in range(6):
        answer = client.chat.completions.create(**asked, seed=seed, tool_choice=allowed("required", "g", "h"))
        called |= {call.function.name for call in answer.choices[0].message.tool_calls}
    assert called == {"g", "h"}
    answer = client.chat.completions.create(**{**asked, "max_tokens": 2}, tool_choice=allowed("auto", "g"))
    one = client.chat.completions.create(**{**asked, "max_tokens": 2, "tools": tools[1:2]})
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens
    for choice in (allowed("required", "nothing"), allowed("required"), allowed("none", "g")):
        assert raw.post(CHAT, json={**asked, "tool_choice": choice}).json()["error"]["param"].startswith("tool_choice")
    flat = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "h"}]}
    response = client.responses.create(
        model="tiny", input="x", tools=[{"type": "function", **tool(n)} for n in "fgh"], tool_choice=flat,
        max_output_tokens=400,
    )  # fmt: skip
    assert {item.name for item in response.output} == {"h"}
