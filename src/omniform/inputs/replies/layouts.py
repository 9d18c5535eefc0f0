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
from omniform.inputs.replies.pythonic import called, python_group
from omniform.inputs.replies.tape import NoCall, Step, Tape
from omniform.inputs.replies.tools import ANYTHING, property_of, typed
from omniform.inputs.replies.writer import Caller

LONGEST_NAME: Final = 256
_NAMES: Final = ("name", "tool_name")
_ARGUMENTS: Final = ("arguments", "parameters")
_IDS: Final = ("id", "tool_call_id", "call_id")
_FENCE: Final = ("```json", "```")
_HEAD: Final = re.compile(r"[A-Za-z0-9_.\-]*")


class Layout(Protocol):
    """A way to write calls."""

    @property
    def openers(self) -> tuple[str, ...]: ...

    @property
    def others(self) -> tuple[str, ...]: ...

    @property
    def bare(self) -> str: ...

    def read(self, tape: Tape, caller: Caller, opener: str) -> Step[None]:
        """Read calls, from behind their opener to behind what closes them.

        Raises:
            NoCall: what comes is none.
        """
        ...


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """Calls as JSON objects with a name and arguments: one, several, or a list of them, between markers.

    Attributes:
        openers: begin them.
        closers: end them; a model that forgets them is understood.
        bare: ``{`` where an answer may be nothing but calls.
    """

    openers: tuple[str, ...] = ()
    closers: tuple[str, ...] = ()
    bare: str = ""

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
class MistralCalls:
    """Mistral's: ``[TOOL_CALLS][{"name": ..., "arguments": ...}]``, later ``[TOOL_CALLS]name[ARGS]{...}``.

    Attributes:
        named: whether the later way is the checkpoint's; both are read.
    """

    named: bool
    openers: tuple[str, ...] = ("[TOOL_CALLS]",)
    bare: str = ""

    @property
    def others(self) -> tuple[str, ...]:
        return ("[ARGS]", "[CALL_ID]") if self.named else ()

    def read(self, tape: Tape, caller: Caller, opener: str) -> Step[None]:
        yield from tape.spaces()
        if (yield from tape.peek()) in ("[", "{"):
            return (yield from JsonCalls().read(tape, caller, opener))
        name, id = (yield from _name(tape)), None
        mark = yield from tape.literal("[ARGS]", "[CALL_ID]")
        if mark == "[CALL_ID]":
            id, _ = yield from tape.until("[ARGS]", limit=LONGEST_NAME)
        yield from tape.spaces()
        yield from read_arguments(tape, caller, name, id)


def _name(tape: Tape) -> Step[str]:
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
class SectionCalls:
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
    bare: str = ""

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
class TagCalls:
    """A tag for the function and one for each argument, as Qwen3-Coder writes them.

    The values are bare text; the tool's schema says what they stand for.
    """

    openers: tuple[str, ...] = ("<tool_call>", "<function=")
    others: tuple[str, ...] = ("</tool_call>", "</function>", "<parameter=", "</parameter>")
    bare: str = ""

    def read(self, tape: Tape, caller: Caller, opener: str) -> Step[None]:
        wrapped = opener == "<tool_call>"
        if wrapped:
            yield from tape.spaces()
            yield from tape.expect("<function=")
        while True:
            yield from self._function(tape, caller)
            yield from tape.spaces()
            if not (wrapped and (yield from tape.literal("<function="))):
                break
        yield from tape.literal("</tool_call>")

    def _function(self, tape: Tape, caller: Caller) -> Step[None]:
        name, _ = yield from tape.until(">", limit=LONGEST_NAME)
        name = name.strip().strip("\"'")
        schema = caller.tools.get(name, ANYTHING)
        before = "{"
        while True:
            yield from tape.spaces()
            mark = yield from tape.literal("<parameter=", "</function>")
            if not mark:
                raise NoCall
            if not caller.open:
                caller.begin(name)
            if mark == "</function>":
                break
            key, _ = yield from tape.until(">", limit=LONGEST_NAME)
            key = key.strip().strip("\"'")
            text, _ = yield from tape.until("</parameter>")
            text = text.removeprefix("\n").removesuffix("\n")
            caller.write(f"{before}{_member(key, typed(text, property_of(schema, key), schema))}")
            before = ", "
        caller.write("}" if before == ", " else "{}")
        caller.end()


def _member(key: str, value: object) -> str:
    return f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"


@dataclass(frozen=True, slots=True)
class ArgCalls:
    """A name, then tags for the key and the value of each argument, as GLM 4.5 writes them."""

    openers: tuple[str, ...] = ("<tool_call>",)
    others: tuple[str, ...] = ("</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    bare: str = ""

    def read(self, tape: Tape, caller: Caller, opener: str) -> Step[None]:
        name, mark = yield from tape.until("<arg_key>", "</tool_call>", limit=LONGEST_NAME)
        name = name.strip()
        if not re.fullmatch(r"[\w.\-]+", name):
            raise NoCall
        schema = caller.tools.get(name, ANYTHING)
        caller.begin(name)
        before = "{"
        while mark == "<arg_key>":
            key, _ = yield from tape.until("</arg_key>", limit=LONGEST_NAME)
            yield from tape.spaces()
            yield from tape.expect("<arg_value>")
            text, _ = yield from tape.until("</arg_value>")
            key = key.strip()
            caller.write(f"{before}{_member(key, typed(text, property_of(schema, key), schema))}")
            before = ", "
            yield from tape.spaces()
            mark = yield from tape.literal("<arg_key>", "</tool_call>")
        caller.write("}" if before == ", " else "{}")
        caller.end()


@dataclass(frozen=True, slots=True)
class LlamaCalls:
    """Llama 3's: ``{"name": ..., "parameters": ...}``, nothing before it or ``<|python_tag|>``, several with ``;``.

    Behind that tag stands also ``name.call(argument="value")``, for the tools that the model was trained on, or a
    program in Python, which is content.
    """

    openers: tuple[str, ...] = ("<|python_tag|>",)
    others: tuple[str, ...] = ()
    bare: str = "{"

    def read(self, tape: Tape, caller: Caller, opener: str) -> Step[None]:
        yield from tape.spaces()
        if (yield from tape.peek()) == "{":
            return (yield from JsonCalls().read(tape, caller, opener))
        name = yield from _name(tape)
        tool, _, method = name.rpartition(".")
        if method != "call" or (yield from tape.peek()) != "(":
            raise NoCall
        text = yield from python_group(tape)
        for found, arguments in called(f"[{tool}{text}]", caller.tools):
            caller.begin(found)
            caller.write(arguments)
            caller.end()


@dataclass(frozen=True, slots=True)
class PythonCalls:
    """A list of calls in Python's own notation: ``[f(a=1), g(b="x")]``.

    Attributes:
        openers: begin it, where the checkpoint has markers; else an answer is nothing but calls.
    """

    openers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    bare: str = ""

    def read(self, tape: Tape, caller: Caller, opener: str) -> Step[None]:
        yield from tape.spaces()
        if (yield from tape.peek()) != "[":
            raise NoCall
        start = tape.at
        tape.at += 1
        yield from tape.spaces()
        name = yield from _name(tape)
        if (yield from tape.peek()) != "(" or (caller.known_only and name not in caller.tools):
            raise NoCall
        tape.at = start
        calls = called((yield from python_group(tape)), caller.tools)
        if caller.known_only and any(name not in caller.tools for name, _ in calls):
            raise NoCall
        for name, arguments in calls:
            caller.begin(name)
            caller.write(arguments)
            caller.end()
        yield from tape.spaces()
        yield from tape.literal(*self.others)
