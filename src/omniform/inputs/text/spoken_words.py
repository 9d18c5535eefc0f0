"""Tokens to words: where speech has spaces, and where it has none.

A token may be part of a word, and in byte-level vocabularies part of a character. Punctuation belongs to the word that
it stands at. Source: https://github.com/openai/whisper/blob/main/whisper/tokenizer.py, whisper/timing.py
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

SPACELESS = frozenset({"chinese", "japanese", "thai", "lao", "myanmar", "cantonese"})
"""Languages written without spaces: every character is a word."""

OPENING = "\"'“¡¿([{-"  # belongs to the word behind it, where a space stands in front
CLOSING = "\"'.。,，!！?？:：”)]}、"  # belongs to the word in front of it

_UNFINISHED = "\ufffd"  # what the bytes of half a character are decoded as


@dataclass(slots=True)
class Word:
    """A word of a transcript.

    Attributes:
        text: with the space in front of it, if there is one.
        tokens: its ids.
        places: where these stand among all.
    """

    text: str
    tokens: list[int]
    places: list[int] = field(default_factory=list)

    def followed_by(self, other: Word) -> None:
        """Add what comes next to this word."""
        self.text += other.text
        self.tokens += other.tokens
        self.places += other.places

    def led_by(self, other: Word) -> None:
        """Add what comes before to this word."""
        self.text = other.text + self.text
        self.tokens = other.tokens + self.tokens
        self.places = other.places + self.places


def words_of(
    tokens: Sequence[int], decode: Callable[[list[int]], str], language: str, first_special: int
) -> list[Word]:
    """The words that tokens make.

    Args:
        decode: ids to text.
        language: its name.
        first_special: ids from this on are no text; each is a word of its own.
    """
    words = _characters(tokens, decode)
    if language not in SPACELESS:
        words = _between_spaces(words, first_special)
    return _punctuated(words)


def _characters(tokens: Sequence[int], decode: Callable[[list[int]], str]) -> list[Word]:
    """The shortest runs of tokens that end where a character ends."""
    whole = decode(list(tokens))
    found: list[Word] = []
    run = Word("", [])
    passed = 0
    for place, token in enumerate(tokens):
        run.tokens.append(token)
        run.places.append(place)
        run.text = decode(run.tokens)
        half = run.text.find(_UNFINISHED)
        # What cannot be decoded in the whole text either will never be finished.
        if half < 0 or whole[passed + half : passed + half + 1] in ("", _UNFINISHED):
            found.append(run)
            passed += len(run.text)
            run = Word("", [])
    return found


def _between_spaces(runs: list[Word], first_special: int) -> list[Word]:
    words: list[Word] = []
    for run in runs:
        # Spaces alone are found among any characters, so they begin a word too.
        begins = run.tokens[0] >= first_special or run.text.startswith(" ") or run.text.strip() in string.punctuation
        if begins or not words:
            words.append(run)
        else:
            words[-1].followed_by(run)
    return words


def _punctuated(words: list[Word]) -> list[Word]:
    """Punctuation joined to the words at which it stands."""
    behind: list[Word] = []  # from the last to the first
    for word in reversed(words):
        if behind and word.text.startswith(" ") and word.text.strip() in OPENING:
            behind[-1].led_by(word)
        else:
            behind.append(word)
    joined: list[Word] = []
    for word in reversed(behind):
        if joined and not joined[-1].text.endswith(" ") and word.text in CLOSING:
            joined[-1].followed_by(word)
        else:
            joined.append(word)
    return [word for word in joined if word.text]
