"""Which tokens make up a word: told by the characters that they stand for, or by the marks in the tokens themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from omniform.core.errors import InputError
from omniform.inputs.text.tokenizer import Tokenizer

OUTSIDE = -1
"""The word of a special token."""

Begins = Callable[[str, str], bool]
"""Whether a token begins a word, given the token and the one before it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How a kind of tokenizer marks words.

    Attributes:
        marked: whether a token bears the mark.
        begins: whether a token begins a word.
        gaps: whether the spaces between words belong to no token.
    """

    marked: Callable[[str], bool]
    begins: Begins
    gaps: bool


def _goes_on(token: str) -> bool:
    return token.startswith("##")


def _new_piece(token: str, _: str) -> bool:
    return not token.startswith("##")


def _spaced(token: str, _: str = "") -> bool:
    return token.startswith("▁")


def _spaced_byte(token: str, _: str = "") -> bool:
    return token.startswith("Ġ")


def _ends(token: str) -> bool:
    return token.endswith("</w>")


def _after_end(_: str, before: str) -> bool:
    return before.endswith("</w>")


# Plain functions, so that a collator can be sent to another process.
MARKS: Final = (
    Mark(_goes_on, _new_piece, gaps=True),
    Mark(_spaced, _spaced, gaps=False),
    Mark(_spaced_byte, _spaced_byte, gaps=False),
    Mark(_ends, _after_end, gaps=True),
)
"""WordPiece marks what goes on, SentencePiece and byte BPE what begins, GPT-1's BPE what ends."""


@dataclass(frozen=True, slots=True)
class WordIds:
    """The word of each token as ``encoding.word_ids()`` gives them, in the place of a batch's ``offset_mapping``.

    Attributes:
        rows: for each token the index of its word; None for special tokens and padding.
    """

    rows: Sequence[Sequence[int | None]]


def words_by_place(offsets_BT2: np.ndarray, special_BT: np.ndarray) -> np.ndarray:
    """The number of the word of each token; a word begins after a gap, or after a special token. Shape: [B, T].

    Args:
        offsets_BT2: the characters of each token, from and to.
        special_BT: 1 for special tokens and padding.
    """
    special = special_BT.astype(bool)
    starts, ends = offsets_BT2[:, :, 0], offsets_BT2[:, :, 1]
    gap = np.ones_like(special)
    gap[:, 1:] = (starts[:, 1:] != ends[:, :-1]) | special[:, :-1]
    return _numbered(gap & ~special, special)


def words_by_marks(tokens: Sequence[Sequence[str]], special_BT: np.ndarray, begins: Begins) -> np.ndarray:
    """The number of the word of each token, told by the tokens' marks. Shape: [B, T]."""
    special = special_BT.astype(bool)
    new = np.zeros_like(special)
    for row, pieces in enumerate(tokens):
        for at, piece in enumerate(pieces):
            first = at == 0 or special[row, at - 1]
            new[row, at] = first or begins(piece, pieces[at - 1])
    return _numbered(new & ~special, special)


def words_by_ids(word_ids: WordIds, special_BT: np.ndarray) -> np.ndarray:
    """The number of the word of each token, of what ``encoding.word_ids()`` gave. Shape: [B, T].

    Two words of one number (a pair of texts) are two, where a special token lies between them.
    """
    special = special_BT.astype(bool)
    new = np.zeros_like(special)
    for row, words in enumerate(word_ids.rows):
        for at, word in enumerate(words):
            special[row, at] |= word is None
            new[row, at] = at == 0 or bool(special[row, at - 1]) or word != words[at - 1]
    return _numbered(new & ~special, special)


def joined(places: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Words that begin where either says so. Shape: [B, T].

    Tokens that take the space before them (SentencePiece, untrimmed byte BPE) leave no gap between words, so that
    their places alone make one word of the whole text.
    """
    special = places == OUTSIDE
    return _numbered((begin_of(places) | begin_of(marks)) & ~special, special)


def begin_of(words_BT: np.ndarray) -> np.ndarray:
    """Whether each token is the first of its word. Shape: [B, T]."""
    first = np.ones_like(words_BT, dtype=bool)
    first[:, 1:] = words_BT[:, 1:] != words_BT[:, :-1]
    first &= words_BT != OUTSIDE
    return first


def spread(words_BT: np.ndarray, chosen_BT: np.ndarray) -> np.ndarray:
    """All tokens of the words of which one token was chosen. Shape: [B, T]."""
    spread_BT = np.zeros_like(chosen_BT, dtype=bool)
    for out, words, chosen in zip(spread_BT, words_BT, chosen_BT, strict=True):
        out[:] = np.isin(words, words[chosen & (words != OUTSIDE)])
    return spread_BT


def mark_of(tokenizer: Tokenizer) -> Mark | None:
    """How a tokenizer marks words; None where it does not."""
    tokens = sorted(tokenizer.get_vocab())
    # A vocabulary's own marks show in any few thousand of its tokens.
    return _mark(frozenset(tokens[:: 1 + len(tokens) // 4096]))


@lru_cache(maxsize=8)
def _mark(tokens: frozenset[str]) -> Mark | None:
    counts = [sum(mark.marked(token) for token in tokens) for mark in MARKS]
    return MARKS[counts.index(max(counts))] if max(counts) else None


def no_words(tokenizer: Tokenizer) -> InputError:
    """The error of examples whose words cannot be told."""
    return InputError(
        "the words of these examples cannot be told",
        where="whole_word_mask",
        expected="a column offset_mapping or word_ids, or a tokenizer whose tokens mark where words begin",
        found=type(tokenizer).__name__,
        remedy="Tokenize with return_offsets_mapping=True and return_special_tokens_mask=True, and keep both columns "
        "(remove_unused_columns=False).",
    )


def _numbered(new: np.ndarray, special: np.ndarray) -> np.ndarray:
    words: np.ndarray = np.cumsum(new, axis=1)
    words[special] = OUTSIDE
    return words
