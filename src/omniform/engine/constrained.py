"""Constrained beam search: every answer holds the words that were asked for.

Beams are shared out among rows that have fulfilled more or less of what is asked (*banks*), so that a word which the
model would not choose by itself is tried in time: dynamic beam allocation, Post and Vilar 2018
(https://arxiv.org/abs/1804.06609, section 3). Of each bank the best beam goes on, then of each the second best, until
there are enough.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from omniform.engine.beams import FAR, BeamSearch, BeamSettings, Entry, Hypothesis, Node
from omniform.engine.constraints import Constraint, Fulfilled

log = logging.getLogger("omniform")


class ConstrainedSearch(BeamSearch):
    """One prompt's group of beams, under constraints.

    Args:
        settings: how to search; not ``do_sample``.
        constraints: what each answer must hold.
        generator: as for :class:`~omniform.engine.beams.BeamSearch`.
    """

    def __init__(
        self, settings: BeamSettings, constraints: Sequence[Constraint], generator: torch.Generator | None = None
    ) -> None:
        super().__init__(settings, generator)
        self._states = [Fulfilled(constraints) for _ in range(settings.num_beams)]
        self._next: list[Fulfilled] = []
        self._sums = self._scores

    def _candidates(self, scores_KV: Tensor) -> tuple[Tensor, list[int], list[int]]:
        """The likeliest continuations, and of each beam the likeliest, and those that bring a constraint nearer."""
        values, beams, tokens = super()._candidates(scores_KV)
        seen = set(zip(beams, tokens, strict=True))
        live = range(self.settings.num_beams) if self._length else range(1)
        more = dict.fromkeys(
            (beam, token)
            for beam in live
            for token in (*self._states[beam].advance(), int(scores_KV[beam].argmax()))
            if (beam, token) not in seen and token < scores_KV.shape[1]
        )
        extra = [scores_KV[beam, token].cpu() + self._scores[beam] for beam, token in more]
        if extra:
            values = torch.cat([values, torch.stack(extra)])
            beams, tokens = beams + [b for b, _ in more], tokens + [t for _, t in more]
        order = values.sort(descending=True, stable=True).indices.tolist()
        beams, tokens = [beams[i] for i in order], [tokens[i] for i in order]
        self._next = [self._states[beam].after(token) for beam, token in zip(beams, tokens, strict=True)]
        # An end comes too early where something is still asked for.
        early = [t in self.settings.eos_token_ids and not s.completed for t, s in zip(tokens, self._next, strict=True)]
        return values[order].masked_fill(torch.tensor(early), float("-inf")), beams, tokens

    def _counts(self, values: Tensor) -> Tensor:
        held = torch.tensor([state.completed for state in self._next]) & values.isfinite()
        return held & (held.cumsum(0) <= self.settings.num_beams)

    def _select(self, values: Tensor, over: Tensor, nodes: Sequence[Node]) -> tuple[Tensor, list[int]]:
        ranks: dict[int, int] = {}
        order: list[tuple[int, int, int]] = []
        open_ones = [i for i, far in enumerate((over | ~values.isfinite()).tolist()) if not far]
        for i in open_ones:
            bank = self._next[i].bank
            rank = ranks[bank] = ranks.get(bank, -1) + 1
            order.append((rank, -bank, i))
        chosen = [i for _, _, i in sorted(order)][: self.settings.num_beams]
        rest = [i for i in range(len(nodes)) if i not in chosen]
        chosen += rest[: self.settings.num_beams - len(chosen)]
        self._states = [self._next[i] for i in chosen]
        self._sums = values[chosen]
        return (values.nan_to_num(neginf=FAR) + over * FAR)[chosen], chosen

    def results(self) -> list[Hypothesis]:
        wanted = self.settings.num_return_sequences
        missing = [n for n, entry in enumerate(self._entries[:wanted]) if not entry.finished]
        if missing:
            log.warning(
                "%d of %d answers do not hold what was asked for within max_new_tokens=%d and num_beams=%d",
                len(missing), wanted, self.settings.max_new_tokens, self.settings.num_beams,
            )  # fmt: skip
            best = self._sums.sort(descending=True, stable=True).indices.tolist()
            for place, beam in zip(missing, best, strict=False):
                self._entries[place] = Entry(self._beams[beam], finished=True)
                self._entry_scores[place] = self._sums[beam] / self._length**self.settings.length_penalty
        return super().results()
