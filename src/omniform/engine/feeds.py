"""What ``generate(streamer=...)`` does after each step: hand on what is new, as columns of all rows or row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from omniform.engine.request import Completion
from omniform.engine.streamers import RowStreamer, Streamer


class Answered(Protocol):
    """What one prompt of a call has given so far."""

    @property
    def prompt(self) -> Sequence[int]:
        """The tokens before its answers."""
        ...

    @property
    def tokens(self) -> Sequence[Sequence[int]]:
        """Those of its answers, as many of these as have begun."""
        ...

    @property
    def completion(self) -> Completion | None:
        """The outcome, when it is over."""
        ...


class Feed(Protocol):
    """Tells somebody of answers in the making."""

    def step(self) -> None:
        """Tell what is new."""
        ...

    def end(self) -> None:
        """All answers are over."""
        ...


class NoFeed:
    """Nobody listens."""

    def step(self) -> None: ...

    def end(self) -> None: ...


class ColumnFeed:
    """The prompts in one tensor, then a token of each row at a time, as the ecosystem's streamers take them.

    Args:
        streamer: takes them.
        answers: of each prompt.
        given: the prompts as the caller laid them out, Shape: [B, T]; None where the model has its own.
        each: how many answers every prompt has.
        pad: stands for rows that ended before others.
    """

    def __init__(
        self, streamer: Streamer, answers: Sequence[Answered], given: Tensor | None, *, each: int, pad: int
    ) -> None:
        self._streamer = streamer
        self._answers = answers
        self._given = given
        self._each = each
        self._pad = pad
        self._shown = 0

    def step(self) -> None:
        for column in columns(self._answers, self._pad, self._shown):
            if self._shown == 0:
                self._streamer.put(self._prompts())
            self._streamer.put(column)
            self._shown += 1

    def end(self) -> None:
        self._streamer.end()

    def _prompts(self) -> Tensor:
        if self._given is not None:
            return self._given.cpu().repeat_interleave(self._each, dim=0)
        prompts = [list(answer.prompt) for answer in self._answers for _ in range(self._each)]
        longest = max(map(len, prompts))
        return torch.tensor([[self._pad] * (longest - len(prompt)) + prompt for prompt in prompts])


class RowFeed:
    """Each row by itself, as far as it has come.

    Args:
        streamer: takes them.
        answers: of each prompt.
        each: how many answers every prompt has.
    """

    def __init__(self, streamer: RowStreamer, answers: Sequence[Answered], *, each: int) -> None:
        self._streamer = streamer
        self._answers = answers
        self._each = each
        self._shown: dict[int, int] = {}
        self._over: set[int] = set()

    def step(self) -> None:
        for number, answer in enumerate(self._answers):
            for place, tokens in enumerate(answer.tokens):
                row = number * self._each + place
                if row in self._over:
                    continue
                if row not in self._shown:
                    self._shown[row] = 0
                    self._streamer.begin_row(row, answer.prompt)
                for token in tokens[self._shown[row] :]:
                    self._streamer.put_row(row, token)
                self._shown[row] = len(tokens)
                if answer.completion is not None:
                    self._over.add(row)
                    self._streamer.end_row(row)

    def end(self) -> None:
        self._streamer.end()


def feed_of(
    streamer: Streamer | None, answers: Sequence[Answered], given: Tensor | None, *, each: int, pad: int
) -> Feed:
    """What tells a streamer in the way that it takes; see :class:`ColumnFeed`."""
    if streamer is None:
        return NoFeed()
    if isinstance(streamer, RowStreamer):
        return RowFeed(streamer, answers, each=each)
    return ColumnFeed(streamer, answers, given, each=each, pad=pad)


def columns(answers: Sequence[Answered], pad: int, shown: int) -> Iterator[Tensor]:
    """The steps after the first ``shown`` that every row has reached or will not reach. Shape: [B] each."""
    while all((answer.tokens and (answer.completion is not None)) or _reached(answer, shown) for answer in answers):
        rows = [row for answer in answers for row in answer.tokens]
        if not any(len(row) > shown for row in rows):
            return
        yield torch.tensor([row[shown] if len(row) > shown else pad for row in rows])
        shown += 1


def _reached(answer: Answered, step: int) -> bool:
    return bool(answer.tokens) and all(len(row) > step for row in answer.tokens)
