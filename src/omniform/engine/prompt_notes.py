"""How likely a prompt's own tokens are, noted from the one pass that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.engine.request import Request, Row, TokenLogprob
from omniform.engine.runner import ChunkOutput

SCORES_AT_ONCE: Final = 2**24
"""Scores that are made of hidden states at a time: a long prompt times a large vocabulary would be gigabytes."""


class PromptNotes:
    """Notes how likely each token of a prompt was after those before it.

    Args:
        top: how many of the likeliest tokens to name beside each.
        continuation: tokens that are read behind the prompt that a request brings; only those are told of then.
        ends: tokens to be told of as what might follow the last token that is read.

    Attributes:
        first: the first of the tokens whose output is looked at; those before it may be taken over from others.
        logprobs: of the tokens after it, in order; None for vectors, which are no token's.
        ends: of what might follow.
    """

    def __init__(self, top: int, continuation: Sequence[int] | None = None, ends: Sequence[int] = ()) -> None:
        self.first = 0
        self.logprobs: list[TokenLogprob | None] = []
        self.ends: list[TokenLogprob] = []
        self._top = top
        self._continuation = continuation
        self._asked = tuple(ends)
        self._whole = False

    def seat(self, row: Row) -> None:
        """The row is ready to be read: add what follows its prompt."""
        if self._continuation is not None:
            self.first = row.prompt - 1
            row.tokens += self._continuation
            row.prompt += len(self._continuation)

    @property
    def next(self) -> int | None:
        """The next token whose output is to be looked at; None once all were."""
        return None if self._whole else self.first + len(self.logprobs)

    def read(self, row: Row, output: ChunkOutput) -> None:
        """Note what a step tells of the prompt's next tokens; what was noted before is passed over."""
        stop = min(output.first + len(output.hidden), row.prompt - 1)
        while (at := self.next) is not None and output.first <= at < stop:
            hidden = output.hidden[at - output.first : stop - output.first]
            hidden = hidden[: max(1, SCORES_AT_ONCE // max(1, self._width(output)))]
            followed = row.tokens[at + 1 : at + 1 + len(hidden)]
            self.logprobs += logprobs_of_rows(output.project(hidden), followed, self._top)
        if self.next == row.prompt - 1:
            if self._asked and output.first + len(output.hidden) >= row.prompt:
                hidden = output.hidden[row.prompt - 1 - output.first :][:1]
                scores = output.project(hidden).expand(len(self._asked), -1)
                found = logprobs_of_rows(scores, self._asked, self._top)
                self.ends = [one for one in found if one is not None]
            self._whole = not self._asked or bool(self.ends)

    def whole(self, prompt: int) -> list[TokenLogprob | None]:
        """One for each of a prompt's tokens, whose first has none."""
        told = [*[None] * (self.first + 1), *self.logprobs]
        return told[:prompt] + [None] * (prompt - len(told))

    def _width(self, output: ChunkOutput) -> int:
        if output.logits.shape[0]:
            return output.logits.shape[-1]
        return int(output.project(output.hidden[:1]).shape[-1])


def logprobs_of_rows(logits_TV: Tensor, tokens: Sequence[int], top: int) -> list[TokenLogprob | None]:
    """How likely tokens were under the model itself, and the likeliest ones.

    Args:
        logits_TV: the model's scores, one row for each token.
        tokens: those that came; one that the model cannot write (a vector's place, say) has no probability.
        top: how many of the likeliest to name.
    """
    logprobs = logits_TV.float().log_softmax(-1)
    known = [0 <= token < logprobs.shape[-1] for token in tokens]
    places = [token if fits else 0 for token, fits in zip(tokens, known, strict=True)]
    own = logprobs.gather(-1, torch.tensor(places, device=logprobs.device)[:, None])[:, 0].tolist()
    if top == 1:  # of equals the first, as it is chosen
        indices = logprobs.argmax(-1, keepdim=True)
        best = indices.tolist(), logprobs.gather(-1, indices).tolist()
    else:
        values, indices = logprobs.topk(min(top, logprobs.shape[-1]))
        best = indices.tolist(), values.tolist()
    return [
        TokenLogprob(token, value, tuple(zip(names, odds, strict=True))) if fits else None
        for token, value, fits, names, odds in zip(tokens, own, known, *best, strict=True)
    ]


def notes_of(request: Request) -> PromptNotes | None:
    """What a request's settings ask to be noted of its prompt; None for nothing.

    Raises:
        InputError: its prompt's first tokens come from a cache, so that nothing tells how likely they were.
    """
    top = request.settings.prompt_logprobs
    if top is None:
        return None
    if request.prompt.given is not None:
        raise InputError(
            "what a cache holds is not read again, so nobody knows how likely it was",
            where="prompt_logprobs",
            expected="None beside past_key_values",
            found=top,
        )
    return PromptNotes(top)
