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
from omniform.native.library import library
from omniform.native.sampling import Filter, cut, next_winner, winner, within

MANY = 4096
"""A vocabulary is worth looking at a part of it only from here on."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Scores of the tokens that are left, those of a row in the vocabulary's order.

    Attributes:
        scores: Shape: [R, C]; minus infinity where a row has fewer than others.
        tokens: which tokens they are of, Shape: [R, C]; None for all of the vocabulary.
        vocabulary: how many tokens there are in all.
        bounds: of what is left, where some are in doubt; see :func:`omniform.native.sampling.cut`. Shape: [R, 4].
    """

    scores: Tensor
    tokens: Tensor | None
    vocabulary: int
    bounds: Tensor | None = None

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


def narrowed(scores_RV: Tensor, s: Settings, in_doubt: bool = False) -> Candidates:
    """The candidates that temperature and filters leave, in the ecosystem's order of them. Shape: [R, V].

    Args:
        scores_RV: the scores.
        s: the filters.
        in_doubt: candidates in doubt may be among them; bounds say which, and :func:`drawn_of` asks again if it draws
            one. That is rare, and saves sorting the vocabulary.
    """
    # Beams need candidates to go on with even if all likely tokens end an answer.
    least = max(2, 1 + len(s.eos_token_ids)) if s.num_beams > 1 else 1
    if s.temperature != 1.0:
        scores_RV = scores_RV / s.temperature
    left = Candidates(scores_RV, None, scores_RV.shape[-1])
    found = _cut(left, s) if in_doubt and least == 1 else None
    if found is not None:
        return found
    if s.top_h is not None:
        places, kept = within_top_h(scores_RV, s.top_h)
        if left.vocabulary >= MANY and scores_RV.device.type == "cpu":
            tokens, order = places.sort(-1)
            own = scores_RV.gather(1, tokens).masked_fill(~kept.gather(1, order), NEVER)
            left = Candidates(own, tokens, left.vocabulary)
        else:
            left = left.few(torch.zeros_like(scores_RV, dtype=torch.bool).scatter_(-1, places, kept))
    if s.top_k:
        left = _top_k(left, max(s.top_k, least))
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


def _top_k(left: Candidates, k: int) -> Candidates:
    lowest = kth(left.scores, k)
    if left.tokens is None:
        above = lowest.new_full((len(lowest), 2), -NEVER)
        few = within(left.scores, torch.cat((lowest, lowest, above), dim=1), left.vocabulary // 8)
        return left.few(~(left.scores < lowest)) if few is None else Candidates(*few, left.vocabulary)
    return left.without(left.scores < lowest)


def _cut(left: Candidates, s: Settings) -> Candidates | None:
    """What a single filter leaves of a large vocabulary, and those in doubt; None where there are more filters."""
    filters = (
        (Filter.TOP_P, s.top_p, s.top_p < 1.0),
        (Filter.TYPICAL, s.typical_p, s.typical_p < 1.0),
        (Filter.MIN_P, s.min_p, bool(s.min_p)),
        (Filter.EPSILON, s.epsilon_cutoff, bool(s.epsilon_cutoff)),
        (Filter.ETA, s.eta_cutoff, bool(s.eta_cutoff)),
    )
    asked = [(which, amount) for which, amount, on in filters if on]
    if len(asked) != 1 or s.top_k or s.top_h is not None:
        return None
    bounds = cut(left.scores, asked[0][0], asked[0][1] or 0.0)
    if bounds is None:
        return None
    few = within(left.scores, bounds, left.vocabulary // 4)
    if few is not None:
        return Candidates(*few, left.vocabulary, bounds)
    outside = (left.scores < bounds[:, :1]) | (left.scores > bounds[:, 3:])
    return Candidates(left.scores.masked_fill(outside, NEVER), None, left.vocabulary, bounds)


def drawn_of(left: Candidates, odds_RC: Tensor, rows: Sequence[Row], scores_RV: Tensor, s: Settings) -> list[int]:
    """A token for each row, where some candidates may be in doubt: if one of those is drawn, it is drawn again.

    Args:
        left: the candidates.
        odds_RC: their probabilities.
        rows: whose they are.
        scores_RV: the scores that they are left of.
        s: the filters that left them.
    """
    if left.bounds is None:
        return drawn(left, odds_RC, rows)
    generators = {id(row.generator): row.generator or torch.default_generator for row in rows}
    states = [(generator, generator.get_state()) for generator in generators.values()]
    tokens = drawn(left, odds_RC, rows)
    own = scores_RV[torch.arange(len(rows)), torch.tensor(tokens)] / s.temperature
    if bool(((own >= left.bounds[:, 1]) & (own <= left.bounds[:, 2])).all()):
        return tokens
    for generator, state in states:
        generator.set_state(state)
    left = narrowed(scores_RV, s)
    return drawn(left, left.scores.softmax(-1), rows)


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
    by_library = odds_RC.dtype is torch.float32 and odds_RC.device.type == "cpu" and library() is not None
    if left.tokens is None and left.vocabulary >= MANY and not by_library:
        inside = odds_RC > 0
        some = Candidates(odds_RC, None, left.vocabulary).few(inside)
        if some.tokens is not None:
            left, odds_RC = some, some.scores.clamp(min=0)
    short = (left.tokens is not None or by_library) and odds_RC.device.type == "cpu" and _replays()
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
    who = dict(zip(places, rows, strict=True))
    found = {}
    for place in range(count):
        if place not in who:
            _winner(None, None, left.vocabulary, generator)
            continue
        odds_C, tokens = odds_RC[who[place]], None if left.tokens is None else left.tokens[who[place]]
        best = _winner(odds_C, tokens, left.vocabulary, generator)
        found[place] = best if tokens is None else int(tokens[best])
    return [found[place] for place in places]


def _winner(odds_C: Tensor | None, tokens_C: Tensor | None, vocabulary: int, generator: torch.Generator | None) -> int:
    """The place that the next numbers of a generator draw; without odds, they only pass."""
    if _goes_on():
        from_whom = generator or torch.default_generator
        state = from_whom.get_state()
        best = next_winner(odds_C, tokens_C, vocabulary, state)
        if best is not None:
            from_whom.set_state(state)
            return best
    uniform = torch.empty(vocabulary, dtype=torch.float64).uniform_(generator=generator)
    if odds_C is None:
        return 0
    found = winner(odds_C, tokens_C, uniform)
    if found is None:
        noise = -torch.log1p(-(uniform if tokens_C is None else uniform[tokens_C]))
        found = int((odds_C / noise.to(odds_C.dtype)).argmax())
    return found


@lru_cache(maxsize=1)
def _replays() -> bool:
    """Whether torch makes its exponential numbers of uniform ones as it did when this was written (2.7 to 2.9)."""
    state = torch.Generator().manual_seed(11)
    again = torch.Generator().manual_seed(11)
    numbers = torch.empty(1, 999).exponential_(generator=state)
    uniform = torch.empty(999, dtype=torch.float64).uniform_(generator=again)
    same = torch.equal(numbers[0], (-torch.log1p(-uniform)).float())
    return same and torch.equal(state.get_state(), again.get_state())


@lru_cache(maxsize=1)
def _goes_on() -> bool:
    """Whether the library makes torch's uniform numbers as torch does, and leaves its generator where torch does."""
    again = torch.Generator().manual_seed(12)
    odds = torch.rand(1999, generator=again)
    state = again.get_state()
    first = [next_winner(odds, None, 1999, state), next_winner(None, None, 1001, state)]
    numbers = torch.empty(1999, dtype=torch.float64).uniform_(generator=again)
    torch.empty(1001, dtype=torch.float64).uniform_(generator=again)
    expected = int((odds / -torch.log1p(-numbers)).argmax())
    return first == [expected, 0] and torch.equal(state, again.get_state())
