"""From tokens back to text while they come: only whole characters, each of them once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable


@runtime_checkable
class Decodes(Protocol):
    """A tokenizer or a processor."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str | list[str]: ...


class Detokenizer:
    """Turns one row's tokens into text piece by piece: every character once it is whole and can no longer change.

    A token may be a part of a character, in vocabularies that spell bytes, and a space may go away before what follows
    it (``clean_up_tokenization_spaces``); such ends are held back. The pieces together are the text of all tokens, with
    one exception: where bytes that spell characters are followed at once by bytes that spell none, some tokenizers
    (byte fallback) would take back the characters as well; here they stay.

    Args:
        tokenizer: decodes token ids.
        options: of ``decode``; special tokens are left out of the text unless they say otherwise.
    """

    def __init__(self, tokenizer: Decodes, **options: object) -> None:
        self._decode = cast(Callable[..., object], tokenizer.decode)
        self._options = {"skip_special_tokens": True, **options}
        self._tokens: list[int] = []  # the last ones, as many as a token's text may depend on
        self._shown = 0  # characters of their text that were handed out
        self._broken = 0  # so many last tokens left the text within a character
        self._most = 2 * _CONTEXT

    def push(self, token: int) -> str:
        """Add a token; returns the text that is new and final."""
        self._tokens.append(token)
        text = self._text(self._tokens)
        self._broken = self._broken + 1 if text.endswith(_BROKEN) else 0
        new = text[self._shown : max(self._final(text), self._shown)]
        self._shown += len(new)
        if len(self._tokens) > self._most:
            self._forget(text)
        return new

    def rest(self) -> str:
        """What was held back, when no more tokens come."""
        new = self._text(self._tokens)[self._shown :]
        self._tokens, self._shown, self._broken, self._most = [], 0, 0, 2 * _CONTEXT
        return new

    def _final(self, text: str) -> int:
        """How many characters cannot change any more."""
        if self._broken:
            # A character has four bytes at most: what is broken for longer is no character and stays so.
            return len(text.rstrip(_BROKEN)) if self._broken < _LONGEST_CHARACTER else len(text) - 1
        held = _HELD.search(text)
        return len(text) if held is None else held.start()

    def _forget(self, text: str) -> None:
        """Keep the last tokens only, if what follows reads the same after them alone."""
        if 0 < self._broken < _LONGEST_CHARACTER:
            return
        size = _CONTEXT
        while size < len(self._tokens) and not self._text(self._tokens[-size:]):
            size *= 2  # special tokens that make no text: what comes next must not look like a beginning
        pending = text[self._shown :]
        for more in range(_LONGEST_CHARACTER):  # one of them begins with a character's first byte
            last = self._tokens[-size - more :]
            if size > 2 * _CONTEXT:
                last = [*last[: size // 2], *last[-_CONTEXT:]]
            end = self._text(last)
            # A word's continuation is spelt otherwise where nothing comes before it, which changes nothing after it.
            alike = text.endswith(end) or (_BROKEN not in end and _BROKEN not in text[-len(end) :])
            if alike and end.endswith(pending):
                self._tokens, self._shown = last, len(end) - len(pending)
                break
        # What is never alike must not be tried at every token.
        self._most = max(2 * _CONTEXT, len(self._tokens) + _CONTEXT)

    def _text(self, tokens: list[int]) -> str:
        return str(self._decode(tokens, **self._options))


_CONTEXT = 16
"""Tokens that a token's text may depend on."""

_BROKEN = "\ufffd"
"""What decoders write for bytes that are no character, or not yet."""

_LONGEST_CHARACTER = 4
"""Bytes of the longest character in UTF-8, and so the most tokens that one can be spelt by."""

_HELD = re.compile(r" (?:n'?|'[vr]?)?$")
"""An end whose space may go away: before punctuation, and in ``do n't``, ``I 'm``, ``we 've``."""
