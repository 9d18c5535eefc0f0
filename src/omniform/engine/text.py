"""From tokens back to text while they come: only whole characters, each of them once."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from queue import Queue
from typing import Protocol, TextIO, runtime_checkable

from torch import Tensor

from omniform.core.errors import InputError


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
        skip_special_tokens: leave special tokens out of the text.
    """

    def __init__(self, tokenizer: Decodes, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
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
        return str(self._tokenizer.decode(tokens, skip_special_tokens=self._skip))


_CONTEXT = 16
"""Tokens that a token's text may depend on."""

_BROKEN = "\ufffd"
"""What decoders write for bytes that are no character, or not yet."""

_LONGEST_CHARACTER = 4
"""Bytes of the longest character in UTF-8, and so the most tokens that one can be spelt by."""

_HELD = re.compile(r" (?:n'?|'[vr]?)?$")
"""An end whose space may go away: before punctuation, and in ``do n't``, ``I 'm``, ``we 've``."""


class TextStreamer:
    """Prints an answer while ``generate`` writes it; pass it as ``streamer``.

    Args:
        tokenizer: decodes token ids.
        skip_prompt: leave out the prompt.
        skip_special_tokens: leave special tokens out of the text.
        file: where to print; standard output by default.
    """

    def __init__(
        self,
        tokenizer: Decodes,
        skip_prompt: bool = False,
        *,
        skip_special_tokens: bool = False,
        file: TextIO | None = None,
    ) -> None:
        self._words = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
        self._skip_prompt = skip_prompt
        self._prompt_seen = False
        self._file = file

    def put(self, value: Tensor) -> None:
        """Take the prompt (the first call) or the next token of a single row.

        Raises:
            InputError: there are several rows.
        """
        if value.dim() > 1 and value.shape[0] > 1:
            raise InputError("text is streamed for one row", where="streamer", expected=1, found=value.shape[0])
        prompt, self._prompt_seen = not self._prompt_seen, True
        if prompt and self._skip_prompt:
            return
        for token in value.reshape(-1).tolist():
            self.on_finalized_text(self._words.push(token))

    def end(self) -> None:
        """Hand out what was held back."""
        self.on_finalized_text(self._words.rest(), stream_end=True)
        self._prompt_seen = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called with every piece of text; prints it."""
        print(text, end="\n" if stream_end else "", file=self._file or sys.stdout, flush=True)


class TextIteratorStreamer(TextStreamer):
    """Hands an answer to another thread: iterate over it while ``generate`` runs.

    Args:
        timeout: seconds to wait for the next piece; None waits for ever.
    """

    def __init__(
        self,
        tokenizer: Decodes,
        skip_prompt: bool = False,
        timeout: float | None = None,
        *,
        skip_special_tokens: bool = False,
    ) -> None:
        super().__init__(tokenizer, skip_prompt, skip_special_tokens=skip_special_tokens)
        self._pieces: Queue[str | None] = Queue()
        self._timeout = timeout

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._pieces.put(text)
        if stream_end:
            self._pieces.put(None)

    def __iter__(self) -> Iterator[str]:
        while (piece := self._pieces.get(timeout=self._timeout)) is not None:
            yield piece
