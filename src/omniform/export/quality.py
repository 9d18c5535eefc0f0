"""What a change of a model's numbers costs: perplexity, how far its next tokens are from before, and how fast it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.core.errors import InputError

WINDOW = 512
"""Tokens of a text that are read at once."""

LEAST = 2
"""Tokens of a text at least: one is foretold."""

Scores = Callable[[Tensor], Tensor]
"""Token ids, Shape: [1, T], to the scores of what follows each, Shape: [1, T, V]."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a model foretells a text.

    Attributes:
        tokens: how many were foretold.
        perplexity: e to the mean of their negative log-likelihoods.
        divergence: the mean over them of the Kullback-Leibler divergence of its next tokens from those of the model
            beside it, in nats; None without one.
        agreement: of how many of them the likeliest token is the same; None likewise.
    """

    tokens: int
    perplexity: float
    divergence: float | None = None
    agreement: float | None = None


def windows(rows: Sequence[Sequence[int]], size: int = WINDOW) -> Iterator[Tensor]:
    """Texts as pieces of so many tokens at most. Shape: [1, T] each.

    Raises:
        InputError: no text has two tokens.
    """
    long = [row for row in rows if len(row) >= LEAST]
    if not long:
        raise InputError(
            "the text is too short to tell how well it is foretold",
            where="data",
            expected=f"{LEAST} tokens at least",
            found=f"{sum(map(len, rows))} tokens",
        )
    for row in long:
        for first in range(0, len(row), size):
            if len(row) - first >= LEAST:
                yield torch.tensor([list(row[first : first + size])])


@torch.no_grad()
def quality(pieces: Sequence[Tensor], scores: Scores, before: Scores | None = None) -> Quality:
    """How well a model foretells pieces of text, and how far it is from another.

    Args:
        pieces: Shape: [1, T] each.
        scores: the model.
        before: the other.

    Raises:
        InputError: the scores are no numbers.
    """
    loss = divergence = 0.0
    agreed = count = 0
    for ids in pieces:
        given = scores(ids)[0, :-1].float()
        told = F.log_softmax(given, -1)
        loss -= float(told.gather(-1, ids[0, 1:, None]).double().sum())
        count += ids.shape[1] - 1
        if before is not None:
            was = F.log_softmax(before(ids)[0, :-1].float(), -1)
            divergence += float((was.exp() * (was - told)).double().sum())
            agreed += int((was.argmax(-1) == told.argmax(-1)).sum())
    if not math.isfinite(loss):
        raise InputError("the model's scores are no numbers", where="data", expected="finite scores", found=loss)
    perplexity = math.exp(min(loss / count, 700.0))
    if before is None:
        return Quality(count, perplexity)
    return Quality(count, perplexity, max(0.0, divergence / count), agreed / count)


def scores_of(model: nn.Module) -> Scores:
    """A model's scores."""
    return lambda ids: cast(Tensor, model(ids).logits)


def tokens_per_second(write: Callable[[int], object], few: int = 8, many: int = 40) -> float:
    """How fast tokens are written, what a call takes besides left out; the better of two tries.

    Args:
        write: writes so many tokens.
    """
    write(few)  # loads what is loaded when it is first used
    best = math.inf
    for _ in range(2):
        started = time.perf_counter()
        write(few)
        between = time.perf_counter()
        write(many)
        best = min(best, (time.perf_counter() - between) - (between - started))
    return (many - few) / max(best, 1e-9)
