"""How likely tokens were, as ``/v1/completions`` tells it: four lists, a token's entry in each."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from omniform.engine.request import TokenLogprob
from omniform.engine.stop import Pieces

LEAST = -9999.0
"""Stands for a logarithm that is minus infinity, which JSON cannot hold."""


@dataclass(slots=True)
class Told:
    """Tokens with their logarithms of probability.

    Attributes:
        tokens: their texts; one that is no whole character is told as ``bytes:\\xNN``.
        logprobs: None for a first token, which follows nothing.
        top: the likeliest tokens at each place, and the one that came.
        offsets: where each begins, in characters of the text.
    """

    tokens: list[str] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    top: list[dict[str, float] | None] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "tokens": self.tokens,
            "token_logprobs": self.logprobs,
            "top_logprobs": self.top,
            "text_offset": self.offsets,
        }


class Teller:
    """Tells tokens of one text as they come.

    Args:
        pieces: their bytes.
        most: how many of the likeliest to tell.
        start: where they begin in the text.
        special: those that stand for no text.
    """

    def __init__(self, pieces: Pieces, most: int, start: int, special: Collection[int]) -> None:
        self._pieces, self._most, self._at, self._special = pieces, most, start, special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may be several tokens

    def told(self, tokens: Iterable[tuple[int, TokenLogprob | None]]) -> Told:
        """Some more tokens, each with how likely it was."""
        told = Told()
        for token, likely in tokens:
            spelt = self._pieces[token]
            told.tokens.append(text_of(spelt))
            told.logprobs.append(None if likely is None else max(likely.logprob, LEAST))
            told.top.append(None if likely is None else _top(self._pieces, likely, self._most))
            told.offsets.append(self._at)
            self._at += 0 if token in self._special else len(self._decoder.decode(spelt))
        return told

    def written(self, likely: Iterable[TokenLogprob]) -> Told:
        """Some more tokens that were written."""
        return self.told((one.token, one) for one in likely)


def _top(pieces: Pieces, one: TokenLogprob, most: int) -> dict[str, float]:
    named = (*one.top[:most], (one.token, one.logprob))
    return {text_of(pieces[token]): max(value, LEAST) for token, value in named}


def text_of(spelt: bytes) -> str:
    """A token's text; of one that is no whole character, its bytes."""
    try:
        return spelt.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelt)
