"""Calls whose arguments are no JSON: tags with bare text in them, and Python's notation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from omniform.inputs.replies.lark import Lark
from omniform.inputs.replies.layouts import LONGEST_NAME, Around, Written, name_of
from omniform.inputs.replies.pythonic import called, python_group
from omniform.inputs.replies.tape import NoCall, Step, Tape
from omniform.inputs.replies.tools import ANYTHING, Schema, json_text, kinds_of, property_of, typed
from omniform.inputs.replies.writer import Caller


@dataclass(frozen=True, slots=True)
class TagCalls(Written):
    """A tag for the function and one for each argument, as Qwen3-Coder writes them.

    The values are bare text; the tool's schema says what they stand for.
    """

    openers: tuple[str, ...] = ("<tool_call>", "<function=")
    others: tuple[str, ...] = ("</tool_call>", "</function>", "<parameter=", "</parameter>")
    around: Around = ("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>")

    def head(self, lark: Lark, name: str) -> str:
        return lark.text(f"<function={name}>\n")

    def arguments(self, lark: Lark, schema: Schema) -> str:
        parts = []
        for name, (one, needed) in _properties(schema).items():
            key, end = lark.text(f"<parameter={name}>\n"), "\n</parameter>\n"
            part = f"{key} {_bare_value(lark, one, end)}"
            parts.append(part if needed else f"({part})?")
        return " ".join(parts)

    def tail(self, lark: Lark) -> str:
        return lark.text("</function>")

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
    return f"{json_text(key)}: {json_text(value)}"


def _properties(schema: Schema) -> dict[str, tuple[Schema, bool]]:
    """The schema of each argument, and whether it must be there; those that must come first."""
    found, required = schema.get("properties"), schema.get("required")
    names = list(found) if isinstance(found, Mapping) else []
    needed = [name for name in names if isinstance(required, (list, tuple)) and name in required]
    order = [*needed, *(name for name in names if name not in needed)]
    return {name: ({**property_of(schema, name), **_shared(schema)}, name in needed) for name in order}


def _shared(schema: Schema) -> Schema:
    """What ``$ref`` points into."""
    return {name: schema[name] for name in ("$defs", "definitions") if name in schema}


def _bare_value(lark: Lark, schema: Schema, end: str) -> str:
    """A value as bare text, and what ends it."""
    known = schema.get("enum")
    if isinstance(known, (list, tuple)) and known:
        texts = [value if isinstance(value, str) else json_text(value) for value in known]
        return f"({' | '.join(map(lark.text, texts))}) {lark.text(end)}"
    kinds = kinds_of(schema)
    return lark.over(end) if not kinds or "string" in kinds else f"{lark.json(schema)} {lark.text(end)}"


@dataclass(frozen=True, slots=True)
class ArgCalls(Written):
    """A name, then tags for the key and the value of each argument, as GLM 4.5 writes them."""

    openers: tuple[str, ...] = ("<tool_call>",)
    others: tuple[str, ...] = ("</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    around: Around = ("<tool_call>", "\n<tool_call>", "")

    def head(self, lark: Lark, name: str) -> str:
        return lark.text(f"{name}\n")

    def arguments(self, lark: Lark, schema: Schema) -> str:
        parts = []
        for name, (one, needed) in _properties(schema).items():
            key = lark.text(f"<arg_key>{name}</arg_key>\n<arg_value>")
            part = f"{key} {_bare_value(lark, one, '</arg_value>')} {lark.text(chr(10))}"
            parts.append(part if needed else f"({part})?")
        return " ".join(parts)

    def tail(self, lark: Lark) -> str:
        return lark.text("</tool_call>")

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
class PythonCalls(Written):
    """A list of calls in Python's own notation: ``[f(a=1), g(b="x")]``.

    Attributes:
        openers: begin it, where the checkpoint has markers; else an answer is nothing but calls.
    """

    openers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    bare: str = ""

    @property
    def around(self) -> Around:
        opener, closer = "".join(self.openers[:1]), "".join(self.others[:1])
        return f"{opener}[", ", ", f"]{closer}"

    def head(self, lark: Lark, name: str) -> str:
        return lark.text(f"{name}(")

    def arguments(self, lark: Lark, schema: Schema) -> str:
        given = _properties(schema)
        parts = {name: f"{lark.text(f'{name}=')} {lark.json(one)}" for name, (one, _) in given.items()}
        optional = {name: f'(", " {part})?' for name, part in parts.items() if not given[name][1]}
        needed = [part for name, part in parts.items() if given[name][1]]
        if needed:
            return " ".join([' ", " '.join(needed), *optional.values()])
        names = list(parts)
        firsts = [" ".join([parts[n], *(optional[m] for m in names[i + 1 :])]) for i, n in enumerate(names)]
        return f"({' | '.join(firsts)})?" if firsts else ""

    def tail(self, lark: Lark) -> str:
        return lark.text(")")

    def read(self, tape: Tape, caller: Caller, opener: str) -> Step[None]:
        yield from tape.spaces()
        if (yield from tape.peek()) != "[":
            raise NoCall
        start = tape.at
        tape.at += 1
        yield from tape.spaces()
        name = yield from name_of(tape)
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
