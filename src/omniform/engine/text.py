"""From tokens back to text while they come: only whole characters, each of them once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from queue import Queue
from typing import Protocol, TextIO, runtime_checkable

from torch import Tensor


@runtime_checkable
class Decodes(Protocol):
    """A tokenizer or a processor."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str | list[str]: ...


class Detokenizer:
    """Turns one row's tokens into text piece by piece.

    A token may be a part of a character, and a word's spelling may depend on what follows; text is handed out when
    it can no longer change.

    Args:
        tokenizer: decodes token ids.
        skip_special_tokens: leave special tokens out of the text.
    """

    def __init__(self, tokenizer: Decodes, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._tokens: list[int] = []
        self._shown = 0  # characters of their text that were handed out

    def push(self, token: int) -> str:
        """Add a token; returns the text that is new and final."""
        self._tokens.append(token)
        text = self._text(self._tokens)
        # A space may go away before punctuation, so it is final only when the next word is.
        whole = text and not text.endswith("�") and _whole(text[-1])
        final = len(text) if whole else text.rfind(" ")
        new = text[self._shown : max(final, self._shown)]
        self._shown += len(new)
        if len(self._tokens) > 2 * _CONTEXT:
            self._forget(text)
        return new

    def rest(self) -> str:
        """What was held back, when no more tokens come."""
        new = self._text(self._tokens)[self._shown :]
        self._tokens, self._shown = [], 0
        return new

    def _forget(self, text: str) -> None:
        """Keep the last tokens only, if their text does not depend on those before them."""
        last = self._tokens[-_CONTEXT:]
        pending, end = len(text) - self._shown, self._text(last)
        if text.endswith(end) and pending <= len(end):
            self._tokens, self._shown = last, len(end) - pending

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=self._skip))


_CONTEXT = 32
"""Tokens that a token's text may depend on."""


def _whole(character: str) -> bool:
    # Lines and, in scripts without spaces (CJK), characters are final at once; elsewhere a word is final at its end.
    return character == "\n" or "一" <= character <= "鿿" or "぀" <= character <= "ヿ" or "가" <= character <= "힣"


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
        """Take the prompt (the first call) or the next token of a single row."""
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
