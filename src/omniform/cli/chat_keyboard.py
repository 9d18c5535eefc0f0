"""What a person types: lines with editing and history where there is a terminal, plain lines where there is a pipe."""

from __future__ import annotations

import contextlib
import glob
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from omniform.core.errors import InputError

PROMPT = "> "
MORE = "... "

PASTE = 0.05
"""Seconds within which the next line must have come to be a part of the same paste."""


class Keyboard(Protocol):
    """Where lines come from."""

    def read(self) -> str | None:
        """The next message, which may have several lines; None when there are no more.

        Raises:
            KeyboardInterrupt: it was given up while it was typed.
        """
        ...


class PipedLines:
    """Lines of standard input, each of them a message.

    Raises:
        InputError: while reading, bytes that are no UTF-8.
    """

    def read(self) -> str | None:
        try:
            line = sys.stdin.buffer.readline()
            return line.decode("utf-8-sig").rstrip("\r\n") if line else None
        except UnicodeDecodeError:
            raise InputError("standard input is not UTF-8 text", where="stdin") from None


class TypedLines:
    """A terminal. A line that ends with a backslash goes on; pasted lines are one message.

    Args:
        history: the file of the lines that were typed before; None for none.
        complete: the words that may stand in the place of what is being typed.
    """

    def __init__(self, history: Callable[[], Path | None], complete: Callable[[str, str], Sequence[str]]) -> None:
        self._history = history
        self._editor = _Editor(history(), complete)

    def read(self) -> str | None:
        try:
            lines = [self._line(PROMPT)]
            while lines[-1].endswith("\\") or (not self._editor.brackets and _more_waits()):
                if lines[-1].endswith("\\"):
                    lines[-1] = lines[-1][:-1]
                lines.append(self._line(MORE))
        except EOFError:
            return None
        text = "\n".join(lines)
        self._editor.remember(text, self._history())
        return text

    def forget(self) -> None:
        """Forget the lines that were typed."""
        self._editor.clear()

    def _line(self, prompt: str) -> str:
        line = input(self._editor.marked(prompt))
        return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class _Editor:
    """The ``readline`` module, where Python has it.

    Attributes:
        brackets: whether it knows which lines were pasted together.
    """

    def __init__(self, history: Path | None, complete: Callable[[str, str], Sequence[str]]) -> None:
        self._known: list[str] = []
        self.brackets = False
        try:
            import readline
        except ImportError:  # such as on Windows
            self._readline = None
            return
        self._readline = readline
        readline.set_auto_history(False)
        readline.clear_history()
        readline.set_history_length(1000)
        libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
        self.brackets = not libedit
        if self.brackets:
            readline.parse_and_bind("set enable-bracketed-paste on")
        readline.set_completer_delims(" \t\n=")
        readline.set_completer(self._completer(complete))
        if history is not None:
            with contextlib.suppress(OSError):
                readline.read_history_file(history)

    def marked(self, prompt: str) -> str:
        """A prompt that stands out."""
        if self._readline is None or os.environ.get("TERM", "dumb") == "dumb" or os.environ.get("NO_COLOR"):
            return prompt
        return f"\x01\x1b[1m\x02{prompt}\x01\x1b[0m\x02"

    def remember(self, text: str, history: Path | None) -> None:
        """Note a message among the lines that can be called back, and in their file."""
        line = " ".join(text.split("\n")).strip()
        if self._readline is None or not line:
            return
        self._readline.add_history(line)
        if history is None:
            return
        with contextlib.suppress(OSError):
            history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(history, os.O_CREAT | os.O_WRONLY, 0o600))
            self._readline.write_history_file(history)

    def clear(self) -> None:
        """Forget all lines."""
        if self._readline is not None:
            self._readline.clear_history()

    def _completer(self, complete: Callable[[str, str], Sequence[str]]) -> Callable[[str, int], str | None]:
        def completer(word: str, number: int) -> str | None:
            if self._readline is None:
                return None
            if number == 0:
                self._known = list(complete(self._readline.get_line_buffer()[: self._readline.get_begidx()], word))
            return self._known[number] if number < len(self._known) else None

        return completer


@contextlib.contextmanager
def unechoed() -> Iterator[None]:
    """Have the terminal not show what is typed meanwhile: it would stand in the midst of an answer."""
    try:
        import termios

        before = termios.tcgetattr(sys.stdin)
    except (ImportError, OSError, ValueError, termios.error):
        yield
        return
    quiet = list(before)
    quiet[3] &= ~termios.ECHO
    try:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def files_like(word: str) -> Iterator[str]:
    """Files whose path begins with a word."""
    for path in sorted(glob.glob(glob.escape(os.path.expanduser(word)) + "*")):
        yield path + "/" if os.path.isdir(path) else path


def _more_waits() -> bool:
    """Whether more lines have come already, faster than anybody types."""
    try:
        return bool(select.select([sys.stdin], [], [], PASTE)[0])
    except (OSError, ValueError):
        return False
