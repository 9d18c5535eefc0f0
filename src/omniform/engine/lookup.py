"""Prompt lookup: a text that repeats itself (or what it was asked to edit) guesses its own continuation.

The last tokens of a row are looked for among those before them; what followed there is the guess
(https://github.com/apoorvumang/prompt-lookup-decoding). An index of runs of tokens grows with the row, so that a look
costs the same however long the row is. How far guesses go follows what became of them (:mod:`omniform.engine.pace`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import torch

from omniform.engine.drafts import Entry
from omniform.engine.pace import Pace, cost_of_token
from omniform.engine.request import NAMELESS, Request, Row
from omniform.engine.sampling import processed
from omniform.engine.settings import Settings

PLACES: Final = 4
"""How many of a run's first places are remembered, and as many of its last."""

LONGEST: Final = 32
"""Tokens that are compared before a place, to find the one that is most like the end of the row."""


class RunIndex:
    """Where runs of tokens stand in a text that grows.

    Args:
        size: the longest runs.
        before: tokens that come before the text's own, and that it may repeat.
    """

    def __init__(self, size: int, before: Sequence[int] = ()) -> None:
        self._size = size
        self._before = [*before, NAMELESS] if before else []
        self._text = list(self._before)
        self._known = 0
        self._first: list[dict[tuple[int, ...], list[int]]] = [{} for _ in range(size)]
        self._last: list[dict[tuple[int, ...], deque[int]]] = [{} for _ in range(size)]

    def grow(self, tokens: Sequence[int]) -> None:
        """Read what is new of a row's tokens; all of them where it begins anew."""
        read = len(self._text) - len(self._before)
        if read > len(tokens):
            self.__init__(self._size, self._before[:-1])  # type: ignore[misc]
            read = 0
        self._text += tokens[read:]
        # A run that ends with the last token has nothing after it yet.
        for end in range(max(self._known, 1), len(self._text)):
            for size in range(1, min(self._size, end) + 1):
                run = tuple(self._text[end - size : end])
                if NAMELESS in run:
                    break
                first = self._first[size - 1].setdefault(run, [])
                if len(first) < PLACES:
                    first.append(end)
                else:
                    self._last[size - 1].setdefault(run, deque(maxlen=PLACES)).append(end)
        self._known = len(self._text)

    def follows(self, most: int) -> Iterator[list[int]]:
        """What may follow, at most so many tokens, the likeliest guess first.

        Longer runs come before shorter ones; of the places of one run, those that are like the end of the text for
        longest, and of these the earliest.
        """
        text = self._text
        for size in range(min(self._size, len(text) - 1), 0, -1):
            run = tuple(text[-size:])
            places = [*self._first[size - 1].get(run, ()), *self._last[size - 1].get(run, ())]
            for place in sorted(places, key=self._alike, reverse=True):
                found = text[place : place + most]
                if NAMELESS in found:
                    found = found[: found.index(NAMELESS)]
                if found:
                    yield found

    def _alike(self, place: int) -> int:
        """How many tokens before a place are those at the end of the text."""
        text = self._text
        most = min(place, LONGEST)
        return next((n for n in range(most) if text[place - 1 - n] != text[-1 - n]), most)


class PromptLookup:
    """Guesses for rows that repeat themselves, their prompt, or what an encoder has read for them.

    Args:
        vocabulary: how many tokens the model knows; None if nobody knows.
    """

    def __init__(self, vocabulary: int | None) -> None:
        self._vocabulary = vocabulary
        self._indices: dict[int, tuple[Row, RunIndex, Pace]] = {}
        self._cost = 1.0

    def draft(self, entries: Sequence[Entry], most: Sequence[int]) -> list[list[int]]:
        """See :class:`~omniform.engine.drafts.Drafter`."""
        self._cost = cost_of_token(len(entries))
        return [self._guess(request, row, room) for (request, row), room in zip(entries, most, strict=True)]

    def _guess(self, request: Request, row: Row, room: int) -> list[int]:
        guessing = request.settings.guessing
        known = self._indices.get(id(row))
        if known is None or known[0] is not row:
            known = self._indices[id(row)] = row, RunIndex(guessing.ngram, row.source or ()), Pace()
        _, index, pace = known
        length = pace.length(min(room, guessing.lookup), self._cost)
        if not length:
            return []
        index.grow(row.tokens)
        for found in index.follows(length):
            guesses = found[: allowed(row, request.settings, found, self._vocabulary)]
            if guesses:
                return guesses
        return []

    def confirmed(self, row: Row, drafted: int, right: int) -> None:
        """Guess farther or less far from now on."""
        known = self._indices.get(id(row))
        if known is not None:
            known[2].learn(drafted, right, self._cost)

    def over(self, request: Request) -> None:
        """Forget a request's rows."""
        for row in request.rows:
            self._indices.pop(id(row), None)


def allowed(row: Row, settings: Settings, guesses: Sequence[int], vocabulary: int | None) -> int:
    """How many of some guesses a row's rules let it write, up to the first that they forbid."""
    guesses = guesses[: _fit(row, guesses)]
    if vocabulary is None or not guesses or not (settings.has_token_rules or settings.suppress_tokens):
        return len(guesses)
    known = next((i for i, token in enumerate(guesses) if token >= vocabulary), len(guesses))
    guesses = guesses[:known]
    rows = [_ahead(row, guesses[:i]) for i in range(len(guesses))]
    scores = processed(rows, replace(settings, do_sample=False), torch.ones(len(guesses), vocabulary))
    held = scores[range(len(guesses)), list(guesses)].isneginf().tolist()
    return held.index(True) if True in held else len(guesses)


def _fit(row: Row, guesses: Sequence[int]) -> int:
    """How many of some guesses fit a row's grammar."""
    if row.guide is None:
        return len(guesses)
    matcher = row.guide.copy()
    matcher.follow(row.tokens[row.prompt :])
    return next((i for i, token in enumerate(guesses) if not matcher.accept(token)), len(guesses))


def _ahead(row: Row, guesses: Sequence[int]) -> Row:
    ahead = Row([*row.tokens, *guesses], row.prompt)
    ahead.nameless, ahead.source = row.nameless, row.source
    return ahead
