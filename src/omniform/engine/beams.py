"""Beam search: of many ways to write on, follow the few that are likeliest as a whole.

A group of beams is a handful of rows. After each step it is told what every row's next token could score, and answers
which row each next beam continues, and with which token. It knows no model, no cache and no text: the caller runs the
rows and lets those with one parent share what was computed for it. Scores, order and the moment of stopping are those
of transformers 5.23.0 (``generation/utils.py``, ``_beam_search``), to the last bit on equal inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from omniform.core.errors import InputError, OmniformError
from omniform.core.numbers import is_finite
from omniform.engine.tops import likeliest

FAR = -1.0e9
"""What is added to a score to put it behind all others. The reference's: it rounds and ties, so it shapes results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSettings:
    """How a group of beams searches.

    Attributes:
        num_beams: how many beams are followed; one, as a group of its own, is greedy search.
        num_return_sequences: how many answers are wanted, at most ``num_beams``.
        length_penalty: an answer's score is its summed log-probability over ``length ** length_penalty``, where length
            counts new tokens; above 0 favours long answers, below 0 short ones.
        early_stopping: True stops when ``num_beams`` answers have ended; False when the best beam, were it to end here,
            would be no better than the worst of them; "never" when no beam can become better, however long.
        do_sample: candidates are drawn instead of being the likeliest.
        max_new_tokens: a beam so long ends, whatever its last token.
        eos_token_ids: tokens that end a beam.
        pad_token_id: what fills short answers where they stand beside longer ones; see :attr:`fill_token_id`.

    Raises:
        InputError: a value that cannot be.
    """

    num_beams: int
    max_new_tokens: int
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    do_sample: bool = False
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        wanted = self.num_return_sequences
        rules: dict[str, tuple[object, bool, str]] = {
            "num_beams": (self.num_beams, self.num_beams >= 1, "at least 1"),
            "num_return_sequences": (wanted, 1 <= wanted <= self.num_beams, f"1 to num_beams, {self.num_beams}"),
            "max_new_tokens": (self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
            "length_penalty": (self.length_penalty, self._penalty_fits(), "a number, and length ** it no overflow"),
            "early_stopping": (
                self.early_stopping,
                isinstance(self.early_stopping, bool) or self.early_stopping == "never",
                "True, False or 'never'",
            ),
        }
        for name, (value, holds, expected) in rules.items():
            if not holds:
                raise InputError("this value cannot be", where=name, expected=expected, found=repr(value))

    def _penalty_fits(self) -> bool:
        if not is_finite(self.length_penalty):
            return False
        try:
            return bool(float(self.max_new_tokens) ** abs(self.length_penalty) < torch.finfo(torch.float32).max)
        except OverflowError:
            return False

    @property
    def candidates(self) -> int:
        """How many candidates a step looks at: so many that ``num_beams`` go on even if every beam may end."""
        return max(2, 1 + len(self.eos_token_ids)) * self.num_beams

    @property
    def fill_token_id(self) -> int:
        """What fills short answers: the padding token or, where that is 0, the first end token, as in the reference."""
        return self.pad_token_id or next(iter(self.eos_token_ids), 0)


@dataclass(frozen=True, slots=True)
class Fork:
    """How a group goes on.

    Attributes:
        parents: for each next beam, the row that it continues: an index into the rows of the step just given.
        tokens: for each next beam, the token that it appends.
    """

    parents: list[int]
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """An answer.

    Attributes:
        tokens: the new ones, the end token included where one ended it.
        score: summed log-probability over ``length ** length_penalty``. Where the rules left fewer answers than were
            wanted, a copy of one, or nothing, fills the place, with :data:`FAR` in its sum.
        beams: for each token, the beam that it was appended to (within this group, where the reference counts on
            through the batch).
        stopped: an end token or the caller's ``ends`` ended it, not its length.
    """

    tokens: list[int]
    score: float
    beams: list[int]
    stopped: bool


@dataclass(frozen=True, slots=True)
class Node:
    """A token, the beam it was appended to and what came before: beams share their beginnings."""

    token: int
    beam: int
    before: Node | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A place in the list of answers; nothing real as long as it is not finished."""

    last: Node | None = None
    finished: bool = False
    stopped: bool = False


class BeamSearch:
    """One prompt's group of beams.

    Args:
        settings: how to search.
        generator: what ``do_sample`` draws from, on the device of the scores; None for torch's global one.

    Attributes:
        done: nothing is left to search; :meth:`results` has the answers. Steps may be taken all the same, where other
            searches of a call go on; they change no answer.
        improvable, open, continued: whether the last step left something to search, each for a reason of its own: the
            beams may still beat the answers; answers are wanted; some beam goes on.
    """

    def __init__(self, settings: BeamSettings, generator: torch.Generator | None = None) -> None:
        self.settings = settings
        self.done = False
        self.improvable = self.open = self.continued = True
        self._generator = generator
        self._length = 0
        # All beams begin alike, so all but the first are put behind, or each would choose the same.
        self._beams: list[Node | None] = [None] * settings.num_beams
        self._scores = torch.full((settings.num_beams,), FAR).index_fill(0, torch.tensor([0]), 0.0)
        self._entries = [Entry()] * settings.num_beams
        self._entry_scores = torch.full((settings.num_beams,), FAR)

    def advance(self, scores_KV: Tensor, ends: Callable[[int, int], bool] | None = None) -> Fork:
        """Take a step.

        Args:
            scores_KV: every row's log-probabilities after the rules: log-softmax in float32 comes *first*, then
                repetition penalty, banned tokens and so on, then, with ``do_sample``, temperature, top-k and the like,
                which must leave ``len(eos_token_ids) + 1`` tokens at least; the outcome need not sum to one.
                Shape: [1, V] in the first step, where there is only the prompt, [num_beams, V] later; float32.
            ends: whether row ``parent``, continued with ``token``, is at an end for another reason than its end token
                or its length: a stop string, which may begin within the prompt, or the time, which ends all alike.
                Asked for every candidate.

        Returns:
            What the next beams are, best first. Once the group is done, nothing needs to be run any more.
        """
        s = self.settings
        rows = scores_KV.shape[0]
        assert rows == (s.num_beams if self._length else 1), f"{rows} rows are not those that the last step asked for"
        values, beams, tokens = self._candidates(scores_KV)
        self._length += 1
        # In the first step every beam is the one row.
        parents = [beam if rows > 1 else 0 for beam in beams]
        nodes = [Node(token, beam, self._beams[beam]) for token, beam in zip(tokens, beams, strict=True)]
        stopped = [
            token in s.eos_token_ids or (ends is not None and ends(parent, token))
            for parent, token in zip(parents, tokens, strict=True)
        ]
        over = torch.tensor(stopped) | (self._length >= s.max_new_tokens)
        if not self.done:
            self._collect(nodes, values, stopped, over)

        self._scores, chosen = self._select(values, over, nodes)
        self._beams = [nodes[i] for i in chosen]
        self.improvable = self.improvable and self._can_improve()
        self.open, self.continued = not self._enough(), not bool(over.all())
        self.done = self.done or not (self.improvable and self.open and self.continued)
        return Fork([parents[i] for i in chosen], [tokens[i] for i in chosen])

    def _select(self, values: Tensor, over: Tensor, nodes: Sequence[Node]) -> tuple[Tensor, list[int]]:
        """The candidates to go on with, best first: their summed scores, and which they are."""
        # At the end all are over, and what is added to tell them apart would only blur them.
        scores, order = (values if bool(over.all()) else values + over * FAR).topk(self.settings.num_beams)
        return scores, order.tolist()

    @property
    def is_full_length(self) -> bool:
        """Whether its beams are as long as they may get."""
        return self._length >= self.settings.max_new_tokens

    def results(self) -> list[Hypothesis]:
        """The ``num_return_sequences`` best answers, best first. Only when done."""
        assert self.done, "a group that is not done has no results"
        scores: list[float] = self._entry_scores.tolist()
        pairs = list(zip(self._entries, scores, strict=True))[: self.settings.num_return_sequences]
        return [_hypothesis(entry, score) for entry, score in pairs]

    def _candidates(self, scores_KV: Tensor) -> tuple[Tensor, list[int], list[int]]:
        """The continuations to look at: summed scores, on the CPU, and each one's beam and token.

        They come best first, or with ``do_sample`` as drawn.
        """
        s = self.settings
        vocabulary = scores_KV.shape[1]
        # One row stands for all beams in the first step, also when drawing: the draws depend on how many there are.
        before = self._scores.to(scores_KV.device)
        count = min(s.candidates, len(before) * vocabulary)
        if s.do_sample:
            total = (scores_KV + before[:, None]).flatten()
            odds = total.softmax(-1)
            if bool(odds[0].isnan()):  # one NaN makes all of them NaN, and so do scores that are all ruled out
                raise OmniformError(
                    "the rules leave no token to draw",
                    where=f"step {self._length}",
                    remedy="Relax suppress_tokens, sequence_bias or the like.",
                )
            places = torch.multinomial(odds, count, generator=self._generator)
            values = total[places]
        else:
            values, places = likeliest(scores_KV.expand(len(before), -1), before, count)
        flat: list[int] = places.tolist()
        return values.cpu(), [place // vocabulary for place in flat], [place % vocabulary for place in flat]

    def _counts(self, values: Tensor) -> Tensor:
        """Which candidates may be answers: the first ``num_beams``; those behind them are there to go on with."""
        return torch.arange(len(values)) < self.settings.num_beams

    def _collect(self, nodes: list[Node], values: Tensor, stopped: list[bool], over: Tensor) -> None:
        """Let candidates that are over into the list of answers, where they are better than those in it."""
        s = self.settings
        counts = over & self._counts(values)
        scores = values / self._length**s.length_penalty + ~counts * FAR
        finished: list[bool] = counts.tolist()
        entries = [*self._entries, *map(Entry, nodes, finished, stopped)]
        self._entry_scores, order = torch.cat([self._entry_scores, scores]).topk(s.num_beams)
        self._entries = [entries[i] for i in order.tolist()]

    def _can_improve(self) -> bool:
        s = self.settings
        # Summed scores only fall; with a penalty above 0, so does what they are divided by, as far as the length goes.
        patient = s.early_stopping == "never" and s.length_penalty > 0
        best = self._scores.max() / (s.max_new_tokens if patient else self._length) ** s.length_penalty
        return bool(best > self._entry_scores.min())

    def _enough(self) -> bool:
        return self.settings.early_stopping is True and all(entry.finished for entry in self._entries)


def _hypothesis(entry: Entry, score: float) -> Hypothesis:
    tokens: list[int] = []
    beams: list[int] = []
    node = entry.last
    while node is not None:
        tokens.append(node.token)
        beams.append(node.beam)
        node = node.before
    return Hypothesis(tokens[::-1], score, beams[::-1], entry.stopped)
