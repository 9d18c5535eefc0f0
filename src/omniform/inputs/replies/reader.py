"""The door: an answer in, events out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from secrets import token_hex

from omniform.core.errors import InputError, brief
from omniform.inputs.replies.events import Event, Reply, collected, joined
from omniform.inputs.replies.format import ReplyFormat
from omniform.inputs.replies.tools import Tool, parameters_by_name
from omniform.inputs.replies.writer import Writer


def new_id() -> str:
    """A name for a call that has none: nine letters and digits, which is what the strictest templates want."""
    return token_hex(5)[:9]


class Reader:
    """Splits an answer into what is thought, what is said and what is called, as it comes.

    What it gives depends on the text alone, not on how it is cut into pieces. No part of a marker is ever given as
    content, and nothing is lost: what looked like a call and was none comes back, verbatim.

    Args:
        format: how the checkpoint writes its answers.
        prompt_end: the end of the prompt, which may be the beginning of the answer: templates that have a model think
            open its reasoning themselves.
        tools: those that may be called. They say what arguments are that are written without a type; without any,
            nothing is a call that no marker says to be one.
        new_id: makes names for calls.
    """

    def __init__(
        self,
        format: ReplyFormat,
        prompt_end: str = "",
        tools: Sequence[Tool] | None = None,
        *,
        new_id: Callable[[], str] = new_id,
    ) -> None:
        self.format = format
        self._writer = Writer(parameters_by_name(tools), new_id)
        self._reading = format.answer(self._writer, prompt_end)
        self._done = False
        self._go_on()

    def feed(self, text: str) -> list[Event]:
        """More of the answer's text; returns what is new.

        Raises:
            InputError: it is no text, or the answer was ended.
        """
        if not isinstance(text, str) or self._writer.tape.over:
            raise InputError(
                "a reader takes text until it is ended", where="Reader.feed", expected="a str", found=brief(text)
            )
        self._writer.tape.add(text)
        self._go_on()
        return self._taken()

    def end(self) -> list[Event]:
        """The answer is over; returns what was held back."""
        self._writer.tape.over = True
        self._go_on()
        return self._taken()

    def _go_on(self) -> None:
        if not self._done:
            self._done = next(self._reading, self) is self

    def _taken(self) -> list[Event]:
        taken, self._writer.events = self._writer.events, []
        return joined(taken)


def read_reply(format: ReplyFormat, text: str, prompt_end: str = "", tools: Sequence[Tool] | None = None) -> Reply:
    """A whole answer; see :class:`Reader` for the arguments."""
    reader = Reader(format, prompt_end, tools)
    return collected([*reader.feed(text), *reader.end()])
