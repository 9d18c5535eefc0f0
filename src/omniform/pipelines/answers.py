"""The likeliest spans of a text, out of scores of every token as the first and the last of an answer.

A span counts as likely as its first token as a first one times its last token as a last one; no span is longer than
asked (Chen et al. 2017, "Reading Wikipedia to Answer Open-Domain Questions", section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Span = tuple[int, int]


class Answer(TypedDict):
    """A stretch of the context, from character ``start`` to before ``end``, and how likely it is the answer."""

    score: float
    start: int
    end: int
    answer: str


@dataclass(frozen=True, slots=True)
class Likely:
    """Tokens ``first`` to ``last`` of a row, both included."""

    first: int
    last: int
    score: float


def shares(scores_T: Floats, counted_T: Flags) -> Floats:
    """Softmax over those places that count; the others have nothing. Shape: [T]."""
    if not counted_T.any():
        return np.zeros_like(scores_T)
    raised = np.exp(scores_T - scores_T[counted_T].max(), where=counted_T, out=np.zeros_like(scores_T))
    total = float(raised.sum())
    return np.asarray(raised / total, dtype=np.float64)


def likeliest_spans(first_T: Floats, last_T: Floats, inside_T: Flags, longest: int, most: int) -> list[Likely]:
    """The likeliest spans that begin and end inside, the best first.

    Args:
        first_T: each token's share as the first of the answer. Shape: [T].
        last_T: likewise as the last.
        inside_T: whether an answer may begin or end there.
        longest: tokens that an answer has at most.
        most: so many spans at most.
    """
    width = min(longest, len(first_T))
    if not width or not inside_T.any():
        return []
    # One row for each first token, one column for each length; -1 where no answer is.
    outside = np.concatenate([np.where(inside_T, last_T, -1.0), np.full(width - 1, -1.0)])
    ends_TL = np.lib.stride_tricks.sliding_window_view(outside, width)
    flat = np.where(inside_T[:, None] & (ends_TL >= 0), first_T[:, None] * ends_TL, -1.0).reshape(-1)
    most = min(most, int((flat >= 0).sum()))
    best = np.argpartition(-flat, most - 1)[:most] if most < flat.size else np.arange(flat.size)
    best = best[np.lexsort((best, -flat[best]))][:most]
    return [Likely(int(at // width), int(at // width + at % width), float(flat[at])) for at in best]


def word_spans(offsets: Sequence[Span], words: Sequence[int | None], inside: Sequence[bool]) -> list[Span]:
    """For each token the characters of the word that it is part of; its own where it is of none.

    Args:
        offsets: each token's own characters.
        words: each token's word.
        inside: which tokens are of the text whose words these are (the question's have the same numbers).
    """
    begins: dict[int, int] = {}
    ends: dict[int, int] = {}
    for (start, end), word, counts in zip(offsets, words, inside, strict=True):
        if counts and word is not None:
            begins.setdefault(word, start)
            ends[word] = end
    return [
        (begins[word], ends[word]) if counts and word is not None else own
        for own, word, counts in zip(offsets, words, inside, strict=True)
    ]


def merged(found: Iterable[Answer]) -> list[Answer]:
    """Answers of the same words, in whatever case, as one: the first of them, with the sum of their scores."""
    kept: dict[str, Answer] = {}
    for answer in found:
        known = kept.setdefault(answer["answer"].lower(), {**answer, "score": 0.0})
        known["score"] += answer["score"]
    return list(kept.values())


def best_answers(found: Sequence[Answer], most: int) -> list[Answer]:
    """The likeliest first."""
    return sorted(found, key=lambda answer: answer["score"], reverse=True)[:most]
