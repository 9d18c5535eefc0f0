"""How calls of tools are written: a class for each way, with what reads it.

Each says which texts begin calls (``openers``), which characters may begin them at the start of an answer without any
(``bare``), and which other texts belong to it (``others``).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final, Protocol

from omniform.inputs.replies.json_text import json_value, string_value, value_text
from omniform.inputs.replies.lark import Lark
from omniform.inputs.replies.pythonic import called, python_group
from omniform.inputs.replies.tape import NoCall, Step, Tape
from omniform.inputs.replies.tools import Schema, json_text
from omniform.inputs.replies.writer import Caller

LONGEST_NAME: Final = 256
_NAMES: Final = ("name", "tool_name")
_ARGUMENTS: Final = ("arguments", "parameters")
_IDS: Final = ("id", "tool_call_id", "call_id")
_FENCE: Final = ("```json", "```")
_HEAD: Final = re.compile(r"[A-Za-z0-9_.\-]*")


Around = tuple[str, str | None, str]


class Layout(Protocol):
    """A way to write calls.

    For grammars: what stands around calls (before the first; between two, None where there is
    but one; behind the last), before and behind the
    arguments of one, the arguments, and text that is no call.
    """

    @property
    def openers(self) -> tuple[str, ...]: ...

    @property
    def others(self) -> tuple[str, ...]: ...

    @property
    def bare(self) -> str: ...

    @property
    def around(self) -> Around: ...

    def head(self, lark: Lark, name: str) -> str: ...

    def arguments(self, lark: Lark, schema: Schema) -> str: ...

    def tail(self, lark: Lark) -> str: ...

    def read(self, tape: Tape, caller: Caller, opener: str) -> Step[None]:
        """Read calls, from behind their opener to behind what closes them.

        Raises:
            NoCall: what comes is none.
        """
        ...


class Written:
    """What is the same for most ways."""

    __slots__ = ()
    bare: str = ""

    def arguments(self, lark: Lark, schema: Schema) -> str:
        return lark.json(schema)

    def tail(self, lark: Lark) -> str:
        return lark.text("}")


@dataclass(frozen=True, slots=True)
class JsonCalls(Written):
    """Calls as JSON objects with a name and arguments: one, several, or a list of them, between markers.

    Attributes:
        openers: begin them.
        closers: end them; a model that forgets them is understood.
        around: see :class:`Layout`.
        keys: what the name and the arguments stand under; before them a number, where there are three.
    """

    openers: tuple[str, ...] = ()
    closers: tuple[str, ...] = ()
    around: Around = ("", "", "")
    keys: tuple[str, ...] = ("name", "arguments")

    def head(self, lark: Lark, name: str) -> str:
        *number, first, second = self.keys
        written = f'"{first}": {json_text(name)}, "{second}": '
        if not number:
            return lark.text("{" + written)
        before = lark.text('{"' + number[0] + '": "')
        return f"{before} /[0-9]{{1,3}}/ {lark.text(chr(34) + ', ' + written)}"

    @property
    def others(self) -> tuple[str, ...]:
        return self.closers

    def read(self, tape: Tape, caller: Caller, opener: str) -> Step[None]:
        yield from tape.spaces()
        fence = yield from tape.literal(*_FENCE)
        yield from tape.spaces()
        listed = yield from tape.literal("[")
        while True:
            yield from tape.spaces()
            yield from read_object(tape, caller)
            yield from tape.spaces()
            if listed:
                if not (yield from tape.literal(",")):
                    yield from tape.expect("]")
                    break
            elif not (yield from tape.literal(";")) and (yield from tape.peek()) != "{":
                break
        yield from tape.spaces()
        if fence and (yield from tape.literal(_FENCE[1])):
            yield from tape.spaces()
        yield from tape.literal(*self.closers)


def read_object(tape: Tape, caller: Caller) -> Step[None]:
    """Read one call from a JSON object.

    Raises:
        NoCall: it is none, or has no name, or arguments that are no object.
    """
    yield from tape.expect("{")
    name, id, held, nested = "", None, None, False
    while True:
        yield from tape.spaces()
        key = yield from string_value(tape)
        yield from tape.spaces()
        yield from tape.expect(":")
        yield from tape.spaces()
        char = yield from tape.peek()
        if key == "function" and char == "{":
            yield from read_object(tape, caller)
            nested = True
        elif key in _NAMES or (key == "function" and not name):
            name = yield from string_value(tape)
        elif key in _IDS and char == '"':
            id = yield from string_value(tape)
        elif key in _ARGUMENTS and char == "{" and name and held is None:
            caller.begin(name, id)
            held = ""
            yield from json_value(tape, caller.write)
        elif key in _ARGUMENTS:
            if held is not None:
                raise NoCall
            held = _object_text((yield from value_text(tape)))
        else:
            yield from value_text(tape)
        yield from tape.spaces()
        if not (yield from tape.literal(",")):
            break
    yield from tape.expect("}")
    if nested:
        return
    if not caller.open:
        caller.begin(name, id)
        caller.write(held or "{}")
    caller.end()


def _object_text(text: str) -> str:
    """Arguments that are written as text, or as null, as an object's text."""
    value = json.loads(text)
    if isinstance(value, str):
        try:
            text, value = value, json.loads(value, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise NoCall from None
    if value is not None and not isinstance(value, dict):
        raise NoCall
    return "{}" if value is None else text


def _refuse(constant: str) -> object:
    raise ValueError(constant)


def read_arguments(tape: Tape, caller: Caller, name: str, id: str | None = None) -> Step[None]:
    """Read a call whose name came first and whose arguments are a JSON object.

    Raises:
        NoCall: they are none.
    """
    if (yield from tape.peek()) != "{":
        raise NoCall
    caller.begin(name, id)
    yield from json_value(tape, caller.write)
    caller.end()


@dataclass(frozen=True, slots=True)
class MistralCalls(Written):
    """Mistral's: ``[TOOL_CALLS][{"name": ..., "arguments": ...}]``, later ``[TOOL_CALLS]name[ARGS]{...}``.

    Attributes:
        named: whether the later way is the checkpoint's; both are read.
    """

    named: bool
    openers: tuple[str, ...] = ("[TOOL_CALLS]",)

    @property
    def around(self) -> Around:
        return (self.openers[0], self.openers[0], "") if self.named else (f"{self.openers[0]}[", ", ", "]")

    def head(self, lark: Lark, name: str) -> str:
        return lark.text(f"{name}[ARGS]" if self.named else f'{{"name": {json_text(name)}, "arguments": ')

    def tail(self, lark: Lark) -> str:
        return "" if self.named else lark.text("}")

    @property
    def others(self) -> tuple[str, ...]:
        return ("[ARGS]", "[CALL_ID]") if self.named else ()

    def read(self, tape: Tape, caller: Caller, opener: str) -> Step[None]:
        yield from tape.spaces()
        if (yield from tape.peek()) in ("[", "{"):
            return (yield from JsonCalls().read(tape, caller, opener))
        name, id = (yield from name_of(tape)), None
        mark = yield from tape.literal("[ARGS]", "[CALL_ID]")
        if mark == "[CALL_ID]":
            id, _ = yield from tape.until("[ARGS]", limit=LONGEST_NAME)
        yield from tape.spaces()
        yield from read_arguments(tape, caller, name, id)


def name_of(tape: Tape) -> Step[str]:
    """Read a function's name, as far as it goes."""
    while True:
        found = _HEAD.match(tape.text, tape.at)
        assert found is not None
        if len(found[0]) > LONGEST_NAME:
            raise NoCall
        if found.end() < len(tape.text) or tape.over:
            tape.at = found.end()
            return found[0]
        yield


@dataclass(frozen=True, slots=True)
class SectionCalls(Written):
    """A section of calls, each a head and arguments between markers of their own, as DeepSeek and Kimi write them.

    The head is the name; or a kind, and the name stands on a line before arguments in a fence of Markdown. A head of
    the kind ``functions.name:0`` is the call's id as well.

    Attributes:
        section: begins and ends the section.
        call: begins and ends a call.
        middle: ends the head.
        fenced: whether the longer way is the checkpoint's; both are read.
    """

    section: tuple[str, str]
    call: tuple[str, str]
    middle: str
    fenced: bool = False
    numbered: bool = False

    @property
    def around(self) -> Around:
        return self.section[0], "\n" if self.fenced else "", self.section[1]

    def head(self, lark: Lark, name: str) -> str:
        if self.fenced:
            return lark.text(f"{self.call[0]}function{self.middle}{name}\n```json\n")
        if self.numbered:
            return f"{lark.text(f'{self.call[0]}functions.{name}:')} /[0-9]{{1,3}}/ {lark.text(self.middle)}"
        return lark.text(f"{self.call[0]}{name}{self.middle}")

    def tail(self, lark: Lark) -> str:
        return lark.text(f"\n```{self.call[1]}" if self.fenced else self.call[1])

    @property
    def openers(self) -> tuple[str, ...]:
        return self.section[0], self.call[0]

    @property
    def others(self) -> tuple[str, ...]:
        return self.section[1], self.call[1], self.middle

    def read(self, tape: Tape, caller: Caller, opener: str) -> Step[None]:
        if opener == self.section[0]:
            yield from tape.spaces()
            yield from tape.expect(self.call[0])
        while True:
            head, _ = yield from tape.until(self.middle, limit=LONGEST_NAME)
            yield from tape.spaces()
            if (yield from tape.peek()) == "{":
                yield from read_arguments(tape, caller, *self._named(head.strip()))
            else:
                name, _ = yield from tape.until("\n", limit=LONGEST_NAME)
                yield from tape.spaces()
                fence = yield from tape.literal(*_FENCE)
                yield from tape.spaces()
                yield from read_arguments(tape, caller, name.strip())
                yield from tape.spaces()
                if fence:
                    yield from tape.literal(_FENCE[1])
            yield from tape.spaces()
            yield from tape.literal(self.call[1])
            yield from tape.spaces()
            if not (yield from tape.literal(self.call[0])):
                break
        yield from tape.literal(self.section[1])

    def _named(self, head: str) -> tuple[str, str | None]:
        found = re.fullmatch(r"functions\.(.+):\d+", head) if self.numbered else None
        return (head, None) if found is None else (found[1], head)


@dataclass(frozen=True, slots=True)
class LlamaCalls(Written):
    """Llama 3's: ``{"name": ..., "parameters": ...}``, nothing before it or ``<|python_tag|>``, several with ``;``.

    Behind that tag stands also ``name.call(argument="value")``, for the tools that the model was trained on, or a
    program in Python, which is content.
    """

    openers: tuple[str, ...] = ("<|python_tag|>",)
    others: tuple[str, ...] = ()
    bare: str = "{"
    around: Around = ("", "; ", "")

    def head(self, lark: Lark, name: str) -> str:
        return lark.text(f'{{"name": {json_text(name)}, "parameters": ')

    def read(self, tape: Tape, caller: Caller, opener: str) -> Step[None]:
        yield from tape.spaces()
        if (yield from tape.peek()) == "{":
            return (yield from JsonCalls().read(tape, caller, opener))
        name = yield from name_of(tape)
        tool, _, method = name.rpartition(".")
        if method != "call" or (yield from tape.peek()) != "(":
            raise NoCall
        text = yield from python_group(tape)
        for found, arguments in called(f"[{tool}{text}]", caller.tools):
            caller.begin(found)
            caller.write(arguments)
            caller.end()
