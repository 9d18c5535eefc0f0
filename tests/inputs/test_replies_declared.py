"""``parse_response``: by descriptions that come with tokenizers, the same as the reference; else by the template."""

# ruff: noqa: E501 (descriptions are written in long lines)

from __future__ import annotations

import pytest
from reply_cases import TOOLS, WAYS
from test_tokenizers_folders import llama, ours, reference

from omniform.core.errors import ConfigError, InputError
from reference import transformers

HERMES = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close": "</think>"},
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>", "close": "</tool_call>", "repeats": True, "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"\s*(?:<\|im_end\|>|<\|endoftext\|>)"},
    },
}  # fmt: skip
TAGS = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close": "</think>"},
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>",
            "close_pattern": r"</function>\s*</tool_call>", "repeats": True, "content": "xml-inline",
            "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>"},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {},
    },
}  # fmt: skip
LOOSE = {
    "defaults": {"role": "assistant", "tool_calls": []},
    "start_anchor": ["<|turn>model\n", "<tool_response|>"],
    "fields": {
        "tool_calls": {
            "open_pattern": r"<\|tool_call>call:(?P<name>\w+)", "close": "<tool_call|>", "repeats": True, "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "notes": {"open": "<n>", "close": "</n>", "repeats": True, "join": "; "},
        "facts": {"open": "<f>", "close": "</f>", "content": "kv-lines", "content_args": {"value_parser": {"name": "int"}}},
        "many": {
            "open": "<m>", "close": "</m>", "content": "json", "transform": {"n": "{name}", "a": "{args.x}"},
            "transform_each": True,
        },
        "content": {"close": ["<turn|>", "<eos>"]},
    },
}  # fmt: skip
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich", "days": 2}}\n</tool_call>'
TAG = (
    "<tool_call>\n<function=weather>\n<parameter=city>\n7\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
    "<parameter=exact>\ntrue\n</parameter>\n</function>\n</tool_call>"
)
CASES = [
    (HERMES, "Hello.<|im_end|>", ""),
    (HERMES, f"<think>\nhm\n</think>\n\nHello.\n{CALL}\n{CALL}<|im_end|>\n<|endoftext|>", "x<|im_start|>assistant\n"),
    (HERMES, "hm</think>Yes", "<|im_start|>user\n<think>a</think><|im_end|><|im_start|>assistant\n<think>\n"),
    (HERMES, "<think>hm", "no anchor"),
    (HERMES, "", ""),
    (TAGS, f"So.{TAG}\n{TAG}", ""),
    (TAGS, f"hm</think>{TAG}", "<|im_start|>assistant\n<think>"),
    (LOOSE, 'a<|tool_call>call:f{a:<|"|>x "y" {z:1}<|"|>,b:[1,{c:true}]}<tool_call|><turn|>', "<|turn>model\n"),
    (LOOSE, "<n>one</n> <n>two</n><f>a: 1\nb:2\n</f>b<eos>", ""),
    (LOOSE, '<m>[{"name": "p", "args": {"x": 1}}, {"name": "q", "args": {"x": 2}}]</m>', ""),
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory):
    folder = llama(tmp_path_factory.mktemp("replies") / "llama")
    return ours(folder), reference(folder)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["untyped", "typed"])
def test_declared_answers(tokenizers, case, tools) -> None:
    mine, theirs = tokenizers
    template, text, prefix = case
    expected = theirs.parse_response(text, template, prefix=prefix, tools=tools)
    assert mine.parse_response(text, template, prefix=prefix, tools=tools) == expected
    both = mine.parse_response([text, "x"], template, prefix=[prefix, ""], tools=tools)
    assert both == theirs.parse_response([text, "x"], template, prefix=[prefix, ""], tools=tools)
    assert len(expected) > 1 or not text


def test_without_a_description_the_chat_template_says(tokenizers) -> None:
    mine, _ = tokenizers
    mine.chat_template = WAYS["qwen3"]
    ids = mine("Hello there.", add_special_tokens=False)["input_ids"]
    try:
        plain = mine.parse_response(ids, prefix="")
        found = mine.parse_response(f"hm</think>\n\nSo.\n{CALL}", prefix="<think>\n")
    finally:
        mine.chat_template = None
    assert found == {
        "role": "assistant", "content": "So.", "reasoning_content": "hm",
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}}}],
    }  # fmt: skip
    assert plain == {"role": "assistant", "content": mine.decode(ids)}


WRONG = [3, {}, {"fields": {}}, {"version": 2, **HERMES}, {**HERMES, "start_anchor": ""}, {**HERMES, "word": 1},
         {**HERMES, "fields": {"a": {}, "b": {}}}, {**HERMES, "fields": {"a": {"open_pattern": "("}}},
         {**HERMES, "fields": {"a": {"wrong": 1}}}, {**HERMES, "fields": {"a": {"content": "yaml"}}}]  # fmt: skip


@pytest.mark.parametrize("template", WRONG, ids=range(len(WRONG)))
def test_what_describes_nothing_is_refused(tokenizers, template) -> None:
    mine, theirs = tokenizers
    with pytest.raises(Exception):  # noqa: B017 (whatever it is there)
        theirs.parse_response("x", template, prefix="")
    with pytest.raises((ConfigError, InputError)):
        mine.parse_response("x", template, prefix="")


def test_answers_that_are_not_as_described(tokenizers) -> None:
    mine, theirs = tokenizers
    for text, template in (("<tool_call>{broken</tool_call>", HERMES), ("x", {**HERMES, "fields": {
            "a": {"open": "<a>", "optional": False}}})):  # fmt: skip
        with pytest.raises(ValueError):
            theirs.parse_response(text, template, prefix="")
        with pytest.raises(InputError):
            mine.parse_response(text, template, prefix="")
    with pytest.raises(InputError):
        mine.parse_response(["a", "b"], HERMES, prefix=["x", "y", "z"])
    with pytest.raises(InputError):
        mine.parse_response("a", HERMES)
    assert transformers.__version__
