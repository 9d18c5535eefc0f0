"""Stop strings: ending an answer by its text."""

from __future__ import annotations

from collections.abc import Sequence

from omniform.core.errors import InputError
from omniform.engine.text import Decodes, Detokenizer

SLACK = 8
"""Tokens to decode beyond the longest stop string's characters, since a token may be less than a character."""


class StopStrings:
    """Tells when an answer's text contains one of some strings.

    Args:
        strings: what ends an answer.
        tokenizer: decodes tokens.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Decodes) -> None:
        self._strings = tuple(strings)
        self._tokenizer = tokenizer
        self._tail = max(len(s.encode()) for s in strings) + SLACK

    def ends(self, written: Sequence[int]) -> bool:
        """Whether the last token completes a stop string; it may go on after it within the same token."""
        tail = list(written[-self._tail :])
        text, before = self._decode(tail), self._decode(tail[:-1])
        return any(text.find(s, max(0, len(before) - len(s) + 1)) >= 0 for s in self._strings)

    def cut(self, text: str) -> str:
        """A text up to the first stop string."""
        found = [at for s in self._strings if (at := text.find(s)) >= 0]
        return text[: min(found)] if found else text

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False)) if tokens else ""


class ShownText:
    """An answer's text as it comes, without the stop string that ends it.

    Args:
        tokenizer: decodes tokens.
        strings: what ends the answer; text that may be the beginning of one is held back.
    """

    def __init__(self, tokenizer: Decodes, strings: Sequence[str] = ()) -> None:
        self._words = Detokenizer(tokenizer)
        self._strings = tuple(strings)
        self._held = ""
        self._ended = False

    def push(self, token: int) -> str:
        """Add a token; returns the text that is new and final."""
        return self._shown(self._words.push(token), final=False)

    def rest(self) -> str:
        """What was held back, when no more tokens come."""
        return self._shown(self._words.rest(), final=True)

    def _shown(self, text: str, *, final: bool) -> str:
        if not self._strings:
            return text
        whole = "" if self._ended else self._held + text
        found = [at for s in self._strings if (at := whole.find(s)) >= 0]
        if found:
            self._ended, self._held = True, ""
            return whole[: min(found)]
        keep = 0 if final else max(_overlap(whole, s) for s in self._strings)
        self._held = whole[len(whole) - keep :]
        return whole[: len(whole) - keep]


def _overlap(text: str, string: str) -> int:
    """How many of a text's last characters may be the beginning of a string."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)


def stop_strings(strings: Sequence[str], tokenizer: Decodes | None) -> StopStrings | None:
    """What looks out for stop strings; None where there are none.

    Raises:
        InputError: there is no tokenizer to read the answer with.
    """
    if not strings:
        return None
    if tokenizer is None:
        raise InputError(
            "stop strings need a tokenizer to read the answer with",
            where="stop_strings",
            remedy="Pass tokenizer=... to generate, or give the Engine a processor.",
        )
    return StopStrings(strings, tokenizer)
