"""How far to guess: as far as guesses came true lately, and as a step with more tokens costs.

A step reads every weight once, however many tokens it has, and then multiplies by each token. If a guess comes true
with probability p as long as those before it did, and one more token costs c steps, a step with n guesses writes
1 + p + ... + p^n tokens for 1 + c n steps; the best n is where one more guess no longer raises the ratio
(https://arxiv.org/abs/2211.17192, section 3.4). What is written never depends on it, only when.
"""

from __future__ import annotations

from typing import Final

TOKEN: Final = 0.15
"""What multiplying by a token takes, of what reading the weights takes: for bfloat16 on a CPU, read from memory.
Narrower weights are read faster (0.2 for int8, 0.3 for four bits), accelerators multiply faster (below 0.01); the best
length changes little with it."""

FADING: Final = 0.8
"""How much of what is known of earlier steps still counts, step by step."""

LONGEST_PAUSE: Final = 32
"""Steps without a guess, at most, after which one is tried again."""


def cost_of_token(rows: int) -> float:
    """What one more token of a row costs, of the row's share of a step: rows share the reading of the weights."""
    return TOKEN / (1 / max(rows, 1) + TOKEN)


def best_length(chance: float, cost: float, most: int) -> int:
    """How many guesses write most tokens in a step's time.

    Args:
        chance: that a guess comes true after those before it did.
        cost: of one more token, and of guessing it, in steps.
        most: how many there may be.
    """
    written, gain, length = 1.0, chance, 0
    while length < most and gain * (1 + cost * length) > cost * written:
        written, gain, length = written + gain, gain * chance, length + 1
    return length


class Pace:
    """How far one row's guesses go; told what became of them.

    It begins as far as is asked for, follows what became of the last few steps' guesses, and pauses where they do not
    pay, longer each time in vain.
    """

    def __init__(self) -> None:
        self._right, self._wrong = 6.0, 0.25
        self._pause = self._wait = 0

    @property
    def chance(self) -> float:
        """How likely a guess comes true, as of late."""
        return self._right / (self._right + self._wrong)

    def length(self, most: int, cost: float) -> int:
        """How many guesses to make in this step; a single one to try again after a pause. See :func:`best_length`."""
        if self._wait:
            self._wait -= 1
            return 0
        return best_length(self.chance, cost, most) or min(most, 1)

    def learn(self, drafted: int, right: int, cost: float) -> None:
        """Of so many guesses so many came true."""
        if not drafted:
            return
        self._right = FADING * self._right + right
        self._wrong = FADING * self._wrong + (right < drafted)
        if best_length(self.chance, cost, 1):
            self._pause = 0
        else:
            self._pause = self._wait = min(2 * self._pause or 2, LONGEST_PAUSE)
