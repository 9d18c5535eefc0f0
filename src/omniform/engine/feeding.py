"""What rows read next where that is not the token that they wrote: a talker reads the sum of a whole frame's codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from omniform.engine.request import Row


class Feeder(Protocol):
    """Makes what some rows read next; requests that share one are fed together."""

    def feed(self, rows: Sequence[Row], mind_RD: Tensor) -> None:
        """Put into :attr:`Row.fed` what stands in the place of the token that each row has just written.

        Args:
            rows: those that go on.
            mind_RD: the hidden states that their tokens were chosen by.
        """
        ...
