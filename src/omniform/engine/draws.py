"""Drawing a token: the few candidates that the filters leave, and torch's own draw among them.

``torch.multinomial`` draws one token as the place of the largest ``odds / q``, with an exponential number ``q`` for
every token of the vocabulary. Those numbers are most of its cost, and only the candidates' are looked at. So here the
stream of the generator goes on by the same number of draws, and the logarithms are taken of the candidates' only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from omniform.engine.processors.base import NEVER
from omniform.engine.processors.warpers import (
    atypical,
    below_epsilon,
    below_eta,
    below_min_p,
    kth,
    outside_top_p,
    within_top_h,
)
from omniform.engine.request import Row
from omniform.engine.settings import Settings

MANY = 4096
"""A vocabulary is worth looking at a part of it only from here on."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Scores of the tokens that are left, those of a row in the vocabulary's order.

    Attributes:
        scores: Shape: [R, C]; minus infinity where a row has fewer than others.
        tokens: which tokens they are of, Shape: [R, C]; None for all of the vocabulary.
        vocabulary: how many tokens there are in all.
    """

    scores: Tensor
    tokens: Tensor | None
    vocabulary: int

    def without(self, unlikely: Tensor) -> Candidates:
        """The same with some at minus infinity. Shape: [R, C], bool."""
        return Candidates(self.scores.masked_fill(unlikely, NEVER), self.tokens, self.vocabulary)

    def few(self, inside: Tensor) -> Candidates:
        """Those of the whole vocabulary that are inside, as a short list, if that pays. Shape: [R, V], bool."""
        if self.tokens is not None or self.vocabulary < MANY or inside.device.type != "cpu":  # nobody waits for a count
            return self.without(~inside)
        counts = inside.sum(-1)
        longest = int(counts.max())
        if longest * 8 > self.vocabulary:
            return self.without(~inside)
        rows, tokens = inside.nonzero(as_tuple=True)
        places = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        shape = (self.scores.shape[0], max(longest, 1))
        scores = self.scores.new_full(shape, NEVER).index_put((rows, places), self.scores[rows, tokens])
        return Candidates(scores, tokens.new_zeros(shape).index_put((rows, places), tokens), self.vocabulary)

    def spread(self) -> Tensor:
        """Scores of the whole vocabulary. Shape: [R, V]."""
        return self.scores if self.tokens is None else self._spread(self.scores, NEVER)

    def odds_of_all(self) -> Tensor:
        """Probabilities, held as scores, of the whole vocabulary. Shape: [R, V]."""
        return self.scores if self.tokens is None else self._spread(self.scores, 0.0)

    def _spread(self, values: Tensor, rest: float) -> Tensor:
        assert self.tokens is not None, "asked of a short list"
        whole = values.new_full((values.shape[0], self.vocabulary), rest)
        # Places that a short row does not use stand for token 0: the highest of its values is its own.
        return whole.scatter_reduce(1, self.tokens, values, "amax")


def narrowed(scores_RV: Tensor, s: Settings) -> Candidates:
    """The candidates that temperature and filters leave, in the ecosystem's order of them. Shape: [R, V]."""
    # Beams need candidates to go on with even if all likely tokens end an answer.
    least = max(2, 1 + len(s.eos_token_ids)) if s.num_beams > 1 else 1
    if s.temperature != 1.0:
        scores_RV = scores_RV / s.temperature
    left = Candidates(scores_RV, None, scores_RV.shape[-1])
    if s.top_h is not None:
        places, kept = within_top_h(scores_RV, s.top_h)
        left = left.few(torch.zeros_like(scores_RV, dtype=torch.bool).scatter_(-1, places, kept))
    if s.top_k:
        unlikely = left.scores < kth(left.scores, max(s.top_k, least))
        left = left.few(~unlikely) if left.tokens is None else left.without(unlikely)
    if s.top_p < 1.0:
        left = left.without(outside_top_p(left.scores, s.top_p, least))
    if s.min_p:
        left = left.without(below_min_p(left.scores, s.min_p, least))
    if s.typical_p < 1.0:
        left = left.without(atypical(left.scores, s.typical_p, least))
    if s.epsilon_cutoff:
        left = left.without(below_epsilon(left.scores, s.epsilon_cutoff, least))
    if s.eta_cutoff:
        left = left.without(below_eta(left.scores, s.eta_cutoff, least))
    return left


def drawn(
    left: Candidates, odds_RC: Tensor, rows: Sequence[Row], settled: Mapping[int, int] | None = None
) -> list[int]:
    """A token for each row.

    Rows with a generator of their own draw from it; the others draw together, from torch's global one, where the rows
    of one call keep their places when others of them have ended.

    Args:
        left: the candidates.
        odds_RC: their probabilities.
        rows: whose they are.
        settled: tokens of rows that are chosen already, by their places here.
    """
    if left.tokens is None and left.vocabulary >= MANY:
        inside = odds_RC > 0
        some = Candidates(odds_RC, None, left.vocabulary).few(inside)
        if some.tokens is not None:
            left, odds_RC = some, some.scores.clamp(min=0)
    short = left.tokens is not None and odds_RC.device.type == "cpu" and _replays()
    if left.tokens is not None and not short:
        odds_RC = Candidates(odds_RC, left.tokens, left.vocabulary).odds_of_all()
        left = Candidates(odds_RC, None, left.vocabulary)
    chosen = dict(settled or {})
    together = [i for i, row in enumerate(rows) if row.generator is None and i not in chosen]
    if together:
        lanes = [rows[i].lane for i in together]
        places = list(range(len(together))) if None in lanes else [lane for lane in lanes if lane is not None]
        count = max(places[-1] + 1, rows[together[0]].lanes)
        draw = _replayed if short else _drawn
        chosen.update(zip(together, draw(left, odds_RC, together, places, count, None), strict=True))
    for i, row in enumerate(rows):
        if row.generator is not None and i not in chosen:
            draw = _replayed if short else _drawn
            chosen[i] = draw(left, odds_RC, [i], [0], 1, row.generator)[0]
    return [chosen[i] for i in range(len(rows))]


def drawn_there(left: Candidates, odds_RC: Tensor, rows: Sequence[Row]) -> Tensor:
    """A token for each row, as :func:`drawn` draws them, left on the device, [R]; -1 where scores are no numbers.

    The others' generators go on too where a row's scores are no numbers: to know of it before, the host had to wait.
    """
    bad = odds_RC[:, 0].isnan()
    odds_RC = torch.where(bad[:, None], 1.0, odds_RC)
    odds_RV = Candidates(odds_RC, left.tokens, left.vocabulary).odds_of_all()
    found: list[Tensor | None] = [None] * len(rows)
    together = [i for i, row in enumerate(rows) if row.generator is None]
    if together:
        lanes = [rows[i].lane for i in together]
        places = list(range(len(together))) if None in lanes else [lane for lane in lanes if lane is not None]
        count = max(places[-1] + 1, rows[together[0]].lanes)
        everyone = odds_RV
        if len(together) < len(rows) or places != list(range(count)):
            everyone = odds_RV.new_ones((count, left.vocabulary))
            for i, place in zip(together, places, strict=True):
                everyone[place] = odds_RV[i]
        made = torch.multinomial(everyone, 1)
        if len(together) == len(rows) and places == list(range(count)):
            return torch.where(bad, -1, made[:, 0])
        for i, place in zip(together, places, strict=True):
            found[i] = made[place]
    for i, row in enumerate(rows):
        if found[i] is None:
            found[i] = torch.multinomial(odds_RV[i], 1, generator=row.generator)
    return torch.where(bad, -1, torch.cat([one for one in found if one is not None]))


def _drawn(
    left: Candidates,
    odds_RV: Tensor,
    rows: list[int],
    places: list[int],
    count: int,
    generator: torch.Generator | None,
) -> list[int]:
    if places == list(range(count)):
        everyone = odds_RV[rows] if len(rows) != len(odds_RV) else odds_RV
    else:
        everyone = odds_RV.new_ones((count, left.vocabulary))
        everyone[places] = odds_RV[rows]
    found: list[int] = torch.multinomial(everyone, 1, generator=generator)[places, 0].tolist()
    return found


def _replayed(
    left: Candidates,
    odds_RC: Tensor,
    rows: list[int],
    places: list[int],
    count: int,
    generator: torch.Generator | None,
) -> list[int]:
    assert left.tokens is not None, "asked of a short list"
    who = dict(zip(places, rows, strict=True))
    uniform = torch.empty(left.vocabulary, dtype=torch.float64)
    found = {}
    for place in range(count):
        uniform.uniform_(generator=generator)
        if place in who:
            i = who[place]
            noise = (-torch.log1p(-uniform[left.tokens[i]])).to(odds_RC.dtype)
            found[place] = int(left.tokens[i, (odds_RC[i] / noise).argmax()])
    return [found[place] for place in places]


@lru_cache(maxsize=1)
def _replays() -> bool:
    """Whether torch makes its exponential numbers of uniform ones as it did when this was written (2.7 to 2.9)."""
    state = torch.Generator().manual_seed(11)
    again = torch.Generator().manual_seed(11)
    numbers = torch.empty(1, 999).exponential_(generator=state)
    uniform = torch.empty(999, dtype=torch.float64).uniform_(generator=again)
    same = torch.equal(numbers[0], (-torch.log1p(-uniform)).float())
    return same and torch.equal(state.get_state(), again.get_state())
