"""What a person sees of a conversation: answers as they come, plain or as Markdown, and dim lines between them."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TextIO

from omniform.core.errors import OmniformError

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.live import Live

OPEN: Final = "<think>"
CLOSE: Final = "</think>"

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """A text without the characters that would command the terminal, or turn its lines around."""
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


class Thoughts:
    """Parts an answer into what the model thinks (``<think>...</think>``) and what it says.

    Args:
        thinking: whether it begins within a thought.
    """

    def __init__(self, *, thinking: bool = False) -> None:
        self._thinking = thinking
        self._held = ""

    def push(self, text: str) -> Iterator[tuple[bool, str]]:
        """Pairs of whether it is thought, and the text; what may be the beginning of a tag is held back."""
        self._held += text
        while True:
            tag = CLOSE if self._thinking else OPEN
            before, found, after = self._held.partition(tag)
            if not found:
                break
            if before:
                yield self._thinking, before
            self._thinking, self._held = not self._thinking, after
        size = next((n for n in range(len(tag) - 1, 0, -1) if self._held.endswith(tag[:n])), 0)
        shown, self._held = self._held[: len(self._held) - size], self._held[len(self._held) - size :]
        if shown:
            yield self._thinking, shown

    def rest(self) -> Iterator[tuple[bool, str]]:
        """What was held back."""
        if self._held:
            yield self._thinking, self._held
        self._held = ""


class Shown(Protocol):
    """An answer on its way to the screen."""

    def push(self, text: str) -> None:
        """More of it."""
        ...

    def close(self) -> None:
        """It is over; the next line begins at the left."""
        ...


class Screen(Protocol):
    """Where a conversation is shown."""

    def answer(self, *, thinking: bool) -> Shown:
        """Begin to show an answer; ``thinking``: it begins within a thought."""
        ...

    def note(self, text: str) -> None:
        """A remark of the program's own."""
        ...

    def stats(self, lines: Sequence[str]) -> None:
        """What an answer took, and how it ended."""
        ...

    def tell(self, text: str) -> None:
        """What was asked for by a command."""
        ...

    def error(self, error: OmniformError) -> None:
        """A mistake, in one line."""
        ...


def one_line(error: OmniformError) -> str:
    """An error as the command line tells it."""
    return "omniform: error: " + " ".join(str(error).split())


class Pipe:
    """Nobody looks on: answers to standard output as they are, a line's end after each; all else to standard error."""

    def answer(self, *, thinking: bool) -> Shown:
        return _Plain(sys.stdout)

    def note(self, text: str) -> None:
        print(f"omniform: {text}", file=sys.stderr, flush=True)

    def stats(self, lines: Sequence[str]) -> None:
        """Not told."""

    def tell(self, text: str) -> None:
        print(text, flush=True)

    def error(self, error: OmniformError) -> None:
        print(one_line(error), file=sys.stderr, flush=True)


class _Plain:
    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._begun = False

    def push(self, text: str) -> None:
        # Most tokenizers begin an answer with the space that parts it from the prompt.
        text = text if self._begun else text.lstrip()
        self._begun = self._begun or bool(text)
        print(text, end="", file=self._file, flush=True)

    def close(self) -> None:
        print(file=self._file, flush=True)


class Terminal:
    """A terminal, without Markdown.

    Args:
        colours: whether it knows how to dim.
    """

    def __init__(self, *, colours: bool) -> None:
        self._dim, self._plain = ("\x1b[2m", "\x1b[0m") if colours else ("", "")

    def answer(self, *, thinking: bool) -> Shown:
        return _Dimming(self, thinking)

    def note(self, text: str) -> None:
        print(f"{self._dim}{visible(text)}{self._plain}", flush=True)

    def stats(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.note(line)
        print(flush=True)

    def tell(self, text: str) -> None:
        print(visible(text), flush=True)

    def error(self, error: OmniformError) -> None:
        print(visible(one_line(error)), flush=True)

    def dimmed(self, text: str) -> str:
        """A text that stands back."""
        return f"{self._dim}{text}{self._plain}" if text else ""


class _Dimming:
    """Plain text with thoughts dimmed."""

    def __init__(self, screen: Terminal, thinking: bool) -> None:
        self._screen = screen
        self._thoughts = Thoughts(thinking=thinking)
        self._begun = False
        self._plain = _Plain(sys.stdout)

    def push(self, text: str) -> None:
        self._show(self._thoughts.push(text))

    def close(self) -> None:
        self._show(self._thoughts.rest())
        self._plain.close()

    def _show(self, parts: Iterator[tuple[bool, str]]) -> None:
        for thinking, text in parts:
            clean = visible(text) if self._begun else visible(text).lstrip()
            self._begun = self._begun or bool(clean)
            self._plain.push(self._screen.dimmed(clean) if thinking else clean)


class MarkdownTerminal(Terminal):
    """A terminal that shows answers as Markdown (the ``rich`` package).

    Raises:
        ImportError: the package is not installed.
    """

    def __init__(self) -> None:
        from rich.console import Console

        super().__init__(colours=True)
        self.console = Console(highlight=False)

    def answer(self, *, thinking: bool) -> Shown:
        return _Markdown(self.console, thinking)


class _Tail:
    """The last lines of something, as many as the screen has room for."""

    def __init__(self, whole: RenderableType) -> None:
        self._whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        lines = console.render_lines(self._whole, options, pad=False)
        for line in lines[-max(1, console.height - 2) :]:
            # What stands in the last column would be broken into two lines where the screen becomes narrower.
            while line and not line[-1].text.strip() and not line[-1].control:
                line.pop()
            yield from line
            yield Segment.line()


class _Markdown:
    """Shows an answer block by block: the one that is being written is drawn again as it grows, and then left alone.

    What scrolled off the screen cannot be drawn again, so no more than a screenful ever is.
    """

    def __init__(self, console: Console, thinking: bool) -> None:
        self._console = console
        self._thoughts = Thoughts(thinking=thinking)
        self._live: Live | None = None
        self._thinking = thinking
        self._text = ""
        self._parted = True  # nothing stands above that an empty line would part from
        self._next = 0.0

    def push(self, text: str) -> None:
        self._take(self._thoughts.push(text))
        self._draw()

    def close(self) -> None:
        self._take(self._thoughts.rest())
        self._leave(self._text)
        self._text = ""

    def _take(self, parts: Iterator[tuple[bool, str]]) -> None:
        for thinking, text in parts:
            if thinking != self._thinking:
                self._leave(self._text)
                self._thinking, self._text = thinking, ""
            self._text += visible(text)
            end = whole_blocks(self._text)
            if end:
                self._leave(self._text[:end])
                self._text = self._text[end:]

    def _draw(self) -> None:
        """Draw the block that is being written, not so often that the model would notice."""
        from rich.live import Live

        now = time.monotonic()
        if now < self._next or not self._text.strip():
            return
        if self._live is None:
            self._part()
            self._live = Live(console=self._console, auto_refresh=False, transient=True, vertical_overflow="visible")
            self._live.start()
        self._live.update(_Tail(self._rendered(self._text)), refresh=True)
        taken = time.monotonic() - now
        self._next = now + max(0.06, 8 * taken)

    def _leave(self, text: str) -> None:
        """Print a block for good."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if text.strip():
            self._part()
            self._console.print(self._rendered(text))
            self._parted = False
        self._next = 0.0

    def _part(self) -> None:
        if not self._parted:
            self._console.print()
            self._parted = True

    def _rendered(self, text: str) -> RenderableType:
        from rich.text import Text

        return Text(text.strip("\n"), style="dim") if self._thinking else markdown(text)


def markdown(text: str) -> RenderableType:
    """A text as Markdown, whose lines end where it says, and in which tags are text like any other."""
    from markdown_it import MarkdownIt
    from rich.markdown import Markdown

    made = Markdown(text, code_theme="ansi_dark", hyperlinks=False)
    parser = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")
    made.parsed = parser.parse(text)
    for token in made.parsed:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    return made


_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


def whole_blocks(text: str) -> int:
    """How many characters of a text are blocks that what follows does not change.

    A block ends with an empty line after which another begins at the left; there is none within a fence.
    """
    end = at = 0
    fence, blank = "", False
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if fence:
            if mark is not None and mark[1].startswith(fence) and not mark[2].strip():
                fence = ""
        else:
            if blank and not line[0].isspace():
                end = at
            fence = mark[1] if mark is not None else ""
        blank = not fence and not line.strip()
        at += len(line)
    return end


def screen_for(output: TextIO, *, markdown: bool) -> tuple[Screen, str]:
    """The screen that suits an output, and what is to be said of it.

    Args:
        markdown: whether Markdown is wanted, where there is a terminal.
    """
    if not output.isatty():
        return Pipe(), ""
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return Terminal(colours=False), ""
    colours = not os.environ.get("NO_COLOR")
    if not markdown:
        return Terminal(colours=colours), ""
    try:
        return MarkdownTerminal(), ""
    except ImportError:
        return Terminal(colours=colours), "plain text: with pip install 'omniform[chat]' Markdown is shown"
