"""JSON as it is written, character by character: what is handed on is always the beginning of valid JSON (RFC 8259).

One thing is put right: a control character within a string, which models write for a line's end, is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final

from omniform.inputs.replies.tape import NoCall, Step, Tape

Out = Callable[[str], None]

_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]+')
_SCALAR: Final = re.compile(r"[-+.0-9A-Za-z]*")
_SCALARS: Final = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_HEX: Final = re.compile(r"[0-9a-fA-F]{4}")
_DEEPEST: Final = 100
_LONGEST_SCALAR: Final = 1000


def json_value(tape: Tape, out: Out) -> Step[None]:
    """Read a JSON value.

    Args:
        tape: stands at it.
        out: is given its text, piece by piece.

    Raises:
        NoCall: it is none, or is nested more than 100 deep.
    """
    closers: list[str] = []
    while True:
        # -- a value begins here --
        char = yield from tape.peek()
        if char in ("{", "["):
            tape.at += 1
            out(char)
            closers.append("}" if char == "{" else "]")
            if len(closers) > _DEEPEST:
                raise NoCall
            out((yield from tape.match(_SPACE)))
            if (yield from tape.peek()) != closers[-1]:
                if closers[-1] == "}":
                    yield from _key(tape, out)
                continue
        elif char == '"':
            yield from json_string(tape, out)
        else:
            yield from _scalar(tape, out)
        # -- a value has ended here, or a group is to be closed --
        while closers:
            out((yield from tape.match(_SPACE)))
            char = yield from tape.literal(closers[-1], ",")
            out(char)
            if not char:
                raise NoCall
            if char == ",":
                break
            closers.pop()
        if not closers:
            return
        out((yield from tape.match(_SPACE)))
        if closers[-1] == "}":
            yield from _key(tape, out)


def json_string(tape: Tape, out: Out) -> Step[None]:
    """Read a string, from quote to quote.

    Raises:
        NoCall: it is none.
    """
    yield from tape.expect('"')
    out('"')
    while True:
        char = yield from tape.peek()
        if not char:
            raise NoCall
        if char == '"':
            tape.at += 1
            out(char)
            return
        if char == "\\":
            yield from _escape(tape, out)
        elif char < " ":
            tape.at += 1
            out(json.dumps(char)[1:-1])
        else:
            found = _PLAIN.match(tape.text, tape.at)
            assert found is not None
            tape.at = found.end()
            out(found[0])


def string_value(tape: Tape) -> Step[str]:
    """The value of a string.

    Raises:
        NoCall: it is none.
    """
    parts: list[str] = []
    yield from json_string(tape, parts.append)
    return str(json.loads("".join(parts)))


def value_text(tape: Tape) -> Step[str]:
    """The text of a JSON value.

    Raises:
        NoCall: it is none.
    """
    parts: list[str] = []
    yield from json_value(tape, parts.append)
    return "".join(parts)


def _key(tape: Tape, out: Out) -> Step[None]:
    yield from json_string(tape, out)
    out((yield from tape.match(_SPACE)))
    yield from tape.expect(":")
    out(":")
    out((yield from tape.match(_SPACE)))


def _escape(tape: Tape, out: Out) -> Step[None]:
    tape.at += 1
    char = yield from tape.peek()
    if not char or char not in '"\\/bfnrtu':
        raise NoCall
    tape.at += 1
    if char != "u":
        out(f"\\{char}")
        return
    while len(tape.text) < tape.at + 4 and not tape.over:
        yield
    found = _HEX.match(tape.text, tape.at)
    if found is None:
        raise NoCall
    tape.at = found.end()
    out(f"\\u{found[0]}")


def _scalar(tape: Tape, out: Out) -> Step[None]:
    while True:
        found = _SCALAR.match(tape.text, tape.at)
        assert found is not None
        if len(found[0]) > _LONGEST_SCALAR:
            raise NoCall
        if found.end() < len(tape.text) or tape.over:
            break
        yield
    if _SCALARS.fullmatch(found[0]) is None:
        raise NoCall
    tape.at = found.end()
    out(found[0])
