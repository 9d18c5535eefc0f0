"""Grammars of answers, in the dialect of Lark that llguidance reads: the pieces that all ways to write calls share.

Special tokens are named by their ids, since no text is one. What ends at a marker is a lazy rule: it ends at the first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from omniform.inputs.replies.tools import Schema

SPACE: Final = r"/\s{0,4}/"
_ANY: Final = "(?s:.*)"
_WRITTEN: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_RESERVED: Final = re.compile(r"([\\.^$|?*+()\[\]{}/])")


class Lark:
    """A grammar in the making.

    Args:
        special: ids of the special tokens, by their texts.
    """

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = dict(special)
        self._rules: dict[str, str] = {}

    def rule(self, body: str, kind: str = "r", options: str = "") -> str:
        """A rule's name."""
        key = f"{kind}{options}: {body}"
        if key not in self._rules:
            self._rules[key] = f"{kind}{len(self._rules)}"
        return self._rules[key]

    def source(self, start: str) -> str:
        """The whole."""
        rules = [
            f"{name}{key.partition(':')[0].lstrip('rT')}: {key.partition(': ')[2]}" for key, name in self._rules.items()
        ]
        return "\n".join([f"start: {start}", *rules])

    def text(self, text: str) -> str:
        """A text, as it is."""
        marks = sorted((mark for mark in self._special if mark and mark in text), key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, marks))})", text) if marks else [text]
        return " ".join(f"<[{self._special[p]}]>" if p in self._special else json.dumps(p) for p in parts if p)

    def json(self, schema: Schema) -> str:
        """JSON that fits a schema, written as templates write it."""
        return self.rule(f"%json {json.dumps({**schema, 'x-guidance': _WRITTEN})}")

    def over(self, mark: str, unless: Sequence[str] = ()) -> str:
        """Any text up to a marker, and that.

        Args:
            mark: the marker.
            unless: what the text must not begin with.
        """
        at = min((mark.index(token) for token in self._special if token and token in mark), default=-1)
        if at >= 0:  # what stands before the token is any text as well
            return f"/{_ANY}/ {self.text(mark[at:])}"
        found = self.rule(f"/{_ANY}{escaped(mark)}/{self._unlike(unless, f'{SPACED}%s{_ANY}')}", "T")
        return self.rule(found, options="[lazy]")

    def span(self, open: str, close: str) -> str:
        """From one marker to another."""
        if open in self._special or close in self._special:
            return f"{self.text(open)} {self.over(close)}"
        return self.rule(f"/{escaped(open)}{_ANY}{escaped(close)}/", options="[lazy]")

    def unlike(self, letters: str, unless: Sequence[str] = ()) -> str:
        """Any text that does not begin with some letters."""
        others = f"[^{escaped(letters)}\\s]"
        return self.rule(f"/({SPACED}{others}{_ANY})?/{self._unlike(unless, f'{SPACED}%s{_ANY}')}", "T")

    def without(self, marks: Sequence[str], unless: Sequence[str] = ()) -> str:
        """Any text in which some markers are not."""
        body = f"/{_ANY}/{self._unlike(marks, f'{_ANY}%s{_ANY}')}{self._unlike(unless, f'{SPACED}%s{_ANY}')}"
        return self.rule(body, "T")

    def _unlike(self, marks: Sequence[str], pattern: str) -> str:
        """That a text is not of a pattern. No text holds a special token."""
        return "".join(f" & ~/{pattern % escaped(mark)}/" for mark in marks if mark not in self._special)


SPACED: Final = r"\s*"


def escaped(text: str) -> str:
    """A text as a regular expression between slashes. Letters' neighbours are left alone: ``\\<`` is no ``<`` there."""
    return _RESERVED.sub(r"\\\1", text)
