"""Stop strings: ending an answer by its text.

Whether a token ends a row is decided as the ecosystem does it: every token stands for a fixed piece of text, whatever
is around it; a row ends when a stop string lies in its last pieces, prompt included, and takes up some of the last one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from omniform.core.errors import InputError
from omniform.engine.text import Decodes, Detokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_ANCHOR = "abcdef"
_NO_TEXT = b"\xff"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@runtime_checkable
class _HasBackend(Protocol):
    """The ecosystem's other tokenizers."""

    @property
    def backend_tokenizer(self) -> Backend: ...


class Pieces:
    """The text that each token stands for, as bytes, since a token may be less than a character.

    Args:
        tokenizer: whose tokens they are.
    """

    def __init__(self, tokenizer: Decodes) -> None:
        backend = backend_of(tokenizer)
        self._known: dict[int, bytes] = {}
        self._read: Callable[[int], bytes] = (
            (lambda token: str(tokenizer.decode([token])).encode()) if backend is None else _Reader(backend).piece
        )

    def __getitem__(self, token: int) -> bytes:
        piece = self._known.get(token)
        if piece is None:
            piece = self._known[token] = self._read(token)
        return piece


class _Reader:
    """Reads single tokens: their bytes where the vocabulary spells bytes, else what they add to some text before."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._decoder = backend.decoder
        kinds = _kinds(json.loads(self._decoder.__getstate__())) if self._decoder is not None else set()
        self._falls_back = "ByteFallback" in kinds
        self._alphabet = _byte_alphabet() if "ByteLevel" in kinds and not self._falls_back else {}
        from omniform.inputs.text.backend import guarded

        with guarded("the tokenizer cannot read even single letters"):
            self._anchor = backend.encode(_ANCHOR, add_special_tokens=False).tokens
            self._before = self._text(self._anchor)

    def piece(self, token: int) -> bytes:
        spelling = self._backend.id_to_token(token)
        if spelling is None:
            return _NO_TEXT
        if self._alphabet and all(letter in self._alphabet for letter in spelling):
            return bytes(self._alphabet[letter] for letter in spelling)
        byte = _BYTE.fullmatch(spelling) if self._falls_back else None
        if byte is not None:
            return bytes([int(byte[1], 16)])
        return self._text([*self._anchor, spelling])[len(self._before) :].encode()

    def _text(self, tokens: list[str]) -> str:
        return " ".join(tokens) if self._decoder is None else str(self._decoder.decode(tokens))


class StopStrings:
    """Tells when a row's text contains one of some strings.

    Args:
        strings: what ends an answer.
        tokenizer: whose tokens are written.

    Attributes:
        window: so many last tokens are looked at: each has a byte at least.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Decodes) -> None:
        self._strings = {s: s.encode() for s in strings}
        self._pieces = Pieces(tokenizer)
        self.window = max(map(len, self._strings.values()))
        self._ending: dict[int, bool] = {}
        self._leading: dict[int, bool] = {}

    def may_end(self, token: int) -> bool:
        """Whether a row can end with this token at all; of most tokens that is known without looking at the row."""
        found = self._ending.get(token)
        if found is None:
            piece = self._pieces[token]
            found = self._ending[token] = any(s in piece or _begins_with_end(piece, s) for s in self._strings.values())
        return found

    def _may_lead(self, token: int) -> bool:
        """Whether a text that ends with this token can end with the beginning of a stop string."""
        found = self._leading.get(token)
        if found is None:
            piece = self._pieces[token]
            found = self._leading[token] = any(piece in s[:-1] or _overlap(piece, s) for s in self._strings.values())
        return found

    def ends(self, row: Sequence[int]) -> bool:
        """Whether the last token completes a stop string; it may go on after it within the same token."""
        return bool(self._matches(row))

    def untouched(self, row: Sequence[int]) -> int:
        """How many of a row's tokens belong neither to a stop string that ends it nor to the beginning of one."""
        if row and not (self.may_end(row[-1]) or self._may_lead(row[-1])):
            return len(row)
        matches = self._matches(row)
        pieces = [self._pieces[token] for token in row[-self.window :]]
        text = b"".join(pieces)
        keep = min(matches.values()) if matches else len(text) - max(_overlap(text, s) for s in self._strings.values())
        untouched = len(row) - len(pieces)
        for piece in pieces:
            keep -= len(piece)
            if keep < 0:
                break
            untouched += 1
        return untouched

    def cut(self, row: Sequence[int], prompt: int, read: Callable[[Sequence[int]], str]) -> str:
        """The text of a row's answer, up to the stop string that ends it, if one does.

        Args:
            row: prompt and answer.
            prompt: tokens in the prompt.
            read: makes text of tokens.
        """
        text = read(row[prompt:])
        matches = self._matches(row)
        if not matches:
            return text
        end = self._text(row)[min(matches.values()) :].decode(errors="replace")
        if text.endswith(end):
            return text[: len(text) - len(end)]
        # It began in the prompt, or a special token is a part of it, or tokens together read otherwise than alone.
        return read(row[prompt : max(prompt, self.untouched(row))])

    def _matches(self, row: Sequence[int]) -> dict[str, int]:
        """The strings that the last token completes, and where they begin in the text of the window."""
        if not row or not self.may_end(row[-1]):
            return {}
        text = self._text(row)
        last = len(text) - len(self._pieces[row[-1]])
        found = {s: text.find(wanted, max(0, last - len(wanted) + 1)) for s, wanted in self._strings.items()}
        return {s: at for s, at in found.items() if at >= 0}

    def _text(self, row: Sequence[int]) -> bytes:
        """What the last tokens read, as many as matter."""
        return b"".join([self._pieces[token] for token in row[-self.window :]])


class ShownText:
    """An answer's text as it comes, without the stop string that ends it.

    Args:
        tokenizer: decodes tokens.
        stops: what ends the answer; text that may be the beginning of one is held back.
    """

    def __init__(self, tokenizer: Decodes, stops: StopStrings | None = None) -> None:
        self._tokenizer = tokenizer
        self._words = Detokenizer(tokenizer)
        self._stops = stops
        self._pushed: int | None = None
        self._shown = ""

    def push(self, row: Sequence[int], prompt: int) -> str:
        """The text that is new and final, of a row that has another token.

        Args:
            row: prompt and answer.
            prompt: tokens in the prompt.
        """
        first = prompt if self._pushed is None else self._pushed
        stop = len(row) if self._stops is None else max(first, self._stops.untouched(row))
        new = "".join([self._words.push(token) for token in row[first:stop]])
        self._pushed = stop
        self._shown += new
        return new

    def rest(self, row: Sequence[int], prompt: int) -> str:
        """What was held back, when no more tokens come."""
        whole = answer_text(self._tokenizer, self._stops, row, prompt)
        return whole[len(self._shown) :]


def answer_text(tokenizer: Decodes, stops: StopStrings | None, row: Sequence[int], prompt: int) -> str:
    """The text of a row's answer, without special tokens and without the stop string that ends it."""

    def read(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True)) if tokens else ""

    return read(row[prompt:]) if stops is None else stops.cut(row, prompt, read)


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


def _begins_with_end(piece: bytes, string: bytes) -> bool:
    """Whether a text begins with some of a string's last bytes, not with the whole string."""
    return any(piece.startswith(string[-n:]) for n in range(1, min(len(piece), len(string) - 1) + 1))


def _overlap(text: bytes, string: bytes) -> int:
    """How many of a text's last bytes may be the beginning of a string."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)


def backend_of(tokenizer: Decodes) -> Backend | None:
    """The ``tokenizers.Tokenizer`` underneath; None where there is none."""
    # Here, so that whoever asks for no stop strings need not load tokenizers and processors.
    from omniform.inputs.processors.base import Processor
    from omniform.inputs.text.scripted import Scripted
    from omniform.inputs.text.tokenizer import Tokenizer

    if isinstance(tokenizer, Processor):
        tokenizer = tokenizer.tokenizer
    if isinstance(tokenizer, Tokenizer):
        return None if isinstance(tokenizer.backend, Scripted) else tokenizer.backend
    return tokenizer.backend_tokenizer if isinstance(tokenizer, _HasBackend) else None


def _kinds(state: object) -> set[str]:
    """The types of a decoder and of all its parts."""
    if isinstance(state, list):
        return set().union(*map(_kinds, state))
    if not isinstance(state, dict):
        return set()
    return {str(state.get("type"))}.union(*map(_kinds, state.values()))


def _byte_alphabet() -> dict[str, int]:
    """Which letter stands for which byte in a byte-level vocabulary (GPT-2's, ``bytes_to_unicode``)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}
