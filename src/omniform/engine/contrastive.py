"""Contrastive search: likely tokens that do not repeat what the model has in mind already.

Su et al. 2022 (https://arxiv.org/abs/2202.06417, section 3.2): of the ``top_k`` likeliest tokens the one is written for
which ``(1 - penalty_alpha) * probability - penalty_alpha * the largest cosine`` is highest, of its hidden state with
those of all tokens before. A step computes all candidates of the next token; they share what came before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.errors import InputError
from omniform.engine.beams import Hypothesis
from omniform.engine.request import Request, Row, StepNotes
from omniform.engine.runner import ChunkOutput
from omniform.engine.sampling import processed, refuse_no_numbers
from omniform.engine.strategies import Hands


class Contrastive:
    """One request's contrastive search: its rows are the candidates of its next token."""

    lockstep: ClassVar[bool] = True
    reads_prompt: ClassVar[bool] = True

    def __init__(self) -> None:
        self._seen: list[Tensor] = []  # unit vectors of the tokens that count, in order. Shape: [n, D] each
        self._base: Row | None = None  # what the candidates continue; None while it is still being read
        self._odds = torch.empty(0)
        self._logits = self._scores = torch.empty(0)

    @property
    def over(self) -> bool:
        return False  # the row's own end is the request's

    def seat(self, request: Request) -> None:
        """The prompt is one row."""

    def read(self, request: Request, output: ChunkOutput) -> None:
        if self._base is not None:
            return
        known = sum(len(part) for part in self._seen)
        fresh = output.hidden[max(0, known - output.first) :].float()
        if len(fresh):
            self._seen.append(F.normalize(fresh, dim=-1))

    def restart(self, request: Request) -> None:
        if self._base is not None:
            row, self._base = self._base, None
            row.tables, row.contents, row.computed = {}, [], 0
            request.rows = [row]
        self._seen = []

    def hypotheses(self) -> list[Hypothesis] | None:
        return None

    def steps(self) -> StepNotes | None:
        return None

    def advance(self, request: Request, outputs: Sequence[ChunkOutput], hands: Hands) -> None:
        if self._base is None:
            self._branch(request, outputs[0].chunk.row, outputs[0].logits[-1:], hands)
            return
        hidden = F.normalize(torch.cat([output.hidden[-1:] for output in outputs]).float(), dim=-1)
        context = torch.cat(self._seen)
        alike = (hidden @ context.T).amax(-1)
        alpha = request.settings.penalty_alpha
        best = int(((1 - alpha) * self._odds.to(alike.device) - alpha * alike).argmax())
        self._seen = [context, hidden[best : best + 1]]
        chosen, base = outputs[best].chunk.row, self._base
        chosen.logprobs, chosen.scores, chosen.logits = base.logprobs, base.scores, base.logits
        token = chosen.tokens.pop()
        for output in outputs:
            if output.chunk.row is not chosen:
                hands.release(output.chunk.row)
        hands.release(base)
        request.rows = [chosen]
        hands.append(request, chosen, token, self._logits, self._scores)
        if chosen.finished is None:
            self._branch(request, chosen, outputs[best].logits[-1:], hands)

    def _branch(self, request: Request, base: Row, logits_1V: Tensor, hands: Hands) -> None:
        """Let the likeliest tokens after a row be computed, each in a row of its own."""
        scores = processed([base], request.settings, logits_1V, request.hooks).float()
        odds = scores.softmax(-1)
        refuse_no_numbers(odds[:, 0].isnan(), [base], logits_1V, [request.prompt.place])
        best = odds[0].topk(min(request.settings.top_k, odds.shape[-1]))
        self._base, self._odds, self._logits, self._scores = base, best.values, logits_1V[0], scores[0]
        request.rows = []
        for token in best.indices.tolist():
            row = hands.fork(base, base.number)
            row.generator = base.generator
            row.tokens.append(token)
            request.rows.append(row)


def contrastive_of(request: Request) -> Contrastive:
    """The contrastive search that a request asks for.

    Raises:
        InputError: it asks for several answers too.
    """
    if request.settings.num_return_sequences > 1:
        raise InputError(
            "contrastive search has one answer", where="num_return_sequences", expected="1 beside penalty_alpha",
            found=request.settings.num_return_sequences,
        )  # fmt: skip
    return Contrastive()
