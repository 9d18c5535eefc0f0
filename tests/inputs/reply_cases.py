"""Answers in the ways that published checkpoints write them, and what each consists of."""

# ruff: noqa: E501 (answers are written in long lines)

from __future__ import annotations

import json
from dataclasses import dataclass, field

from omniform.inputs.replies.detect import format_of
from omniform.inputs.replies.format import ReplyFormat

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "A tool.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "share": {"type": "number"},
                    "exact": {"type": "boolean"},
                    "where": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/place"}]},
                    "tags": {"type": ["array", "string"]},
                },
                "$defs": {"place": {"type": "object"}},
            },
        },
    }
    for name in ("weather", "traffic")
]

# What a template has to say for its way to be known, in few words.
WAYS = {
    "hermes": "{{ tools }} <tool_call>{{ call | tojson }}</tool_call>",
    "qwen3": "{{ tools }} <tool_call>{{ call | tojson }}</tool_call> <think> {{ reasoning_content }} </think>",
    "coder": "{{ tools }} <tool_call>\n<function={{ name }}>\n<parameter={{ key }}>\n</parameter></function></tool_call>",
    "glm": "{{ tools }} <think></think><tool_call>{{ name }}<arg_key>{{ k }}</arg_key><arg_value></arg_value></tool_call>",
    "llama": '{{ tools }} Answer as {"name": function, "parameters": {"argument": value}}.',
    "llama_tag": '{{ tools }} <|python_tag|>{{ name }}.call() {"name": "x", "parameters": {} }',
    "pythonic": "{{ tools }} write [function(argument=value, other=value), second(argument=value)]",
    "llama4": "{{ tools }} write <|python_start|>[function(argument=value)]<|python_end|>",
    "lfm": "{{ tools }} <|tool_call_start|>[f(a=1)]<|tool_call_end|>",
    "mistral": '{{ tools }} [TOOL_CALLS][{"name": {{ name }} }]',
    "magistral": "{{ tools }} [THINK]{{ t }}[/THINK] [TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}",
    "deepseek": "{{ tools }} <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ n }}\n```json\n</think>",
    "deepseek31": "{{ tools }} <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{{ n }}<｜tool▁sep｜>{{ a }} <think></think>",
    "kimi": "{{ tools }} <|tool_calls_section_begin|><|tool_call_begin|>{{ id }}<|tool_call_argument_begin|>",
    "harmony": "<|start|>assistant<|channel|>{{ channel }}<|message|>",
    "phi": "{{ tools }} <|tool_call|>{{ calls | tojson }}<|/tool_call|>",
    "granite": "{{ tools }} <think></think><response></response> <|tool_call|>{{ calls }}",
    "command": "{{ tools }} <|START_THINKING|>x<|END_THINKING|><|START_ACTION|>[]<|END_ACTION|><|START_RESPONSE|>",
    "command_r": "{{ tools }} Write Action: and a list of {'tool_name': name, 'parameters': {} }",
    "plain": "{{ messages }}",
}


def way(name: str) -> ReplyFormat:
    """The format of one of them."""
    return format_of(WAYS[name])


@dataclass(frozen=True)
class Case:
    """An answer, and what it consists of; calls as names and arguments."""

    way: str
    text: str
    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, object]] = field(default_factory=list)
    prompt_end: str = ""
    tools: bool = True


W = ("weather", {"city": "Zürich", "days": 2})
T = ("traffic", {"city": "</b>"})
JSON_W = json.dumps(W[1], ensure_ascii=False)
CALL_W = f'{{"name": "weather", "arguments": {JSON_W}}}'
CALL_T = '{"name": "traffic", "arguments": {"city": "</b>"}}'
LLAMA_W = CALL_W.replace("arguments", "parameters")
LLAMA_T = CALL_T.replace("arguments", "parameters")
DS = (
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
)

CASES = [
    # -- Hermes, Qwen --
    Case("hermes", " Just text, a < b and <tool> \n", " Just text, a < b and <tool> \n"),
    Case("hermes", f"<tool_call>\n{CALL_W}\n</tool_call>", calls=[W]),
    Case("hermes", f"Look.\n\n<tool_call>\n{CALL_W}\n</tool_call>\n<tool_call>{CALL_T}</tool_call>\nEnd",
         "Look.End", calls=[W, T]),
    Case("hermes", f"<tool_call>{CALL_W}", calls=[W]),
    Case("hermes", f"<tool_call>{CALL_W}\n{CALL_T}</tool_call>", calls=[W, T]),
    Case("hermes", f"<tool_call>[{CALL_W}, {CALL_T}]</tool_call>", calls=[W, T]),
    Case("hermes", '<tool_call>{"arguments": {"a": [1, {"b": null}]}, "name": "f"}</tool_call>',
         calls=[("f", {"a": [1, {"b": None}]})]),
    Case("hermes", '<tool_call>{"name": "f"}</tool_call>', calls=[("f", {})]),
    Case("hermes", '<tool_call>{"name": "f", "arguments": null}</tool_call>', calls=[("f", {})]),
    Case("hermes", r'<tool_call>{"name": "f", "arguments": "{\"a\": 1}"}</tool_call>', calls=[("f", {"a": 1})]),
    Case("hermes", '<tool_call>{"type": "function", "function": {"name": "f", "arguments": {"a": "\\u00fc"}}}'
         "</tool_call>", calls=[("f", {"a": "ü"})]),
    Case("hermes", '<tool_call>{"name": "f", "arguments": {"code": "a\nb\tc"}}</tool_call>',
         calls=[("f", {"code": "a\nb\tc"})]),
    Case("hermes", f"Write <tool_call> tags: <tool_call>{CALL_W}</tool_call>", "Write <tool_call> tags:", calls=[W]),
    Case("hermes", "<tool_call>{'name': 'f'}</tool_call> x", "<tool_call>{'name': 'f'}</tool_call> x"),
    Case("hermes", "a <tool_call>\n[1, 2]</tool_call>", "a <tool_call>\n[1, 2]</tool_call>"),
    Case("hermes", 'a  <tool_call>{"name": "f", "arguments": {"a": 01}}</tool_call>',
         'a  <tool_call>{"name": "f", "arguments": {"a": 01}}</tool_call>'),
    Case("hermes", 'a <tool_call>{"name": "f", "arguments": {"a": "never clo', 'a <tool_call>{"name": "f", "arguments": {"a": "never clo'),
    Case("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    Case("hermes", '<tool_call>{"name": 1}</tool_call>', '<tool_call>{"name": 1}</tool_call>'),
    Case("qwen3", "<think>\nHm, <tool_call>?\n</think>\n\nYes.\n", "Yes.\n", "Hm, <tool_call>?"),
    Case("qwen3", f"<think>\nHm.\n</think>\n\n<tool_call>\n{CALL_W}\n</tool_call>", "", "Hm.", [W]),
    Case("qwen3", "Hm.\n</think>\n\nYes.", "Yes.", "Hm.", prompt_end="<|im_start|>assistant\n<think>\n"),
    Case("qwen3", "Yes.", "Yes.", prompt_end="<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    Case("qwen3", "Yes.", "Yes.", prompt_end="<|im_start|>user\nwhat is <think>?<|im_end|>\n<|im_start|>assistant\n"),
    Case("qwen3", "<think>\n\n</think>\n\nYes.", "Yes."),
    Case("qwen3", "<think>cut o", "", "cut o"),
    # -- tags --
    Case("coder", "I look.\n<tool_call>\n<function=weather>\n<parameter=city>\nZürich\n</parameter>\n<parameter=days>\n2\n"
         "</parameter>\n</function>\n</tool_call>", "I look.", calls=[W]),
    Case("coder", "<function=weather>\n<parameter=exact>\nTrue\n</parameter>\n<parameter=where>\n{'a': [1]}\n</parameter>\n"
         "<parameter=share>\n0.5\n</parameter>\n<parameter=city>\n7\n</parameter>\n</function>",
         calls=[("weather", {"exact": True, "where": {"a": [1]}, "share": 0.5, "city": "7"})]),
    Case("coder", "<tool_call>\n<function=weather>\n<parameter=where>\nnull\n</parameter>\n<parameter=tags>\n[1]\n</parameter>\n"
         "<parameter=days>\nmany\n</parameter>\n<parameter=city>\nif a < b:\n\n    x()\n</parameter>\n</function>\n</tool_call>",
         calls=[("weather", {"where": None, "tags": [1], "days": "many", "city": "if a < b:\n\n    x()"})]),
    Case("coder", "<tool_call><function=now></function></tool_call>", calls=[("now", {})]),
    Case("coder", "<tool_call><function=f> words", "<tool_call><function=f> words"),
    Case("coder", "<tool_call><function=f><parameter=a>1", "<tool_call><function=f><parameter=a>1"),
    Case("glm", "<think>h</think>\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Zürich</arg_value>\n<arg_key>days</arg_key>\n"
         "<arg_value>2</arg_value>\n</tool_call>", "", "h", [W]),
    Case("glm", "<tool_call>now</tool_call>", calls=[("now", {})]),
    Case("glm", "<tool_call>weather of today</tool_call>", "<tool_call>weather of today</tool_call>"),
    # -- Llama --
    Case("llama", LLAMA_W, calls=[W]),
    Case("llama", f"\n{LLAMA_W}; {LLAMA_T}", calls=[W, T]),
    Case("llama", LLAMA_W, LLAMA_W, tools=False),
    Case("llama", '{"name": "nobody", "parameters": {}}', '{"name": "nobody", "parameters": {}}'),
    Case("llama", '{"a": 1} is JSON', '{"a": 1} is JSON'),
    Case("llama", f"So: {LLAMA_W}", f"So: {LLAMA_W}"),
    Case("llama", '{"type": "function", "name": "weather", "parameters": {"days": 2}}', calls=[("weather", {"days": 2})]),
    Case("llama_tag", f"<|python_tag|>{LLAMA_W}", calls=[W]),
    Case("llama_tag", f"<|python_tag|>{LLAMA_W}; {LLAMA_T}", calls=[W, T]),
    Case("llama_tag", '<|python_tag|>search.call(query="a \\"b\\" (c)")', calls=[("search", {"query": 'a "b" (c)'})]),
    Case("llama_tag", "<|python_tag|>import os\nprint(1)", "<|python_tag|>import os\nprint(1)"),
    Case("pythonic", '[weather(city="Zürich", days=2), traffic(city=\'</b>\')]', calls=[W, T]),
    Case("pythonic", "[weather(city=\"a]'\", where={'x': [1, -2.5, (True, None)]}, exact=false)]",
         calls=[("weather", {"city": "a]'", "where": {"x": [1, -2.5, [True, None]]}, "exact": False})]),
    Case("pythonic", '[weather("Zürich", days=2)]', calls=[W]),
    Case("pythonic", "[weather(city=open('x'))]", "[weather(city=open('x'))]"),
    Case("pythonic", "[1, 2] is a list", "[1, 2] is a list"),
    Case("pythonic", "[nobody(a=1)]", "[nobody(a=1)]"),
    Case("pythonic", "[weather(city=1), nobody(a=1)]", "[weather(city=1), nobody(a=1)]"),
    Case("pythonic", "[weather(**{'a': 1})]", "[weather(**{'a': 1})]"),
    Case("llama4", '<|python_start|>[weather(city="Zürich", days=2)]<|python_end|>', calls=[W]),
    Case("lfm", 'So: <|tool_call_start|>[weather(city="Zürich", days=2)]<|tool_call_end|>It is', "So:It is", calls=[W]),
    # -- Mistral --
    Case("mistral", f"[TOOL_CALLS] [{CALL_W}, {CALL_T}]", calls=[W, T]),
    Case("mistral", f"[TOOL_CALLS][{CALL_W}, nonsense", ", nonsense", calls=[W]),
    Case("mistral", "See [TOOL_CALLS] and [1]", "See [TOOL_CALLS] and [1]"),
    Case("magistral", f"[THINK]hm[/THINK]Well.[TOOL_CALLS]weather[ARGS]{JSON_W}[TOOL_CALLS]traffic[CALL_ID]abcdefghi[ARGS]"
         '{"city": "</b>"}', "Well.", "hm", [W, T]),
    Case("magistral", f"[TOOL_CALLS]weather{JSON_W}", calls=[W]),
    Case("magistral", "[TOOL_CALLS]weather[ARGS]soon", "[TOOL_CALLS]weather[ARGS]soon"),
    # -- DeepSeek, Kimi --
    Case("deepseek", f"Look{DS[0]}{DS[2]}function{DS[3]}weather\n```json\n{JSON_W}\n```{DS[4]}\n{DS[2]}function{DS[3]}traffic\n"
         f'```json\n{{"city": "</b>"}}\n```{DS[4]}{DS[1]}', "Look", calls=[W, T]),
    Case("deepseek31", f"{DS[0]}{DS[2]}weather{DS[3]}{JSON_W}{DS[4]}{DS[2]}traffic{DS[3]}{{\"city\": \"</b>\"}}{DS[4]}{DS[1]}",
         calls=[W, T]),
    Case("deepseek31", "hm</think>Yes", "Yes", "hm", prompt_end="<｜Assistant｜><think>"),
    Case("deepseek31", "Yes", "Yes", prompt_end="<｜Assistant｜></think>"),
    Case("deepseek31", f"{DS[0]} none", f"{DS[0]} none"),
    Case("kimi", f"<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{JSON_W}"
         "<|tool_call_end|><|tool_calls_section_end|>", calls=[W]),
    # -- harmony --
    Case("harmony", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
         "Yes.", "Hm.", prompt_end="<|end|><|start|>assistant"),
    Case("harmony", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
         f"<|constrain|>json<|message|>{JSON_W}<|call|>", "", "Hm.", [W], "<|start|>assistant"),
    Case("harmony", f" to=functions.weather<|channel|>commentary json<|message|>{JSON_W}<|call|>", calls=[W],
         prompt_end="<|start|>assistant"),
    Case("harmony", "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.weather<|channel|>commentary"
         f"<|message|>{JSON_W}", "I look.", "", [W], "<|start|>assistant"),
    Case("harmony", "Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.", "Yes.", "Hm.",
         prompt_end="<|start|>assistant<|channel|>analysis<|message|>"),
    Case("harmony", "<|channel|>analysis<|message|>A.<|end|><|start|>assistant<|channel|>analysis<|message|>B.<|end|>", "", "A.\nB."),
    Case("harmony", "<|channel|>commentary to=python<|message|>print(1)<|call|>", "print(1)"),
    Case("harmony", "no header at all", "no header at all"),
    Case("harmony", "<|channel|>final no message", "<|channel|>final no message"),
    # -- others --
    Case("phi", f"<|tool_call|>[{CALL_W}]<|/tool_call|>", calls=[W]),
    Case("granite", f"<think>hm</think><response>Well.</response><|tool_call|>[{CALL_W}]", "Well.", "hm", [W]),
    Case("command", '<|START_THINKING|>hm<|END_THINKING|><|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "weather", '
         f'"parameters": {JSON_W}}}\n]<|END_ACTION|>', "", "hm", [W]),
    Case("command", "<|START_RESPONSE|>Well.<|END_RESPONSE|>", "Well."),
    Case("command_r", f'Action: ```json\n[\n    {{"tool_name": "weather", "parameters": {JSON_W}}}\n]```', calls=[W]),
    Case("command_r", "Action: none.", "Action: none."),
    Case("plain", "<think>\nall of it\n</think> <tool_call>{}\n", "<think>\nall of it\n</think> <tool_call>{}\n"),
]  # fmt: skip
