"""Tools over HTTP: calls that a model is held to, told whole, streamed, and given back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from serving import Served, serving

from checkpoints import TEXT, tokenizer
from omniform.serve.config import ModelSource
from reference import saved_reference, transformers

# How Hermes' and Qwen's templates write tools, calls and what tools answer, in few words.
HERMES = """{%- if tools %}tools: {% for tool in tools %}{{ tool | tojson }}{% endfor %}
{% endif %}{% for m in messages %}<{{ m.role }}>{% if m.role == 'tool' %}<tool_response>{{ m.content }}</tool_response>
{%- else %}{{ m.content }}{% endif %}{% for call in m.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""


def tool(name: str, **properties: object) -> dict[str, object]:
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


CITIES = ["Zürich", "Oslo"]
TOOLS = [
    tool("weather", city={"enum": CITIES}, days={"type": "integer", "minimum": 0, "maximum": 9}),
    tool("traffic", city={"enum": CITIES}),
]
ASKED = {
    "model": "tiny", "messages": [{"role": "user", "content": "How is it?"}], "tools": TOOLS, "max_tokens": 400,
    "seed": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("tiny")
    config = transformers.LlamaConfig(**{**TEXT, "max_position_embeddings": 4096})
    saved_reference(transformers.LlamaForCausalLM, config, folder)
    reader = tokenizer(chat=True)
    reader.chat_template = HERMES
    reader.save_pretrained(folder)
    with serving(models=(ModelSource(name="tiny", source=str(folder)),)) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return served.client()


def checked(call: object) -> tuple[str, dict[str, object]]:
    name, arguments = call.function.name, json.loads(call.function.arguments)
    assert name in ("weather", "traffic") and arguments["city"] in CITIES
    assert set(arguments) == ({"city", "days"} if name == "weather" else {"city"})
    return name, arguments


def test_a_call_that_must_be_made(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASKED, tool_choice="required", parallel_tool_calls=False)
    (choice,) = answer.choices
    (call,) = choice.message.tool_calls
    checked(call)
    assert choice.finish_reason == "tool_calls" and choice.message.content is None and call.id


def test_the_function_that_is_named(client: openai.OpenAI) -> None:
    named = {"type": "function", "function": {"name": "traffic"}}
    for seed in range(3):
        answer = client.chat.completions.create(**{**ASKED, "seed": seed}, tool_choice=named)
        assert checked(answer.choices[0].message.tool_calls[0])[0] == "traffic"


def test_streamed_calls_are_the_same(client: openai.OpenAI) -> None:
    given = {**ASKED, "tool_choice": "required", "n": 2}
    whole = client.chat.completions.create(**given)
    names: dict[tuple[int, int], str] = {}
    arguments: dict[tuple[int, int], str] = {}
    ends = {}
    for chunk in client.chat.completions.create(**given, stream=True):
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or []:
                place = choice.index, call.index
                if call.function.name:
                    names[place] = call.function.name
                arguments[place] = arguments.get(place, "") + (call.function.arguments or "")
            ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    told = {
        (choice.index, place): (call.function.name, call.function.arguments)
        for choice in whole.choices
        for place, call in enumerate(choice.message.tool_calls)
    }
    assert told == {place: (names[place], arguments[place]) for place in names}
    assert ends == {0: "tool_calls", 1: "tool_calls"}


def test_what_a_tool_answered_is_read(client: openai.OpenAI, served: Served) -> None:
    call = client.chat.completions.create(**ASKED, tool_choice="required", parallel_tool_calls=False).choices[0].message
    (made,) = call.tool_calls
    talk = [
        *ASKED["messages"],
        call.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": made.id, "content": "7 degrees"},
    ]
    answer = client.chat.completions.create(**{**ASKED, "messages": talk}, tool_choice="none", temperature=0)
    assert not answer.choices[0].message.tool_calls
    loaded = next(iter(served.desk.shelf.loaded()))
    arguments = json.loads(made.function.arguments)
    function = {"name": made.function.name, "arguments": arguments}
    said = [
        talk[0],
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
        talk[2],
    ]
    expected = loaded.writes().generate(said, do_sample=False, max_new_tokens=400)
    assert answer.usage.prompt_tokens == expected.prompt_tokens
    assert answer.choices[0].message.content == expected.text


def test_what_cannot_be_called(client: openai.OpenAI) -> None:
    for changes in (
        {"tool_choice": {"type": "function", "function": {"name": "nothing"}}},
        {"tools": [], "tool_choice": "required"},
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**{**ASKED, **changes})
        assert "tool" in str(caught.value)
