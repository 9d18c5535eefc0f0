"""/v1/responses, asked by OpenAI's own client and read by its streaming helper, beside what chats say."""

from __future__ import annotations

import json

import openai
import pytest
from serving import serving

from checkpoints import TEXT, tokenizer
from omniform.serve.config import ModelSource
from omniform.serve.errors import APIError
from omniform.serve.kept_responses import Responses
from omniform.serve.response_wire import messages_of_items
from reference import saved_reference, transformers

TEMPLATE = """{%- if tools %}tools: {% for tool in tools %}{{ tool | tojson }}{% endfor %}
{% endif %}{% for m in messages %}<{{ m.role }}>{% if m.role == 'tool' %}<tool_response>{{ m.content }}</tool_response>
{%- elif m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}
{%- for call in m.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"],
          "additionalProperties": False}  # fmt: skip
TOOL = {"type": "function", "name": "weather", "parameters": SCHEMA}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    config = transformers.LlamaConfig(**{**TEXT, "max_position_embeddings": 4096})
    saved_reference(transformers.LlamaForCausalLM, config, folder)
    reader = tokenizer(chat=True)
    reader.chat_template = TEMPLATE
    reader.save_pretrained(folder)
    with serving(models=(ModelSource(name="tiny", source=str(folder)),)) as server:
        yield server


@pytest.fixture(scope="module")
def client(served):
    return served.client()


def ask(client, **more):
    return client.responses.create(**{"model": "tiny", "input": "hi", "temperature": 0, "max_output_tokens": 9, **more})


def chat(client, *messages, **more):
    asked = {"model": "tiny", "messages": [*messages], "temperature": 0, "max_tokens": 9, **more}
    return client.chat.completions.create(**asked)


def user(text):
    return {"role": "user", "content": text}


def test_a_text_items_and_instructions(client):
    told = ask(client)
    expected = chat(client, user("hi"))
    assert told.output_text == expected.choices[0].message.content and told.status == "incomplete"
    assert told.incomplete_details.reason == "max_output_tokens" and told.usage.output_tokens == 9
    assert told.usage.input_tokens == expected.usage.prompt_tokens and told.object == "response"
    parts = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]
    assert ask(client, input=parts).output_text == told.output_text
    assert ask(client, input=[user("hi")]).output_text == told.output_text
    ruled = ask(client, instructions="Be brief.").output_text
    assert ruled == chat(client, {"role": "system", "content": "Be brief."}, user("hi")).choices[0].message.content


def test_one_goes_on_from_another(client):
    first = ask(client, instructions="Be brief.")
    second = ask(client, input="and?", previous_response_id=first.id)
    said = {"role": "assistant", "content": first.output_text}
    expected = chat(client, user("hi"), said, user("and?"))
    assert second.output_text == expected.choices[0].message.content
    assert second.usage.input_tokens == expected.usage.prompt_tokens
    assert client.responses.retrieve(second.id).output_text == second.output_text
    items = client.responses.input_items.list(second.id).data
    assert [one.type for one in items] == ["message"] * 3
    client.responses.delete(first.id)
    for gone in (lambda: client.responses.retrieve(first.id), lambda: ask(client, previous_response_id=first.id),
                 lambda: client.responses.retrieve(ask(client, store=False).id)):  # fmt: skip
        with pytest.raises(openai.NotFoundError):
            gone()


def test_a_call_and_what_it_gave(client):
    asked = {"tools": [TOOL], "tool_choice": "required", "max_output_tokens": 300, "parallel_tool_calls": False}
    told = ask(client, **asked)
    (call,) = [one for one in told.output if one.type == "function_call"]
    assert call.name == "weather" and json.loads(call.arguments)["city"] in ("Oslo", "Rome") and call.call_id
    assert told.status == "completed"
    answer = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    after = ask(client, input=[answer], previous_response_id=told.id, tools=[TOOL], tool_choice="none")
    called = {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    messages = [user("hi"), {"role": "assistant", "content": "", "tool_calls": [called]},
                {"role": "tool", "tool_call_id": call.call_id, "content": "rain"}]  # fmt: skip
    assert after.output_text == chat(client, *messages).choices[0].message.content
    inline = ask(client, input=[user("hi"), call.model_dump(), answer])
    assert inline.output_text == after.output_text
    named = ask(client, **{**asked, "tool_choice": {"type": "function", "name": "weather"}})
    assert named.output[0].name == "weather"


def test_a_form(client):
    form = {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}
    told = ask(client, text={"format": form}, max_output_tokens=200)
    assert json.loads(told.output_text)["city"] in ("Oslo", "Rome") and told.text.format.type == "json_schema"


@pytest.mark.parametrize("calls", [False, True])
def test_events(client, calls):
    more = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False} if calls else {}
    asked = {"max_output_tokens": 300, "temperature": 1, "extra_body": {"seed": 2}, **more} if more else {}
    whole = ask(client, **asked)
    events = list(ask(client, **asked, stream=True))
    kinds = [one.type for one in events]
    assert [one.sequence_number for one in events] == list(range(len(events)))
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == f"response.{whole.status}"
    assert kinds[2] == "response.output_item.added" and kinds[-2] == "response.output_item.done"
    last = events[-1].response

    def shown(response):
        return [{**one.model_dump(), "id": None, "call_id": None} for one in response.output]

    assert shown(last) == shown(whole) and last.usage.output_tokens == whole.usage.output_tokens
    if more:
        arguments = "".join(one.delta for one in events if one.type == "response.function_call_arguments.delta")
        (done,) = [one for one in events if one.type == "response.function_call_arguments.done"]
        assert arguments == done.arguments == last.output[-1].arguments
    else:
        at = [kinds.index(f"response.{kind}") for kind in (
            "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
            "output_item.done",
        )]  # fmt: skip
        assert at == sorted(at)
        deltas = [one.delta for one in events if one.type == "response.output_text.delta"]
        assert "".join(deltas) == last.output_text and len(deltas) > 1
    with client.responses.stream(model="tiny", input="hi", **asked) as stream:  # which checks the events' order
        assert [one.type for one in stream][-1].startswith("response.")
        if calls:
            assert stream.get_final_response().output[-1].name == "weather"


def test_thoughts_said_and_called_are_one_message():
    items = [
        {"role": "user", "content": "a"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "c"},
    ]
    told = messages_of_items(items, "be")
    assert [one.role for one in told] == ["system", "user", "assistant", "tool"]
    mine = told[2]
    assert mine.content == "b" and mine.reasoning_content == "hm" and [c["id"] for c in mine.tool_calls] == ["1", "2"]


def test_what_is_kept_is_bounded_and_each_key_s_own():
    kept = Responses(most=3, most_bytes=400)
    for number in range(5):
        kept.keep("a", {"id": str(number)}, [])
    assert kept.get("a", "4").told == {"id": "4"}
    for key, ident in (("a", "1"), ("b", "4")):
        with pytest.raises(APIError):
            kept.get(key, ident)
    kept.keep("a", {"id": "big"}, [{"text": "x" * 365}])
    with pytest.raises(APIError):
        kept.get("a", "4")
    kept.keep("a", {"id": "huge"}, [{"text": "x" * 500}])
    assert kept.get("a", "big") and not kept._kept.get(("a", "huge"))
    kept.drop("a", "big")
    assert kept._bytes == 0


WRONG = {
    "no input": ({"input": []}, 400, "input", "invalid_value"),
    "an item": ({"input": [{"type": "web_search_call"}]}, 400, "input.0", "invalid_value"),
    "an item of nothing": ({"input": [{}]}, 400, "input.0", "invalid_value"),
    "a role": ({"input": [{"role": "king", "content": "a"}]}, 400, "input", "invalid_value"),
    "a part": ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, 400, "messages.0.content.0",
               "invalid_value"),
    "a call without a name": ({"input": [{"type": "function_call", "call_id": "1"}]}, 400, "input.0.name",
                              "missing_required_parameter"),
    "a response before": ({"previous_response_id": "resp_x"}, 404, "previous_response_id",
                          "previous_response_not_found"),
    "a tool": ({"tools": [{"type": "web_search"}]}, 400, "tools.0.type", "invalid_value"),
    "the background": ({"background": True}, 400, "background", "unsupported_parameter"),
    "a temperature": ({"temperature": 7}, 400, "temperature", "invalid_value"),
    "no such model": ({"model": "x"}, 404, "model", "model_not_found"),
    "too long": ({"input": "a" * 5000}, 400, "input_ids", "context_length_exceeded"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(client, name):
    changes, status, param, code = WRONG[name]
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, **changes)
    assert (caught.value.status_code, caught.value.body["param"], caught.value.body["code"]) == (status, param, code)
