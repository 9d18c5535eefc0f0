"""Speculative sampling: tokens that another model drew, accepted so that the distribution stays the model's own.

A proposal x, drawn from q, is accepted with probability min(1, p(x) / q(x)); one that is not gives way to a draw from
the rest, max(p - q, 0) normalised (https://arxiv.org/abs/2211.17192, algorithm 1). Proposals that follow stay valid as
long as those before them were accepted, in whichever step that happens, and are void afterwards: so neither a short
step nor a preemption, which may depend on what was drawn, has any influence on what is written.

Rows with a seed have no proposals. Their guesses are drawn as they themselves will draw, with the same random numbers
(https://arxiv.org/abs/2408.07978): the better the assistant, the more often both draw the same, and what is written
does not depend on guesses at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omniform.engine.request import Row


def settle(rows: Sequence[Row], odds_RV: Tensor) -> list[int]:
    """The next token of rows that have proposals.

    Args:
        rows: each loses its first proposal, or all of them where that one is not accepted.
        odds_RV: the model's own distribution of each row's next token. Shape: [R, V].
    """
    proposals = [row.proposals.popleft() for row in rows]
    q_RV = torch.stack([_as_long(proposal.odds.to(odds_RV), odds_RV.shape[-1]) for proposal in proposals])
    tokens = [proposal.token for proposal in proposals]
    known = torch.tensor([token < odds_RV.shape[-1] for token in tokens], device=odds_RV.device)
    at = torch.tensor(tokens, device=odds_RV.device).clamp(max=odds_RV.shape[-1] - 1)[:, None]
    p, q = odds_RV.gather(1, at)[:, 0], q_RV.gather(1, at)[:, 0]
    accepted = (known & (torch.rand_like(p) * q < p)).tolist()
    rest_RV = (odds_RV - q_RV).clamp(min=0)
    # Nothing is left where both are the same but for rounding; then nothing was refused but by rounding either.
    rest_RV = torch.where(rest_RV.sum(-1, keepdim=True) > 0, rest_RV, odds_RV)
    others = torch.multinomial(rest_RV, 1)[:, 0].tolist()
    found: list[int] = []
    for row, token, other, kept in zip(rows, tokens, others, accepted, strict=True):
        if not kept:
            row.proposals.clear()
        found.append(token if kept else other)
    return found


def _as_long(odds_V: Tensor, length: int) -> Tensor:
    """A distribution over a vocabulary padded to another length."""
    return odds_V[:length] if len(odds_V) >= length else torch.nn.functional.pad(odds_V, (0, length - len(odds_V)))
