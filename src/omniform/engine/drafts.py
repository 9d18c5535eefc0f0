"""Speculation: guesses at what a row will write next, which one step of the model confirms all at once.

A row's guesses stand behind its tokens for one step only. The writer chooses each token as ever, by the scores after
the one before; as long as the choice is the guess, the scores after that are there already. So a row's tokens are the
same with and without guesses, whoever guesses; only the number of steps differs. Where rows draw from torch's global
generator, a guess may be a *proposal* (:mod:`omniform.engine.speculative`): then what is drawn changes, and its
distribution does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from omniform.core.state import LengthRegimes
from omniform.engine.request import Request, Row

Entry = tuple[Request, Row]


class Drafter(Protocol):
    """Guesses what rows will write next."""

    def draft(self, entries: Sequence[Entry], most: Sequence[int]) -> list[list[int]]:
        """Guesses for each row; none where there is nothing to guess.

        What it leaves in a row's ``proposals`` has to begin with these guesses.

        Args:
            entries: rows that have written something and are to go on, with their requests.
            most: how many guesses each has room for.
        """
        ...

    def confirmed(self, row: Row, drafted: int, right: int) -> None:
        """Of a row's guesses in one step, so many came true."""
        ...

    def over(self, request: Request) -> None:
        """A request has ended: what is kept for it can go."""
        ...


def place_drafts(
    requests: Sequence[Request],
    knows: Callable[[int], bool],
    regimes: Sequence[LengthRegimes],
    fail: Callable[[Request, BaseException], None],
) -> None:
    """Put guesses behind the tokens of all rows that write, where their requests have somebody who guesses.

    Args:
        requests: those that run.
        knows: whether a token is in the model's vocabulary.
        regimes: what keys depend on besides their tokens; no guesses go beyond where a row has to be computed anew.
        fail: ends a request whose drafter failed.
    """
    asked: dict[int, list[Entry]] = {}
    for request in requests:
        if request.drafter is None or request.strategy is not None or request.alone:
            continue
        for row in request.running:
            # A state of fixed size that went back reads again what came true: such rows have more than one token to go.
            if not row.written or row.computed < row.prompt:
                continue
            if row.proposals:
                _place(request, row, [proposal.token for proposal in row.proposals], knows, regimes)
            else:
                asked.setdefault(id(request.drafter), []).append((request, row))
    for entries in asked.values():
        drafter = entries[0][0].drafter
        assert drafter is not None
        try:
            found = drafter.draft(entries, [_room(*entry) for entry in entries])
        except Exception as error:
            for request in {id(request): request for request, _ in entries}.values():
                fail(request, error)
            continue
        for (request, row), guesses in zip(entries, found, strict=True):
            _place(request, row, guesses, knows, regimes)


def _room(request: Request, row: Row) -> int:
    return max(0, request.settings.max_new_tokens - row.written - 1)


def _place(
    request: Request, row: Row, guesses: list[int], knows: Callable[[int], bool], regimes: Sequence[LengthRegimes]
) -> None:
    """Put guesses behind a row's tokens, up to the first that would end it or that cannot be: it need not be read."""
    ends = request.settings.eos_set
    stop = next((i for i, token in enumerate(guesses) if token in ends or not knows(token)), len(guesses))
    guesses = guesses[: min(stop, _room(request, row))]
    kinds = [kind for kind in regimes if kind.renews]
    while guesses and any(
        kind.regime(row.regime_length) != kind.regime(len(row.tokens) + len(guesses)) for kind in kinds
    ):
        guesses.pop()
    row.tokens += guesses
    row.drafted = len(guesses)
