"""Assistants: smaller models that guess what rows will write next (https://arxiv.org/abs/2211.17192).

An assistant has an engine of its own. Each row of the target has a *pupil* there, a row that is told what the target
wrote, guesses a few tokens, and waits; the state of what came true stays, the rest is taken back. All pupils that are
to guess go through the assistant in the same steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.core.errors import InputError
from omniform.engine.beams import Hypothesis
from omniform.engine.drafts import Entry
from omniform.engine.guessing import CONFIDENCE, MOST, NO_GUESSES, Guessing
from omniform.engine.guided import would_be_whole
from omniform.engine.request import Completion, Prompt, Proposal, Request, Row, StepNotes, TokenLogprob
from omniform.engine.runner import ChunkOutput
from omniform.engine.sampling import choose
from omniform.engine.settings import Asked, Settings
from omniform.engine.strategies import Hands
from omniform.engine.tongues import Tongue

if TYPE_CHECKING:
    from omniform.engine.inner import InnerEngine

log = logging.getLogger("omniform")


@dataclass(eq=False)
class Pupil:
    """One row of an assistant, which follows one of the target; the strategy and the sink of its own request.

    Attributes:
        request, row: whom it guesses for.
        tongue: what the target's tokens are in its own words.
        settings: how it chooses.
        guessing: how far it guesses.
        most: how many tokens it guesses at a time, now.
        own: its request to the assistant.
        left: how many more tokens it is to guess.
        guesses: those of the present round; all but the last stand in its row.
        odds: what each was drawn from, where that will be asked for. Shape: [V] each.
        logits: of its next token, once its row was read to its end. Shape: [1, V].
        error: what ended it.
    """

    request: Request
    row: Row
    tongue: Tongue
    settings: Settings
    guessing: Guessing
    most: int
    own: Request | None = None
    left: int = 0
    guesses: list[int] = field(default_factory=list)
    odds: list[Tensor] = field(default_factory=list)
    logits: Tensor | None = None
    error: BaseException | None = None

    lockstep: ClassVar[bool] = False
    reads_prompt: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = False

    @property
    def over(self) -> bool:
        return False

    def width(self, request: Request) -> int:
        return 1

    def seat(self, request: Request) -> None:
        """Its row was made, of the prompt: tell it what was written since."""
        self.tongue.begin()
        row = request.rows[0]
        known, new = self.tongue.listen(self.row, row)
        row.tokens[known:] = new

    def read(self, request: Request, output: ChunkOutput) -> None:
        raise AssertionError("a pupil looks at its last token only")

    def advance(self, request: Request, outputs: Sequence[ChunkOutput], hands: Hands) -> None:
        """Wait: what comes next is chosen for all pupils at once."""
        self.logits = outputs[0].logits

    def restart(self, request: Request) -> None:
        self.logits = None

    def hypotheses(self) -> list[Hypothesis] | None:
        return []

    def steps(self) -> StepNotes | None:
        return None

    def piece(self, row: Row, token: int, logprob: TokenLogprob | None) -> None:
        raise AssertionError("a pupil's tokens are nobody's answer")

    def end(self, completion: Completion | None, error: BaseException | None) -> None:
        """Its request is over; that comes from its having been given up, or from an error."""
        self.error = error

    @property
    def draws(self) -> bool:
        """Whether its guesses are proposals, whose distributions are asked for."""
        return self.settings.do_sample and self.row.generator is None


class Assistant:
    """Guesses of another model, or of the first layers of the same.

    Args:
        model: it.
        engine: an engine for it.
        tongue: what the tokens of a row are in its own words; None where it cannot read them.
        exact: whether it draws as the target will; else it takes the likeliest tokens.
    """

    def __init__(
        self, model: Generative, engine: InnerEngine, tongue: Callable[[Request, Row, Guessing], Tongue], *, exact: bool
    ) -> None:
        self._model = model
        self._engine = engine
        self._tongue = tongue
        self._exact = exact
        self._pupils: dict[int, Pupil] = {}
        self._alone: dict[int, Row] = {}  # rows that cannot be guessed for
        self._said = Asked(model)

    def draft(self, entries: Sequence[Entry], most: Sequence[int]) -> list[list[int]]:
        """See :class:`~omniform.engine.drafts.Drafter`."""
        pupils = [self._begun(*entry, room) for entry, room in zip(entries, most, strict=True)]
        busy = [pupil for pupil in pupils if pupil is not None and pupil.left > 0]
        while busy:
            ready = [pupil for pupil in busy if pupil.logits is not None]
            alike: dict[Settings, list[Pupil]] = {}
            for pupil in ready:
                alike.setdefault(pupil.settings, []).append(pupil)
            for settings, some in alike.items():
                self._choose(some, settings)
            busy = [pupil for pupil in busy if pupil.left > 0]
            if busy:
                self._step(busy)
        return [[] if pupil is None else self._told(pupil) for pupil in pupils]

    def confirmed(self, row: Row, drafted: int, right: int) -> None:
        """Guess further where all came true, and less far where not, as the schedule says.

        Where nobody says how far, about as far as guesses came true: one that is mostly wrong costs little then.
        Not so where guesses are proposals, since what is drawn from the caller's generator would depend on it.
        """
        pupil = self._pupils.get(id(row))
        if pupil is None or pupil.guessing.schedule == "constant":
            return
        if pupil.guessing.schedule is not None:
            pupil.most = pupil.most + 2 if right == drafted else max(1, pupil.most - 1)
        elif pupil.guessing.most is None and not pupil.draws:
            pupil.most = min(MOST, 2 * max(pupil.most, 1)) if right == drafted else right + 1

    def over(self, request: Request) -> None:
        """Let go of a request's pupils."""
        gone = [pupil for pupil in self._pupils.values() if pupil.request is request]
        for pupil in gone:
            if pupil.guessing.schedule == "heuristic":  # the ecosystem keeps it for the next call
                self._model.generation_config.num_assistant_tokens = pupil.most
            self._give_up(pupil)
        for row in request.rows:
            self._alone.pop(id(row), None)

    # -- pupils --------------------------------------------------------------------------------------------------------

    def _begun(self, request: Request, row: Row, room: int) -> Pupil | None:
        """A row's pupil, told what was written since, and ready to guess; None where there is none."""
        if self._alone.get(id(row)) is row:
            return None
        pupil = self._pupils.get(id(row))
        if pupil is None or pupil.row is not row:
            pupil = self._new(request, row)
            if pupil is None:
                self._alone[id(row)] = row
                return None
        pupil.guesses, pupil.odds, pupil.logits = [], [], None
        pupil.left = min(room, pupil.most)
        own = pupil.own
        assert own is not None
        if own.rows:
            mine = own.rows[0]
            known, new = pupil.tongue.listen(row, mine)
            if not new:  # something has to be read, for there to be scores
                known, new = known - 1, mine.tokens[known - 1 : known]
            self._engine.roll_back(mine, known)
            mine.tokens[known:] = new
            mine.tentative = 0
        if not pupil.tongue.follows or pupil.left <= 0:
            pupil.left = 0
        return pupil

    def _new(self, request: Request, row: Row) -> Pupil | None:
        guessing = request.settings.guessing.over(Guessing.read(self._said.values))
        tongue = self._tongue(request, row, guessing)
        prompt = tongue.prompt
        new = tongue.room(request.settings.max_new_tokens)
        limit = self._model.max_positions
        if limit is not None:
            new = min(new, limit - len(prompt))
        if not prompt or new < 1:
            return None
        settings = request.settings if self._exact else replace(request.settings, do_sample=False)
        most = MOST if guessing.most is None else guessing.most
        pupil = Pupil(request, row, tongue, settings, guessing, most)
        asked = request.prompt
        whole = tongue.whole
        begin = Prompt(
            tuple(prompt),
            asked.items if whole else (),
            asked.encoder if self._model.encoder_inputs else {},
            place=asked.place,
            vectors=asked.vectors if whole else (),
        )
        try:
            pupil.own = self._engine.enqueue(begin, lambda _: _inner(settings, new), pupil)
        except InputError as error:
            if error.where != "memory":
                raise
            log.warning("assistant_model: no room to guess for a row, which goes on without (%s)", error.found)
            return None
        pupil.own.strategy = pupil
        self._pupils[id(row)] = pupil
        return pupil

    def _give_up(self, pupil: Pupil) -> None:
        self._pupils.pop(id(pupil.row), None)
        pupil.left = 0
        if pupil.own is not None and not pupil.own.over:
            self._engine.withdraw(pupil.own)

    # -- guessing ------------------------------------------------------------------------------------------------------

    def _choose(self, pupils: list[Pupil], settings: Settings) -> None:
        """The next guess of pupils that wait for it."""
        rows = [_row(pupil) for pupil in pupils]
        for pupil, row in zip(pupils, rows, strict=True):
            if not pupil.guesses:
                row.generator = _twin(pupil.row.generator) if settings.do_sample else None
                row.guide = pupil.row.guide.copy() if self._exact and pupil.row.guide is not None else None
        logits = torch.cat([pupil.logits for pupil in pupils if pupil.logits is not None])
        tokens, scores = choose(rows, settings, logits, [pupil.request.prompt.place for pupil in pupils])
        confidence = [CONFIDENCE if p.guessing.confidence is None else p.guessing.confidence for p in pupils]
        unsure = [False] * len(pupils)
        if any(pupil.draws for pupil in pupils) or max(confidence) > 0:
            odds = scores.float().softmax(-1)
            likely = odds[range(len(tokens)), tokens].tolist()
            unsure = [p < least for p, least in zip(likely, confidence, strict=True)]
            for i, pupil in enumerate(pupils):
                if pupil.draws:
                    pupil.odds.append(odds[i])
        for pupil, row, token, last in zip(pupils, rows, tokens, unsure, strict=True):
            pupil.logits = None
            pupil.guesses.append(token)
            full = self._model.max_positions is not None and len(row.tokens) >= self._model.max_positions
            ends = not pupil.tongue.goes_on(token) or would_be_whole(row, token)
            pupil.left = 0 if last or ends or full else pupil.left - 1
            if pupil.left:
                row.tokens.append(token)
                row.tentative += 1

    def _step(self, busy: list[Pupil]) -> None:
        """One step of the assistant; whoever cannot be helped to room goes without guesses."""
        steps = self._engine.steps
        self._engine.step()
        for pupil in busy:
            if pupil.error is not None:
                raise pupil.error
        if self._engine.steps == steps and not any(pupil.logits is not None for pupil in busy):
            idle = [pupil for pupil in self._pupils.values() if pupil.left == 0]
            self._give_up(idle[0] if idle else busy[-1])

    def _told(self, pupil: Pupil) -> list[int]:
        """What a pupil has guessed, in the target's tokens; proposals go to the row."""
        guesses = pupil.tongue.say(pupil.row, _row(pupil), pupil.guesses) if pupil.guesses else []
        if pupil.draws and pupil.guesses:
            pairs = zip(pupil.guesses, pupil.odds, strict=True)
            pupil.row.proposals.extend(Proposal(token, odds) for token, odds in pairs)
        return guesses


def _row(pupil: Pupil) -> Row:
    assert pupil.own is not None and pupil.own.rows, "a pupil that has guessed has a row"
    return pupil.own.rows[0]


def _twin(generator: torch.Generator | None) -> torch.Generator | None:
    """What draws the same numbers."""
    if generator is None:
        return None
    twin = torch.Generator(generator.device)
    twin.set_state(generator.get_state())
    return twin


def _inner(settings: Settings, new: int) -> Settings:
    """What the assistant's engine has to know of a pupil: how long it may become."""
    return replace(
        settings, max_new_tokens=new, num_return_sequences=1, stop_strings=(), max_time=None, seed=None, logprobs=None,
        keep_scores=False, keep_logits=False, guessing=NO_GUESSES,
    )  # fmt: skip
