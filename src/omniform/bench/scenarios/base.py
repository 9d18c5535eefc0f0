"""What a scenario is."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..backends.base import Backend
from ..job import Job

Values = Mapping[str, float | Sequence[float]]
"""What one sample gives, by the measures' names: a number, or several."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Of a measure: its unit, and which way is better."""

    unit: str
    better: str = "lower"


SECONDS = Kind("s")
SPEED = Kind("tokens/s", "higher")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Parameters of what is done.

    Attributes:
        NEEDS: what a backend must be able to do.
        GIVES: the measures, the one by which warming up is judged first.
        FRESH: whether every sample takes a process of its own.
        TASK: what the model is loaded for.
    """

    NEEDS: ClassVar[tuple[str, ...]] = ()
    GIVES: ClassVar[Mapping[str, Kind]] = {}
    FRESH: ClassVar[bool] = False

    def check(self) -> None:
        """Refuse parameters that contradict one another.

        Raises:
            ValueError: they do; says how.
        """

    def begin(self, backend: Backend, job: Job) -> Callable[[], Values]:
        """Prepare all that is not measured.

        Returns:
            Does the work once, and says what it measured.
        """
        raise NotImplementedError

    def end(self) -> None:
        """Give back what :meth:`begin` took."""

    def answer(self, backend: Backend) -> Sequence[float]:
        """What the work comes to, in a few numbers, so that contenders can be held to the first one's; none where they
        cannot be compared."""
        return ()

    def work(self, backend: Backend) -> tuple[float, float] | None:
        """FLOP and bytes that the first measure of a sample comes to; None where that is not known."""
        return None


def at_least(least: int, **values: int) -> None:
    """Refuse numbers that are too small.

    Raises:
        ValueError: the first that is.
    """
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is {value}, and must be {least} or more")


def tokens(name: str, length: int, vocabulary: int) -> list[int]:
    """Random tokens, the same for everyone who asks by the same name; none of the first few, which are special."""
    chance = random.Random(name)
    return [chance.randrange(min(8, vocabulary - 1), vocabulary) for _ in range(length)]
