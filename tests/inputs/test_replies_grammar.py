"""Grammars of answers: what they let a model write are calls of the tools, and what templates write they allow."""

from __future__ import annotations

import json
import random
from functools import cache

import numpy as np
import pytest
from reply_cases import CALL_T, CALL_W, DS, JSON_W, LLAMA_T, LLAMA_W, TOOLS, WAYS, T, W, way
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from omniform.core.errors import InputError
from omniform.engine.guides import Guide, Matcher, grammar_of
from omniform.inputs.replies.reader import read_reply
from omniform.inputs.text.classes import PreTrainedTokenizerFast

JSON_T = json.dumps(T[1])
TAG_W = "<function=weather>\n<parameter=city>\nZürich\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>"
TAG_T = "<function=traffic>\n<parameter=city>\n</b>\n</parameter>\n</function>"
ARG_W = "<arg_key>city</arg_key>\n<arg_value>Zürich</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n"
ARG_T = "<arg_key>city</arg_key>\n<arg_value></b></arg_value>\n"
PY_W, PY_T = 'weather(city="Zürich", days=2)', 'traffic(city="</b>")'
# Each way's calls of both tools, as the published templates write them.
WRITTEN = {
    "hermes": f"<tool_call>\n{CALL_W}\n</tool_call>\n<tool_call>\n{CALL_T}\n</tool_call>",
    "qwen3": f"<tool_call>\n{CALL_W}\n</tool_call>\n<tool_call>\n{CALL_T}\n</tool_call>",
    "coder": f"<tool_call>\n{TAG_W}\n</tool_call>\n<tool_call>\n{TAG_T}\n</tool_call>",
    "glm": f"<tool_call>weather\n{ARG_W}</tool_call>\n<tool_call>traffic\n{ARG_T}</tool_call>",
    "llama": f"{LLAMA_W}; {LLAMA_T}",
    "llama_tag": f"{LLAMA_W}; {LLAMA_T}",
    "pythonic": f"[{PY_W}, {PY_T}]",
    "llama4": f"<|python_start|>[{PY_W}, {PY_T}]<|python_end|>",
    "lfm": f"<|tool_call_start|>[{PY_W}, {PY_T}]<|tool_call_end|>",
    "mistral": f"[TOOL_CALLS][{CALL_W}, {CALL_T}]",
    "magistral": f"[TOOL_CALLS]weather[ARGS]{JSON_W}[TOOL_CALLS]traffic[ARGS]{JSON_T}",
    "deepseek": f"{DS[0]}{DS[2]}function{DS[3]}weather\n```json\n{JSON_W}\n```{DS[4]}\n"
    f"{DS[2]}function{DS[3]}traffic\n```json\n{JSON_T}\n```{DS[4]}{DS[1]}",
    "deepseek31": f"{DS[0]}{DS[2]}weather{DS[3]}{JSON_W}{DS[4]}{DS[2]}traffic{DS[3]}{JSON_T}{DS[4]}{DS[1]}",
    "kimi": f"<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{JSON_W}"
    f"<|tool_call_end|><|tool_call_begin|>functions.traffic:1<|tool_call_argument_begin|>{JSON_T}"
    "<|tool_call_end|><|tool_calls_section_end|>",
    "harmony": f"<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{JSON_W}",
    "phi": f"<|tool_call|>[{CALL_W}, {CALL_T}]<|/tool_call|>",
    "granite": f"<|tool_call|>[{CALL_W}, {CALL_T}]",
    "command": f'<|START_ACTION|>[\n    {{"tool_call_id": "0", "tool_name": "weather", "parameters": {JSON_W}}},\n'
    f'    {{"tool_call_id": "1", "tool_name": "traffic", "parameters": {JSON_T}}}\n]<|END_ACTION|>',
    "command_r": f'Action: ```json\n[\n    {{"tool_name": "weather", "parameters": {JSON_W}}},\n'
    f'    {{"tool_name": "traffic", "parameters": {JSON_T}}}\n]```',
}
SMALL = [
    {
        "type": "function",
        "function": {
            "name": name,
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "enum": ["Zürich", 'a"b', "1"]},
                    "days": {"type": "integer", "minimum": 0, "maximum": 9},
                    "exact": {"type": "boolean"},
                },
                "required": required,
                "additionalProperties": False,
            },
        },
    }
    for name, required in (("weather", ["city"]), ("traffic", ["days"]), ("free", []))
]


@cache
def tokenizer(marks: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """One token for each byte; markers are special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>", *marks])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def special_ids(reader: PreTrainedTokenizerFast) -> dict[str, int]:
    return {token.content: index for index, token in reader.added_tokens_decoder.items() if token.special}


def begun(name: str, special: bool, tools: list[object], choice: object, **options: object):
    format = way(name)
    reader = tokenizer(tuple(m for m in format.markers if m != "Action:") if special else ())
    grammar = format.grammar(tools, choice, special=special_ids(reader), **options)
    assert grammar is not None
    return reader, grammar_of(Guide.lark(grammar), reader).matcher([reader.eos_token_id])


def fits(reader: PreTrainedTokenizerFast, matcher: Matcher, text: str) -> bool:
    row = [*reader(text, add_special_tokens=False)["input_ids"], reader.eos_token_id]
    found = all(matcher.accept(token) for token in row)
    matcher.rollback(len(matcher._row))
    return found


BOTH = pytest.mark.parametrize("special", [False, True], ids=["as text", "special"])


@BOTH
@pytest.mark.parametrize("name", WRITTEN)
def test_what_templates_write_is_allowed_and_nothing_else(name: str, special: bool) -> None:
    format, text = way(name), WRITTEN[name]
    reader, required = begun(name, special, TOOLS, "required")
    assert fits(reader, required, text)
    calls = [W] if name == "harmony" else [W, T]
    assert [(c.name, json.loads(c.arguments)) for c in read_reply(format, text, tools=TOOLS).calls] == calls
    for wrong in ("Hello.", text[:-3], text.replace("weather", "nobody"), f"{text} and"):
        assert not fits(reader, required, wrong), wrong
    reader, chosen = begun(name, special, TOOLS, {"type": "function", "function": {"name": "traffic"}})
    assert not fits(reader, chosen, text)
    reader, one = begun(name, special, TOOLS, "required", parallel=False)
    assert fits(reader, one, text) == (name == "harmony")
    for open, close in format.reasoning[:1]:
        assert fits(reader, required, f"{open}\nI think {{ about < it.\n{close}\n\n{text}")
        assert not fits(reader, required, f"{open}\nI think.{text[:-1]}")
        reader, inside = begun(name, special, TOOLS, "required", prompt_end=f"<x>{open}\n")
        assert fits(reader, inside, f"I think.{close}\n\n{text}")
        assert not fits(reader, inside, text)
        reader, after = begun(name, special, TOOLS, "required", prompt_end=f"{open}\n\n{close}\n\n")
        assert fits(reader, after, text)
        assert not fits(reader, after, f"{open}x{close}{text}")


@BOTH
@pytest.mark.parametrize("name", WRITTEN)
def test_where_the_model_chooses_its_calls_are_of_their_schemas(name: str, special: bool) -> None:
    format = way(name)
    reader, auto = begun(name, special, SMALL, "auto")
    said = "<|channel|>final<|message|>Hello <b> [1]." if name == "harmony" else "Hello <b> [1]."
    assert fits(reader, auto, said)
    good = _calls(format, reader, "weather", {"city": "Zürich"})
    assert fits(reader, auto, good), good
    if format.calls.openers and format.calls.around[0]:
        assert fits(reader, auto, f"I look. {good}")
        assert not fits(reader, auto, f"I look. {good.replace('Zürich', 'Bern')}")
    assert not fits(reader, auto, good.replace("Zürich", "Bern"))
    for open, close in format.reasoning[:1]:
        assert fits(reader, auto, f"{open}hm{close}\n\n{said}")
        assert fits(reader, auto, f"{open}hm{close}\n\n{good}")
        assert not fits(reader, auto, f"{open}hm{close}\n\n{good.replace('Zürich', 'Bern')}")


def _calls(format, reader: PreTrainedTokenizerFast, name: str, arguments: dict[str, object]) -> str:
    """A call as the grammar writes it, found by a walk through a grammar of it alone."""
    if format.name == "harmony":
        return WRITTEN["harmony"].replace(JSON_W, json.dumps(arguments, ensure_ascii=False))
    schema = {"type": "object", "properties": {k: {"enum": [v]} for k, v in arguments.items()},
              "required": list(arguments), "additionalProperties": False}  # fmt: skip
    tool = {"name": name, "parameters": schema}
    grammar = format.grammar([tool], "required", special=special_ids(reader), parallel=False, prompt_end=_done(format))
    return _walk(reader, grammar_of(Guide.lark(grammar), reader).matcher([reader.eos_token_id]), random.Random(1))


def _done(format) -> str:
    return format.reasoning[0][1] if format.reasoning else "<|start|>assistant"


def _walk(reader: PreTrainedTokenizerFast, matcher: Matcher, chance: random.Random) -> str:
    row: list[int] = []
    for _ in range(1500):
        seen = matcher.seen()
        bits = np.unpackbits(np.asarray(seen.words).view(np.uint8), bitorder="little")
        allowed = [int(token) for token in np.flatnonzero(bits)]
        if seen.may_end and (not allowed or chance.random() < 0.5):
            return reader.decode(row, skip_special_tokens=False)
        row.append(chance.choice(allowed))
        assert matcher.accept(row[-1])
    raise AssertionError(f"it does not end: {reader.decode(row)[-200:]}")


@BOTH
@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "harmony"])
def test_whatever_is_written_is_calls(name: str, special: bool) -> None:
    format, chance, seen = way(name), random.Random(name), set()
    for _ in range(6):
        reader, matcher = begun(name, special, SMALL, "required", prompt_end=_done(format))
        text = _walk(reader, matcher, chance)
        reply = read_reply(format, text, tools=SMALL)
        assert reply.calls and not reply.content and not reply.reasoning, text
        for call in reply.calls:
            value = json.loads(call.arguments)
            parameters = next(t["function"]["parameters"] for t in SMALL if t["function"]["name"] == call.name)
            assert set(parameters["required"]) <= set(value) <= {"city", "days", "exact"}, text
            assert value.get("city", "1") in ("Zürich", 'a"b', "1")
            assert type(value.get("days", 1)) is int and type(value.get("exact", True)) is bool
            seen.add(call.name)
    assert len(seen) > 1


def test_where_nothing_has_to_be_kept_to_there_is_no_grammar() -> None:
    assert way("hermes").grammar(TOOLS, "none") is None
    assert way("hermes").grammar(TOOLS, "auto") is None
    assert way("plain").grammar(SMALL, "auto") is None
    for format, tools, choice in (
        ("plain", TOOLS, "required"), ("hermes", [], "required"), ("hermes", TOOLS, "always"), ("hermes", TOOLS, 3),
        ("hermes", TOOLS, {"type": "function", "function": {"name": "nobody"}}), ("hermes", TOOLS, {}),
    ):  # fmt: skip
        with pytest.raises(InputError):
            way(format).grammar(tools, choice)
    assert set(WRITTEN) == set(WAYS) - {"plain"}
