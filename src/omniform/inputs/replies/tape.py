"""Text that comes in pieces, read as if it were all there: readers are generators that stop where it ends for now.

``yield`` means: more text is needed. What a reader does depends on the text alone, never on how it was cut.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Final, TypeVar

T = TypeVar("T")
Step = Generator[None, None, T]
"""A reader: it stops at each ``yield`` until there is more text, and returns what it read."""

_SPACES: Final = re.compile(r"\s*")


class NoCall(Exception):  # noqa: N818 (nothing is wrong: it is how a reader says that this is something else)
    """What is being read is no call."""


class Tape:
    """Text up to where it has come.

    Attributes:
        text: what was not forgotten.
        at: the character that is next.
        over: whether no more will come.
    """

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.over = False

    def add(self, text: str) -> None:
        """More text."""
        self.text += text

    def forget(self) -> None:
        """Drop what was read."""
        self.text, self.at = self.text[self.at :], 0

    def peek(self) -> Step[str]:
        """The next character; none at the end."""
        while self.at >= len(self.text) and not self.over:
            yield
        return self.text[self.at : self.at + 1]

    def literal(self, *options: str) -> Step[str]:
        """Read one of some texts, the longest that stands here; none if none does."""
        for option in sorted(options, key=len, reverse=True):
            while True:
                here = self.text[self.at : self.at + len(option)]
                if here == option:
                    self.at += len(option)
                    return option
                if self.over or not option.startswith(here):
                    break
                yield
        return ""

    def expect(self, option: str) -> Step[None]:
        """Read a text that must stand here.

        Raises:
            NoCall: it does not.
        """
        if not (yield from self.literal(option)):
            raise NoCall

    def spaces(self) -> Step[None]:
        """Read whitespace."""
        while True:
            found = _SPACES.match(self.text, self.at)
            assert found is not None
            self.at = found.end()
            if self.at < len(self.text) or self.over:
                return
            yield

    def until(self, *marks: str, limit: int | None = None) -> Step[tuple[str, str]]:
        """Read up to the first of some texts, and over it.

        Args:
            marks: the texts.
            limit: so many characters at most may come before it.

        Returns:
            What comes before it, and which it is.

        Raises:
            NoCall: there is none.
        """
        pattern = re.compile("|".join(map(re.escape, marks)))
        longest = max(map(len, marks))
        start = seen = self.at
        while True:
            found = pattern.search(self.text, seen)
            end = len(self.text) if found is None else found.start()
            if limit is not None and end - start > limit + longest:
                raise NoCall
            if found is not None:
                self.at = found.end()
                return self.text[start:end], found[0]
            if self.over:
                raise NoCall
            seen = max(start, len(self.text) - longest + 1)
            yield

    def match(self, pattern: re.Pattern[str]) -> Step[str]:
        """Read as many characters as a pattern takes, one that could always go on where it ends."""
        while True:
            found = pattern.match(self.text, self.at)
            end = self.at if found is None else found.end()
            if end < len(self.text) or self.over:
                text, self.at = self.text[self.at : end], end
                return text
            yield
