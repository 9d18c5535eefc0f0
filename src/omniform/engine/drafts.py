"""Speculation: guesses at what a row will write next, which one step of the model confirms all at once.

A row's guesses stand behind its tokens for one step only. The writer chooses each token as ever, by the scores after
the one before; as long as the choice is the guess, the scores after that are there already. So a row's tokens are the
same with and without guesses; only the number of steps differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from omniform.engine.request import Request, Row


class Drafter(Protocol):
    """Guesses what rows of one request will write next."""

    def draft(self, rows: Sequence[Row], most: Sequence[int]) -> list[list[int]]:
        """Guesses for each row; none where there is nothing to guess.

        Args:
            rows: read to their end but for the token written last.
            most: how many guesses each has room for.
        """
        ...

    def confirmed(self, row: Row, drafted: int, right: int) -> None:
        """Of a row's guesses in one step, so many came true."""
        ...


def place_drafts(requests: Sequence[Request]) -> None:
    """Put guesses behind the tokens of all rows that write, where their requests have somebody who guesses."""
    for request in requests:
        if request.drafter is None or request.strategy is not None or request.alone:
            continue
        rows = [row for row in request.running if row.pending == 1 and row.written]
        most = [request.settings.max_new_tokens - row.written - 1 for row in rows]
        for row, room, guesses in zip(rows, most, request.drafter.draft(rows, most), strict=True):
            row.tokens += guesses[:room]
            row.drafted = len(guesses[:room])
