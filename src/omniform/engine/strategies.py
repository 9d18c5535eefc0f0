"""Decoding strategies: how the rows of one request go on together.

Most rows choose each for itself (greedy, sampling), and the writer chooses for all such rows of all requests at once.
What has to look at several rows of a request, or at more than the scores of its last token, is a :class:`Strategy`: it
is told what every step gave for its rows, and moves them on with the hands that the writer lends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.engine.beams import Hypothesis
from omniform.engine.request import Request, Row, StepNotes
from omniform.engine.runner import ChunkOutput


class Hands(Protocol):
    """What a strategy may do to rows; the writer."""

    def fork(self, row: Row, number: int) -> Row:
        """A second row that continues the first, sharing what was computed of it."""
        ...

    def release(self, row: Row) -> None:
        """Let go of what was computed of a row."""
        ...

    def roll_back(self, row: Row, tokens: int) -> None:
        """Forget what was computed of a row after its first ``tokens`` tokens."""
        ...

    def append(
        self, request: Request, row: Row, token: int, logits_V: Tensor, scores_V: Tensor, *, ends: bool = False
    ) -> None:
        """Let a row write a token: note what is to be noted, look for an end, tell the sink."""
        ...

    def generator(self, request: Request, number: int) -> torch.Generator | None:
        """What the answer of this number draws from; None for torch's global generator."""
        ...

    def is_late(self, request: Request) -> bool:
        """Whether a request's time is up."""
        ...


class Strategy(Protocol):
    """How the rows of one request go on together.

    Attributes:
        lockstep: rows choose together, once all of them have been read to their end.
        reads_prompt: the output of every token of the prompt is wanted; so none of them is taken over from others.
    """

    lockstep: ClassVar[bool]
    reads_prompt: ClassVar[bool]

    @property
    def over(self) -> bool:
        """Whether the request has its answers."""
        ...

    def seat(self, request: Request) -> None:
        """The first row is ready to be read: add the others that begin with it."""
        ...

    def read(self, request: Request, output: ChunkOutput) -> None:
        """Look at a part of a row that is not its last: only where ``reads_prompt``."""
        ...

    def advance(self, request: Request, outputs: Sequence[ChunkOutput], hands: Hands) -> None:
        """Every row has been read to its end: choose, and move rows on. ``over`` ends the request."""
        ...

    def restart(self, request: Request) -> None:
        """A step was interrupted: the request goes on with rows that were not changed half-way, all to be read anew."""
        ...

    def hypotheses(self) -> list[Hypothesis] | None:
        """The answers, best first, where they are not what the rows hold."""
        ...

    def steps(self) -> StepNotes | None:
        """What was noted of every step, where that is not noted row by row."""
        ...


def strategy_of(request: Request) -> Strategy | None:
    """How a request's rows go on; None where each chooses for itself."""
    from omniform.engine.beam_strategy import beams_of

    if request.settings.num_beams > 1:
        return beams_of(request)
    if request.settings.penalty_alpha and request.settings.top_k > 1:
        from omniform.engine.contrastive import contrastive_of

        return contrastive_of(request)
    if request.parts.some("constraints") is not None:
        raise InputError(
            "constraints are kept by a beam search only", where="constraints", expected="num_beams > 1 beside them",
            found="num_beams=1",
        )  # fmt: skip
    return None
