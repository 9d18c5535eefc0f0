"""gpt-oss's messages: https://cookbook.openai.com/articles/openai-harmony

An answer is messages, each ``<|start|>role<|channel|>name<|message|>text`` and an end; the first begins where the
prompt ends. The channel ``analysis`` is reasoning, ``to=functions.name`` makes the text a call's arguments, all else is
content.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from omniform.inputs.replies.format import ReplyFormat
from omniform.inputs.replies.grammar import Opening
from omniform.inputs.replies.json_text import json_value
from omniform.inputs.replies.lark import Lark
from omniform.inputs.replies.layouts import Around, Layout, Written
from omniform.inputs.replies.tape import NoCall, Step, Tape
from omniform.inputs.replies.writer import Caller, Flow, Writer

START: Final = "<|start|>"
CHANNEL: Final = "<|channel|>"
CONSTRAIN: Final = "<|constrain|>"
MESSAGE: Final = "<|message|>"
ENDS: Final = ("<|end|>", "<|call|>", "<|return|>")

_RECIPIENT: Final = re.compile(r"\bto=(\S+)")
_HEADER: Final = re.compile(
    r"<\|start\|>assistant((?:(?!<\|(?:start|message|end|call|return)\|>).)*)(<\|message\|>.*)?\Z", re.S
)
_LONGEST_HEADER: Final = 400


@dataclass(frozen=True, slots=True)
class HarmonyCalls(Written):
    """A call as a message; the turn ends with it, so there is one."""

    openers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    around: Around = ("", None, "")

    def head(self, lark: Lark, name: str) -> str:
        return lark.text(f"{CHANNEL}commentary to=functions.{name} {CONSTRAIN}json{MESSAGE}")

    def tail(self, lark: Lark) -> str:
        return ""

    def read(self, tape: Tape, caller: Caller, opener: str) -> Step[None]:
        """Read the text of one, whose header was read."""
        return _arguments(tape, caller, opener)


@dataclass(frozen=True, slots=True)
class HarmonyFormat(ReplyFormat):
    """Messages with channels."""

    name: str = "harmony"
    calls: Layout | None = HarmonyCalls()

    @property
    def markers(self) -> tuple[str, ...]:
        return (START, CHANNEL, CONSTRAIN, MESSAGE, *ENDS)

    def thinking(self, prompt_end: str) -> str:
        header, begun = _header(prompt_end)
        return ENDS[0] if begun and _channel(header) == "analysis" else ""

    def opening(self, lark: Lark, prompt_end: str) -> Opening:
        _, begun = _header(prompt_end)
        again = lark.text(f"{START}assistant")
        if begun:
            return Opening(f"{lark.over(ENDS[0])} {again}", optional=False)
        return Opening(f"{lark.text(f'{CHANNEL}analysis{MESSAGE}')} {lark.over(ENDS[0])} {again}")

    def said(self, lark: Lark, unless: Sequence[str]) -> str:
        return f"{lark.text(f'{CHANNEL}final{MESSAGE}')} {lark.without(ENDS)}"

    def answer(self, writer: Writer, prompt_end: str) -> Step[None]:
        tape = writer.tape
        header, begun = _header(prompt_end)
        if begun:
            yield from self._message(writer, header)
        elif (yield from _headed(tape)):
            yield from self._attempt(writer, header, 0)
        while True:
            mark = yield from writer.copy(writer.content, (START, CHANNEL, *ENDS))
            if not mark:
                writer.content.end()
                return
            if mark in ENDS:
                writer.content.mark()
                continue
            tape.at -= len(mark)
            yield from self._attempt(writer, "", len(mark))

    def _attempt(self, writer: Writer, header: str, marked: int) -> Step[None]:
        """Read a message from its header on; without its beginning, what follows is content."""
        tape = writer.tape
        start = tape.at
        try:
            more, mark = yield from tape.until(MESSAGE, *ENDS, limit=_LONGEST_HEADER)
            if mark != MESSAGE:
                raise NoCall
        except NoCall:
            tape.at = start + marked
            writer.content.add(tape.text[start : tape.at])
            return
        yield from self._message(writer, header + more)

    def _message(self, writer: Writer, header: str) -> Step[None]:
        recipient = _RECIPIENT.search(header)
        if recipient is not None:
            name = recipient[1].partition("<|")[0].removeprefix("functions.")
            yield from self._call(writer, header, name)
            return
        yield from self._text(writer, writer.reasoning if _channel(header) == "analysis" else writer.content)

    def _text(self, writer: Writer, flow: Flow) -> Step[None]:
        if flow.used:
            flow.space, flow.fresh = "", False
            flow.add("\n")  # messages of one kind stand on lines of their own
        if flow is writer.reasoning:
            writer.content.mark()
        if (yield from writer.copy(flow, ENDS)):
            flow.mark()
        else:
            flow.end()

    def _call(self, writer: Writer, header: str, name: str) -> Step[None]:
        tape, caller = writer.tape, writer.caller
        caller.start, caller.lead = tape.at, ""
        try:
            yield from HarmonyCalls().read(tape, caller, name)
        except NoCall:
            if not caller.take_back():
                tape.at = caller.start
                yield from self._text(writer, writer.content)


def _arguments(tape: Tape, caller: Caller, name: str) -> Step[None]:
    yield from tape.spaces()
    if (yield from tape.peek()) != "{":
        raise NoCall
    caller.begin(name)
    yield from json_value(tape, caller.write)
    yield from tape.spaces()
    if (yield from tape.peek()) and not (yield from tape.literal(*ENDS)):
        raise NoCall
    caller.end()


def _headed(tape: Tape) -> Step[bool]:
    """Whether an answer begins within a header: with what may follow a role."""
    start = tape.at
    yield from tape.spaces()
    found = yield from tape.literal("to=", CHANNEL)
    tape.at = start
    return bool(found)


def _header(prompt_end: str) -> tuple[str, bool]:
    """The header that a prompt ends in or behind, and whether it ends behind it."""
    at = prompt_end.rfind(f"{START}assistant")
    found = None if at < 0 else _HEADER.match(prompt_end, at)
    return ("", False) if found is None else (found[1], found[2] is not None)


def _channel(header: str) -> str:
    found = re.search(r"<\|channel\|>\s*(\w+)", header)
    return "" if found is None else found[1]
