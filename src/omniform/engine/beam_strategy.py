"""Beam search as a strategy: plain, in diverse groups, under constraints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.engine.beams import BeamSearch, Fork, Hypothesis
from omniform.engine.constrained import ConstrainedSearch
from omniform.engine.constraints import Constraint, read_constraints
from omniform.engine.guided import would_be_whole
from omniform.engine.request import Request, Row, StepNotes
from omniform.engine.runner import ChunkOutput, logits_of
from omniform.engine.sampling import processed, refuse_no_numbers
from omniform.engine.strategies import Hands


class Company:
    """The searches of one call, where what one does after its end is seen: in shared draws, or in what is noted.

    As in the ecosystem they then end together: all take steps until none has anything left to search.

    Attributes:
        members: they.
    """

    def __init__(self) -> None:
        self.members: list[Beams] = []

    @property
    def over(self) -> bool:
        """Whether nobody has anything left to search."""
        searches = [search for member in self.members for search in member.searches]
        if not all(member.searches for member in self.members):
            return False
        asked = ([s.improvable for s in searches], [s.open for s in searches], [s.continued for s in searches])
        return not all(map(any, asked))


class Beams:
    """Beam search: rows become others that continue them.

    Groups choose one after the other in each step, and what the earlier ones chose costs the later ones
    ``diversity_penalty`` (Vijayakumar et al. 2016, https://arxiv.org/abs/1610.02424, with Hamming diversity).

    Args:
        constraints: what every answer must hold.
        keeps_rows: whether the beams of each step are noted.
        company: the searches that end with it; None for no others.

    Attributes:
        searches: scores and choices of each group; none before the first step.
    """

    lockstep: ClassVar[bool] = True
    reads_prompt: ClassVar[bool] = False

    def __init__(
        self, constraints: Sequence[Constraint] = (), keeps_rows: bool = False, company: Company | None = None
    ) -> None:
        self.searches: list[BeamSearch] = []
        self._constraints = constraints
        self._keeps_rows = keeps_rows
        self._notes = StepNotes()
        self._given: Tensor | None = None
        self._company = company
        if company is not None:
            company.members.append(self)

    @property
    def over(self) -> bool:
        done = bool(self.searches) and all(search.done for search in self.searches)
        if self._company is None or not done:
            return done
        return self._company.over or all(search.is_full_length for search in self.searches)

    def give(self, scores_KV: Tensor) -> None:
        """The scores of the next step, where the objects of the call have looked at them already."""
        self._given = scores_KV

    def seat(self, request: Request) -> None:
        """The prompt is one row, whatever number of beams will continue it."""

    def read(self, request: Request, output: ChunkOutput) -> None:
        raise AssertionError("a beam search looks at the last tokens only")

    def restart(self, request: Request) -> None:
        request.rows = [request.rows[0].begun()]
        self.searches, self._notes, self._given = [], StepNotes(), None

    def hypotheses(self) -> list[Hypothesis] | None:
        if not self.over:
            return None
        groups = [search.results() for search in self.searches]
        if len(groups) == 1:
            return groups[0]
        width = self.searches[0].settings.num_beams
        every = [
            replace(h, beams=[beam + number * width for beam in h.beams])
            for number, group in enumerate(groups)
            for h in group
        ]
        return sorted(every, key=lambda h: -h.score)[: self._wanted]

    def steps(self) -> StepNotes:
        return self._notes

    def _begin(self, request: Request, generator: torch.Generator | None) -> None:
        settings = request.settings.beam_settings()
        groups = request.settings.num_beam_groups
        self._wanted = settings.num_return_sequences
        if self._constraints:
            self.searches = [ConstrainedSearch(settings, self._constraints, generator)]
        elif groups == 1:
            self.searches = [BeamSearch(settings, generator)]
        else:
            width = settings.num_beams // groups
            own = replace(settings, num_beams=width, num_return_sequences=min(width, self._wanted))
            self.searches = [BeamSearch(own, generator) for _ in range(groups)]

    def advance(self, request: Request, outputs: Sequence[ChunkOutput], hands: Hands) -> None:
        rows = [output.chunk.row for output in outputs]
        fresh = not self.searches
        if fresh:
            self._begin(request, rows[0].generator)
        logits = logits_of(outputs).float()
        scores, self._given = self._given, None
        if scores is None:
            scores = processed(rows, request.settings, _logprobs(request, rows, logits))
        forks: list[tuple[int, Fork]] = []
        last: list[tuple[int, Fork]] = []
        chosen: list[int] = []
        noted: list[Tensor] = []
        for number, first, width in self._shares(fresh):
            own = _diverse(scores[first : first + width], chosen, request.settings.diversity_penalty)
            search = self.searches[number]
            fork = search.advance(own, _ends(request, rows[first : first + width], hands))
            chosen += fork.tokens
            noted.append(own.expand(search.settings.num_beams, -1))
            (last if search.done and self._company is None else forks).append((first, fork))
        self._note(request, rows, noted, logits)
        if self.over and self._company is None:
            _leave(request, rows, last, hands)
        else:
            _continue(request, rows, forks, hands)

    def _shares(self, fresh: bool) -> list[tuple[int, int, int]]:
        """Which rows belong to which group that is not done: its number, its first row, and how many it has."""
        found: list[tuple[int, int, int]] = []
        at = 0
        for number, search in enumerate(self.searches):
            if not search.done or self._company is not None:
                width = 1 if fresh else search.settings.num_beams
                found.append((number, 0 if fresh else at, width))
                at += width
        return found

    def _note(self, request: Request, rows: Sequence[Row], scores: Sequence[Tensor], logits_KV: Tensor) -> None:
        width = request.settings.num_beams
        if request.settings.keep_scores:
            self._notes.scores.append(_widened(torch.cat(list(scores)), width))
        if request.settings.keep_logits:
            self._notes.logits.append(_widened(logits_KV, width))
        if self._keeps_rows:
            self._notes.rows.append([list(row.tokens) for row in rows])


def look_at(groups: Sequence[Sequence[ChunkOutput]]) -> None:
    """Let the objects of one call see the scores of all its searches at once, before these go on.

    Args:
        groups: what a step gave for each request of the call.

    Raises:
        OmniformError: the scores are no numbers, or an object has failed.
    """
    ready: list[tuple[Beams, list[Row]]] = []
    scores: list[Tensor] = []
    request = groups[0][0].chunk.request
    for group in groups:
        one = group[0].chunk.request
        outputs = [output for output in group if output.chunk.is_read]
        if isinstance(one.strategy, Beams) and outputs and len(outputs) == len(one.running):
            rows = [output.chunk.row for output in outputs]
            ready.append((one.strategy, rows))
            scores.append(_logprobs(one, rows, logits_of(outputs).float()))
    if not ready:
        return
    together = [row for _, rows in ready for row in rows]
    done = processed(together, request.settings, torch.cat(scores), request.hooks)
    parts = torch.split(done, [len(rows) for _, rows in ready])
    for (search, _), part in zip(ready, parts, strict=True):
        search.give(part)


def _logprobs(request: Request, rows: Sequence[Row], logits_RV: Tensor) -> Tensor:
    """The model's log-probabilities of what each of a request's rows may write next. Shape: [R, V]."""
    logprobs = logits_RV.log_softmax(-1)
    if not request.settings.remove_invalid:
        places = [request.prompt.place * request.settings.num_return_sequences] * len(rows)
        refuse_no_numbers(logprobs[:, 0].isnan(), rows, logits_RV, places)  # one NaN makes the whole row NaN
    return logprobs


def _continue(request: Request, rows: Sequence[Row], forks: Sequence[tuple[int, Fork]], hands: Hands) -> None:
    """Make the next beams of the present ones."""
    parents = [first + parent for first, fork in forks for parent in fork.parents]
    tokens = [token for _, fork in forks for token in fork.tokens]
    heirs: dict[int, int] = {}
    for number, parent in enumerate(parents):
        heirs.setdefault(parent, number)
    # Of those that continue a row, the first takes its place, so that nothing moves where beams keep to themselves.
    request.rows = [
        rows[parent] if heirs[parent] == number else hands.fork(rows[parent], number)
        for number, parent in enumerate(parents)
    ]
    for parent, row in enumerate(rows):
        if parent in heirs:
            row.renumber(heirs[parent])
        else:
            hands.release(row)
    for row, token in zip(request.rows, tokens, strict=True):
        row.tokens.append(token)


def _leave(request: Request, rows: Sequence[Row], forks: Sequence[tuple[int, Fork]], hands: Hands) -> None:
    """Keep the rows that the beams would go on from, for whoever goes on from there."""
    request.rows = [rows[first + parent] for first, fork in forks for parent in fork.parents]
    for row in rows:
        if row not in request.rows:
            hands.release(row)


def _diverse(scores_KV: Tensor, chosen: Sequence[int], penalty: float) -> Tensor:
    """Scores of one group: each time that an earlier one chose a token costs the penalty."""
    if not chosen or not penalty:
        return scores_KV
    places = torch.tensor(chosen, device=scores_KV.device)
    often = torch.zeros(scores_KV.shape[1], device=scores_KV.device)
    return scores_KV - penalty * often.index_add_(0, places, torch.ones(len(chosen), device=scores_KV.device))


def _widened(x_KV: Tensor, width: int) -> Tensor:
    """One row for each beam: the first step's row is that of all; beams that are no more have zeros."""
    if x_KV.shape[0] == 1:
        return x_KV.expand(width, -1).clone()
    return torch.cat((x_KV, x_KV.new_zeros(width - x_KV.shape[0], x_KV.shape[1])))


def _ends(request: Request, rows: Sequence[Row], hands: Hands) -> Callable[[int, int], bool]:
    """Whether a row, continued with a token, is at an end by its text or by the time."""
    late, hooks = hands.is_late(request), request.hooks

    def ends(parent: int, token: int) -> bool:
        stops = request.stop_strings
        if late or (stops is not None and stops.may_end(token) and stops.ends([*rows[parent].named, token])):
            return True
        if hooks is not None and hooks.end_beam(rows[parent], token):
            return True
        return not request.settings.eos_token_ids and would_be_whole(rows[parent], token)

    return ends


def beams_of(request: Request) -> Beams:
    """The beam search that a request asks for."""
    settings, given = request.settings, request.parts.some("constraints")
    constraints = (
        read_constraints(settings.force_words or None, given) if settings.force_words or given is not None else ()
    )
    for name, asked in (("do_sample=True", settings.do_sample), ("num_beam_groups > 1", settings.num_beam_groups > 1)):
        if constraints and asked:
            raise InputError(f"constraints and {name} do not go together", where="constraints", remedy="Leave one out.")
    return Beams(constraints, settings.keep_beams, request.company)
