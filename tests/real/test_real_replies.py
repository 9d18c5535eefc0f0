"""Published templates: their ways to call tools are known, and calls that clients send back come out of them."""

from __future__ import annotations

import json

import pytest
from real_files import tokenizer_folder

from omniform.inputs.replies.detect import format_of
from omniform.inputs.replies.messages import for_template
from omniform.inputs.replies.reader import Reader, read_reply
from reference import omniform

ARGUMENTS = {"city": "Zürich", "days": 2}
KNOWN = {"qwen3": "hermes", "qwen2_5": "hermes", "deepseek_v3": "deepseek", "mistral_nemo": "mistral"}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("content", [None, "", "I look."])
def test_calls_go_out_and_come_back(name: str, content: object) -> None:
    tokenizer = omniform.AutoTokenizer.from_pretrained(tokenizer_folder(name))
    template = tokenizer.get_chat_template()
    format = format_of(template, tokenizer.get_vocab())
    assert format.name == KNOWN[name] and format.calls is not None
    assert bool(format.reasoning) == (name == "qwen3")
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": json.dumps(ARGUMENTS)}}
    chat = [
        {"role": "user", "content": "How is it?"},
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "grey"},
    ]
    text = tokenizer.apply_chat_template(for_template(chat, template), tokenize=False)
    assert isinstance(text, str) and "grey" in text
    begin = text.index(format.calls.openers[0])
    (found,) = read_reply(format, text[begin:]).calls
    assert (found.name, json.loads(found.arguments)) == ("weather", ARGUMENTS)


def test_prompts_that_have_thought_already() -> None:
    tokenizer = omniform.AutoTokenizer.from_pretrained(tokenizer_folder("qwen3"))
    format = format_of(tokenizer.get_chat_template())
    chat = [{"role": "user", "content": "Does <think> think?"}]
    for options, text in (({}, "<think>\nhm\n</think>\n\nYes"), ({"enable_thinking": False}, "Yes")):
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **options)
        reader = Reader(format, str(prompt))
        events = [*reader.feed(text), *reader.end()]
        assert [event.text for event in events] == (["Yes"] if options else ["hm", "Yes"])
