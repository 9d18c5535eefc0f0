"""What readers write to: events, whitespace about markers left out, and calls that can still turn out to be none."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from omniform.inputs.replies.events import (
    CallArguments,
    CallBegun,
    CallBroken,
    CallEnded,
    Content,
    Event,
    Reasoning,
)
from omniform.inputs.replies.tape import NoCall, Step, Tape
from omniform.inputs.replies.tools import Schema

Emit = Callable[[Event], None]


class Flow:
    """Text of one kind. Whitespace beside a marker is layout and left out; any other is text.

    Args:
        make: makes an event of a text.
        emit: takes it.

    Attributes:
        space: whitespace that was read and may be layout.
        fresh: whether whitespace that comes next is layout.
        used: whether there was any text.
    """

    def __init__(self, make: Callable[[str], Event], emit: Emit) -> None:
        self._make = make
        self._emit = emit
        self.space = ""
        self.fresh = False
        self.used = False

    def add(self, text: str) -> None:
        """More text."""
        if self.fresh:
            text = text.lstrip()
            if not text:
                return
            self.fresh = False
        text = self.space + text
        core = text.rstrip()
        self.space = text[len(core) :]
        if core:
            self.used = True
            self._emit(self._make(core))

    def mark(self) -> None:
        """A marker stands here."""
        self.space, self.fresh = "", True

    def end(self) -> None:
        """No more comes."""
        if self.space:
            self._emit(self._make(self.space))
        self.space = ""


class Caller:
    """Calls as they are read.

    Args:
        writer: where they are read from and written to.
        tools: schemas of the arguments, by name.

    Attributes:
        known_only: whether a call of what is no tool is none: where no marker says that it is one.
        start: where on the tape the call that is being read begins.
        lead: whitespace before it.
        open: whether it was begun and not ended.
    """

    def __init__(self, writer: Writer, tools: Mapping[str, Schema], new_id: Callable[[], str]) -> None:
        self._writer = writer
        self._new_id = new_id
        self._index = 0
        self.tools = tools
        self.known_only = False
        self.start = 0
        self.lead = ""
        self.open = False

    def begin(self, name: str, id: str | None = None) -> None:
        """A call begins.

        Raises:
            NoCall: it calls nothing.
        """
        if not name or self.open or (self.known_only and name not in self.tools):
            raise NoCall
        self._writer.content.mark()
        self.open = True
        self._writer.emit(CallBegun(self._index, id or self._new_id(), name))

    def write(self, text: str) -> None:
        """More of its arguments."""
        if text:
            self._writer.emit(CallArguments(self._index, text))

    def end(self) -> None:
        """It is whole."""
        self._writer.emit(CallEnded(self._index))
        self._index += 1
        self.open = False
        self.start, self.lead = self._writer.tape.at, ""

    def take_back(self) -> bool:
        """It is none; whether that has to be told."""
        if not self.open:
            return False
        tape = self._writer.tape
        self._writer.emit(CallBroken(self._index, self.lead + tape.text[self.start : tape.at]))
        self._index += 1
        self.open = False
        self._writer.content.fresh = False
        return True


class Writer:
    """An answer on its way from text to events.

    Args:
        tools: schemas of the arguments, by name.
        new_id: makes names of calls.

    Attributes:
        tape: the text.
        events: what was made of it and not yet taken.
    """

    def __init__(self, tools: Mapping[str, Schema], new_id: Callable[[], str]) -> None:
        self.tape = Tape()
        self.events: list[Event] = []
        self.content = Flow(Content, self.emit)
        self.reasoning = Flow(Reasoning, self.emit)
        self.caller = Caller(self, tools, new_id)

    def emit(self, event: Event) -> None:
        """One more event."""
        self.events.append(event)

    def copy(self, flow: Flow, marks: tuple[str, ...]) -> Step[str]:
        """Let text through up to a marker, and read that; returns which it is, none at the end."""
        tape, pattern = self.tape, _pattern(marks)
        while True:
            found = pattern.search(tape.text, tape.at) if marks else None
            if found is not None:
                flow.add(tape.text[tape.at : found.start()])
                tape.at = found.start()
                tape.forget()
                tape.at = len(found[0])
                return found[0]
            end = len(tape.text) if tape.over else max(tape.at, len(tape.text) - held(tape.text, marks))
            flow.add(tape.text[tape.at : end])
            tape.at = end
            tape.forget()
            if tape.over:
                return ""
            yield

    def attempt(self, reading: Callable[[], Step[None]], opener: int) -> Step[None]:
        """Read calls; what turns out to be none becomes content, and is looked at again from behind its beginning.

        Args:
            reading: reads them. The tape stands behind their marker.
            opener: characters of that marker, which the tape begins with.
        """
        caller, tape = self.caller, self.tape
        caller.start, caller.lead = tape.at - opener, self.content.space
        first = caller.start
        try:
            yield from reading()
        except NoCall:
            if not caller.take_back():
                end = first + opener if caller.start == first else caller.start
                self.content.add(tape.text[caller.start : end])
                tape.at = end
        else:
            self.content.mark()


def held(text: str, marks: tuple[str, ...]) -> int:
    """How many characters at the end of a text may be the beginning of a marker."""
    longest = max(map(len, marks), default=0)
    for size in range(min(longest - 1, len(text)), 0, -1):
        end = text[-size:]
        if any(len(mark) > size and mark.startswith(end) for mark in marks):
            return size
    return 0


@lru_cache(64)
def _pattern(marks: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))))
