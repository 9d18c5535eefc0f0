"""Conversations with calls, as OpenAI's clients send them, through templates that want them otherwise."""

# ruff: noqa: E501 (templates are written in long lines)

from __future__ import annotations

import json

import pytest
from chat_families import LLAMA3, MISTRAL, QWEN3, TOOLS

from omniform.inputs.replies.detect import format_of
from omniform.inputs.replies.messages import for_template, habits_of
from omniform.inputs.replies.reader import read_reply
from omniform.inputs.text.chat import ChatOptions, read_conversations, render_chats

ARGUMENTS = {"city": "Zürich", "days": 2}
# As DeepSeek V3 has it: text is put behind text, and only what has no content has calls.
TEXT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' and m['content'] is none %}{% for t in m['tool_calls'] %}"
    "{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + t['type'] + '<｜tool▁sep｜>' + t['function']['name'] + '\\n```json\\n'"
    " + t['function']['arguments'] + '\\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>' }}{% endfor %}"
    "{% else %}{{ m['role'] + ':' + m['content'] }}{% endif %}\n{% endfor %}{{ tools }}"
)
ITEMS = (
    "{% for m in messages %}{{ m.content }}{% for t in m.tool_calls or [] %}<tool_call>\n<function={{ t.function.name }}>\n"
    "{% for k, v in t.function.arguments | items %}<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n"
    "</tool_call>{% endfor %}{% if m.role == 'tool' %}[{{ m.name }}]{% endif %}{% endfor %}{{ tools }}"
)


def chat(content: object = None, id: str = "call_0123456789abcdef") -> list[dict[str, object]]:
    call = {"id": id, "type": "function", "function": {"name": "weather", "arguments": json.dumps(ARGUMENTS)}}
    return [
        {"role": "user", "content": [{"type": "text", "text": "How"}, {"type": "text", "text": "is it?"}]},
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": id, "content": [{"type": "text", "text": "grey"}]},
    ]


def rendered(template: str, messages: list[dict[str, object]]) -> str:
    given = dict.fromkeys(("bos_token", "eos_token"), "")
    chats, _ = read_conversations(for_template(messages, template))
    return render_chats(template, chats, ChatOptions(variables=given))[0].text


@pytest.mark.parametrize("content", [None, "", "Let me look."])
@pytest.mark.parametrize(
    "template", [LLAMA3, QWEN3, MISTRAL, TEXT, ITEMS], ids=["llama", "qwen", "mistral", "text", "items"]
)
def test_calls_come_back_as_they_were_made(template: str, content: object) -> None:
    text = rendered(template, chat(content))
    assert "grey" in text and "How\nis it?" in text and "\\u00fc" not in text.replace('"Z\\u00fcrich"', "")
    format = format_of(template, ("<|python_tag|>",))
    assert format.calls is not None
    begin = {"llama": '{"name": "weather"'}.get(format.name, format.calls.openers[0])
    reply = read_reply(format, text[text.index(begin) :], tools=TOOLS)
    assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [("weather", ARGUMENTS)]
    if content and template in (QWEN3, ITEMS):
        assert str(content) in text


def test_what_templates_want_is_found() -> None:
    assert habits_of(MISTRAL).short and not habits_of(QWEN3).short
    assert not habits_of(TEXT).objects and not habits_of(TEXT).keeps
    assert habits_of(ITEMS).objects and habits_of(ITEMS).keeps
    assert habits_of("{{ messages }}{{ broken( }}") == habits_of("{% for m in messages %}{{ m.content }}{% endfor %}")


def test_ids_stay_each_others() -> None:
    made = for_template(chat("x"), MISTRAL)
    assert len(made[1]["tool_calls"][0]["id"]) == 9 and made[1]["tool_calls"][0]["id"] == made[2]["tool_call_id"]
    assert for_template(chat("x", "abcDEF123"), MISTRAL)[2]["tool_call_id"] == "abcDEF123"
    assert for_template(chat("x"), QWEN3)[2]["tool_call_id"] == "call_0123456789abcdef"
    assert for_template(chat("x"), QWEN3)[2]["name"] == "weather"


def test_other_messages_stay_as_they_are() -> None:
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "assistant", "content": "b", "reasoning_content": "r"},
        {"role": "assistant", "tool_calls": "none"},
        {"role": "assistant", "tool_calls": [3, {"function": {"name": "f", "arguments": "{broken"}}]},
        {"role": "tool", "content": None},
    ]
    before = json.dumps(messages)
    made = for_template(messages, QWEN3)
    assert json.dumps(messages) == before
    assert made[0] == {"role": "system", "content": "Be kind."}
    assert made[1:4] == messages[1:4] and made[5] == messages[5]
    assert made[4]["tool_calls"][1]["function"]["arguments"] == "{broken"
    assert for_template(messages, "developer")[0]["role"] == "developer"
