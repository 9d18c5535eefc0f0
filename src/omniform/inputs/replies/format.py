"""How a checkpoint writes its answers: a value for each way.

:func:`~omniform.inputs.replies.detect.format_of` makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omniform.inputs.replies.grammar import Choice, Opening, reply_grammar
from omniform.inputs.replies.lark import SPACE, Lark
from omniform.inputs.replies.layouts import Layout
from omniform.inputs.replies.tape import Step
from omniform.inputs.replies.tools import Tool
from omniform.inputs.replies.writer import Writer


@dataclass(frozen=True, slots=True)
class ReplyFormat:
    """Reasoning between markers, then what is said, with calls between.

    Attributes:
        name: what it is called in messages.
        reasoning: texts that begin and end what is thought, in pairs.
        calls: how calls are written; None where the checkpoint knows none.
        silent: further markers, which say nothing and are left out.
    """

    name: str
    reasoning: tuple[tuple[str, str], ...] = ()
    calls: Layout | None = None
    silent: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        """What a reader has to see: those of these texts that are special tokens must not be left out of an answer."""
        calls = () if self.calls is None else (*self.calls.openers, *self.calls.others)
        return tuple(dict.fromkeys([*(mark for pair in self.reasoning for mark in pair), *calls, *self.silent]))

    def thinking(self, prompt_end: str) -> str:
        """The marker that ends the reasoning which a prompt ends in; none where it ends outside."""
        end = prompt_end.rstrip()
        return next((close for open, close in self.reasoning if end.endswith(open)), "")

    def opening(self, lark: Lark, prompt_end: str) -> Opening:
        """The reasoning that an answer may begin with."""
        close, end = self.thinking(prompt_end), prompt_end.rstrip()
        if close:
            return Opening(f"{lark.over(close)} {SPACE}", optional=False)
        if not self.reasoning or any(end.endswith(closing) for _, closing in self.reasoning):
            return Opening()
        open, close = self.reasoning[0]
        return Opening(f"{lark.span(open, close)} {SPACE}", unless=(open,))

    def said(self, lark: Lark, unless: Sequence[str]) -> str:
        """Text that is no call; see :meth:`Lark.over` for ``unless``."""
        calls = self.calls
        if calls is None or not calls.bare or calls.around[0].startswith(calls.openers or "\0"):
            return lark.without(() if calls is None else calls.openers, unless)
        return lark.unlike(calls.bare, unless)

    def grammar(
        self,
        tools: Sequence[Tool],
        choice: Choice = "auto",
        *,
        parallel: bool = True,
        prompt_end: str = "",
        special: Mapping[str, int] | None = None,
    ) -> str | None:
        """A grammar of the answers that a choice allows: :func:`~omniform.inputs.replies.grammar.reply_grammar`."""
        return reply_grammar(self, tools, choice, parallel=parallel, prompt_end=prompt_end, special=special)

    def answer(self, writer: Writer, prompt_end: str) -> Step[None]:
        """Read a whole answer."""
        close = self.thinking(prompt_end)
        if close:
            yield from self._think(writer, close)
        openers = () if self.calls is None else self.calls.openers
        marks = tuple(dict.fromkeys([*(open for open, _ in self.reasoning), *openers, *self.silent]))
        tape, fresh = writer.tape, True
        while True:
            if fresh and self.calls is not None and self.calls.bare and writer.caller.tools:
                yield from self._bare(writer)
            fresh = False
            mark = yield from writer.copy(writer.content, marks)
            if not mark:
                writer.content.end()
                return
            closing = dict(self.reasoning).get(mark)
            if closing is not None:
                yield from self._think(writer, closing)
                fresh = True
            elif mark in self.silent:
                writer.content.mark()
            else:
                layout = self.calls
                assert layout is not None, "only its openers were looked for"
                yield from writer.attempt(lambda: layout.read(tape, writer.caller, mark), len(mark))  # noqa: B023

    def _think(self, writer: Writer, close: str) -> Step[None]:
        writer.content.mark()
        writer.reasoning.mark()
        if (yield from writer.copy(writer.reasoning, (close,))):
            writer.reasoning.mark()
        else:
            writer.reasoning.end()

    def _bare(self, writer: Writer) -> Step[None]:
        """Read calls where nothing says that they are some but their form, and that they call known tools."""
        layout, tape, caller = self.calls, writer.tape, writer.caller
        assert layout is not None
        start = tape.at
        yield from tape.spaces()
        char = yield from tape.peek()
        tape.at = start
        if char and char in layout.bare:
            caller.known_only = True
            yield from writer.attempt(lambda: layout.read(tape, caller, ""), 0)
            caller.known_only = False


PLAIN = ReplyFormat("plain")
"""Nothing but what is said."""
