"""Answers split into what is thought, said and called: the same however they are cut, and nothing lost."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter

import pytest
from reply_cases import CASES, TOOLS, WAYS, Case, way

from omniform.core.errors import InputError
from omniform.inputs.replies.events import CallBegun, CallBroken, CallEnded, Content, Event, collected, joined
from omniform.inputs.replies.format import ReplyFormat
from omniform.inputs.replies.reader import Reader

IDS = [f"{c.way}-{i}" for i, c in enumerate(CASES)]


def events_of(case: Case, pieces: list[str]) -> list[Event]:
    counter = iter(range(1000))
    tools = TOOLS if case.tools else None
    reader = Reader(way(case.way), case.prompt_end, tools, new_id=lambda: f"id{next(counter)}")
    return joined([*(event for piece in pieces for event in reader.feed(piece)), *reader.end()])


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_what_an_answer_consists_of(case: Case) -> None:
    reply = collected(events_of(case, [case.text]))
    assert (reply.content, reply.reasoning) == (case.content, case.reasoning)
    assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == case.calls


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_it_is_the_same_however_it_is_cut(case: Case) -> None:
    text, whole = case.text, events_of(case, [case.text])
    assert events_of(case, list(text)) == whole
    for cut in range(len(text) + 1):
        assert events_of(case, [text[:cut], text[cut:]]) == whole, cut


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_no_half_of_a_marker_is_shown(case: Case) -> None:
    """What is given of a beginning is what the whole begins with: nothing has to be taken back but broken calls."""
    whole = collected(events_of(case, [case.text]))
    for cut in range(len(case.text)):
        reader = Reader(way(case.way), case.prompt_end, TOOLS if case.tools else None)
        events = reader.feed(case.text[:cut])
        content = "".join(event.text for event in events if isinstance(event, Content))
        broken = any(isinstance(event, CallBroken) for event in events)
        assert broken or whole.content.startswith(content), (cut, content)


def test_every_way_has_a_case_with_a_call_and_one_without() -> None:
    called = {case.way for case in CASES if case.calls}
    assert called == set(WAYS) - {"plain"}
    assert {case.way for case in CASES if not case.calls} >= {
        "hermes",
        "coder",
        "llama",
        "pythonic",
        "harmony",
        "plain",
    }


def test_no_marker_begins_another() -> None:
    for name in WAYS:
        marks = way(name).markers
        assert not [(a, b) for a in marks for b in marks if a != b and b.startswith(a)], name


def test_arguments_come_as_they_are_written() -> None:
    reader = Reader(way("hermes"))
    assert [type(e) for e in reader.feed('<tool_call>{"name": "f", "arguments": {"a": "long')] != []
    assert [event.text for event in reader.feed(" text")] == [" text"]
    begun = reader.feed("")
    assert begun == []
    events = reader.feed('"}}')
    assert [event.text for event in events[:1]] == ['"}'] and isinstance(events[1], CallEnded)


def test_a_call_that_breaks_off_is_taken_back() -> None:
    reader = Reader(way("hermes"))
    events = reader.feed('Look. <tool_call>{"name": "f", "arguments": {"a": tr') + reader.end()
    assert isinstance(events[1], CallBegun)
    assert events[-2:] == [CallBroken(0, ' <tool_call>{"name": "f", "arguments": {"a": '), Content("tr")]
    assert collected(events).content == 'Look. <tool_call>{"name": "f", "arguments": {"a": tr'


def test_ids_are_the_models_where_it_says_them_first() -> None:
    case = Case("kimi", "<|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{}<|tool_call_end|>")
    assert collected(events_of(case, [case.text])).calls[0].id == "functions.weather:0"
    case = Case("magistral", "[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{}")
    assert collected(events_of(case, [case.text])).calls[0].id == "abcdefghi"
    ids = [event.id for event in Reader(way("mistral")).feed('[TOOL_CALLS][{"name": "f"}, {"name": "f"}]')
           if isinstance(event, CallBegun)]  # fmt: skip
    assert len(set(ids)) == 2 and all(re.fullmatch(r"[a-z0-9]{9}", id) for id in ids)


def test_what_is_no_text_is_refused() -> None:
    reader = Reader(way("hermes"))
    with pytest.raises(InputError):
        reader.feed(b"x")  # type: ignore[arg-type]
    reader.end()
    assert reader.end() == []
    with pytest.raises(InputError):
        reader.feed("x")


_WORDS = (
    *("a ", "\n", " ", '"', "{", "}", "[", "]", ",", ":", "(", ")", "=", "'", "\\", ";", "<", "|", ">", "1", "ü"),
    *("name", "arguments", "weather", "true", "```json", "```", "weather(", '"city": "'),
    '{"name": "weather", "arguments": {',
)


def _letters(text: str) -> Counter[str]:
    return Counter(re.sub(r"\s", "", text))


@pytest.mark.parametrize("name", WAYS)
def test_whatever_is_written_nothing_raises_and_nothing_is_lost(name: str) -> None:
    """Random texts of markers, halves of them, and parts of calls."""
    format, chance = way(name), random.Random(name)
    marks = [*format.markers, *(m[: len(m) // 2] for m in format.markers), *(m[len(m) // 2 :] for m in format.markers)]
    for _ in range(300):
        length = chance.randrange(25)
        text = "".join(chance.choice(marks if marks and chance.random() < 0.35 else _WORDS) for _ in range(length))
        case = Case(name, text)
        whole = events_of(case, [text])
        cuts = sorted(chance.randrange(len(text) + 1) for _ in range(4))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert events_of(case, pieces) == whole == events_of(case, list(text)), text
        reply = collected(whole)
        for call in reply.calls:
            assert isinstance(json.loads(call.arguments), dict)
        given = _letters(reply.content) + _letters(reply.reasoning)
        written = _letters(text)
        assert not given - written, "nothing is made up"
        if not reply.calls and name != "harmony":
            assert _are_markers(text, written - given, format), (text, written - given)


def _are_markers(text: str, missing: Counter[str], format: ReplyFormat) -> bool:
    """Whether what is missing is whole markers that say nothing themselves, and these alone."""
    marks = [*(mark for pair in format.reasoning for mark in pair), *format.silent]
    for counts in itertools.product(*(range(text.count(mark) + 1) for mark in marks)):
        if sum((_letters(mark * count) for mark, count in zip(marks, counts, strict=True)), Counter()) == missing:
            return True
    return False
