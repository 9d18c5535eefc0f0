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

from omniform.engine.beams import BeamSearch, Hypothesis
from omniform.engine.request import Request, Row
from omniform.engine.runner import ChunkOutput
from omniform.engine.sampling import processed, refuse_no_numbers


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

    def append(self, request: Request, row: Row, token: int, logits_V: Tensor, scores_V: Tensor) -> None:
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
        reads_layers: so are the hidden states after each layer.
    """

    lockstep: ClassVar[bool]
    reads_prompt: ClassVar[bool]
    reads_layers: ClassVar[bool]

    @property
    def over(self) -> bool:
        """Whether the request has its answers."""
        ...

    def width(self, request: Request) -> int:
        """How many rows there are at once, at most."""
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
        """What was chosen is lost: the request begins again with its prompt."""
        ...

    def hypotheses(self) -> list[Hypothesis] | None:
        """The answers, best first, where they are not what the rows hold."""
        ...


class Beams:
    """Beam search: rows become others that continue them.

    Attributes:
        search: scores and choices; None before the first step.
    """

    lockstep: ClassVar[bool] = True
    reads_prompt: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = False

    def __init__(self) -> None:
        self.search: BeamSearch | None = None

    @property
    def over(self) -> bool:
        return self.search is not None and self.search.done

    def width(self, request: Request) -> int:
        return request.settings.num_beams

    def seat(self, request: Request) -> None:
        """The prompt is one row, whatever number of beams will continue it."""

    def read(self, request: Request, output: ChunkOutput) -> None:
        raise AssertionError("a beam search looks at the last tokens only")

    def restart(self, request: Request) -> None:
        self.search = None

    def hypotheses(self) -> list[Hypothesis] | None:
        return self.search.results() if self.search is not None and self.search.done else None

    def advance(self, request: Request, outputs: Sequence[ChunkOutput], hands: Hands) -> None:
        rows = [output.chunk.row for output in outputs]
        if self.search is None:
            self.search = BeamSearch(request.settings.beam_settings(), rows[0].generator)
        logits = torch.cat([output.logits for output in outputs]).float()
        logprobs = logits.log_softmax(-1)
        if not request.settings.remove_invalid:
            places = [request.prompt.place * request.settings.num_return_sequences] * len(rows)
            refuse_no_numbers(logprobs[:, 0].isnan(), rows, logits, places)  # one NaN makes the whole row NaN
        scores = processed(rows, request.settings, logprobs)
        late = hands.is_late(request)

        def ends(parent: int, token: int) -> bool:
            stops = request.stop_strings
            return late or (stops is not None and stops.ends([*rows[parent].named, token]))

        fork = self.search.advance(scores, ends)
        if self.search.done:
            return
        request.rows = [hands.fork(rows[parent], i) for i, parent in enumerate(fork.parents)]
        for row, token in zip(request.rows, fork.tokens, strict=True):
            row.tokens.append(token)
        for row in rows:
            hands.release(row)


def strategy_of(request: Request) -> Strategy | None:
    """How a request's rows go on; None where each chooses for itself."""
    return Beams() if request.settings.num_beams > 1 else None
