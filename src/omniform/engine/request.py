"""A request: what somebody asked for, the rows that it takes, and what comes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from omniform.architectures.generative import RowLayout
from omniform.core.batch import Item
from omniform.engine.alike import choosing
from omniform.engine.block_pool import BlockTable, Content
from omniform.engine.history import History
from omniform.engine.paged_state import Pool
from omniform.engine.parts import NO_PARTS, Parts
from omniform.engine.settings import Settings
from omniform.engine.stop import StopStrings
from omniform.engine.text import Decodes

if TYPE_CHECKING:
    from omniform.engine.beam_strategy import Company
    from omniform.engine.contrasts import Contrast
    from omniform.engine.drafts import Drafter
    from omniform.engine.feeding import Feeder
    from omniform.engine.guides import Grammar, Matcher
    from omniform.engine.handover import Given, Legacy
    from omniform.engine.hooks import Hooks
    from omniform.engine.prompt_notes import PromptNotes
    from omniform.engine.strategies import Strategy

PLAIN = RowLayout()

NAMELESS = -1
"""Stands among a row's tokens where a vector was given that is no token's."""

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one request begins with.

    Attributes:
        tokens: what the decoder reads; empty where an encoder-decoder chooses its own; :data:`NAMELESS` where a vector
            stands that is no token's.
        items: the pictures and sounds among the tokens, in reading order.
        encoder: inputs of an encoder-decoder's encoder, a batch of one row; empty for a decoder alone.
        options: settings that an encoder-decoder's own decoder prompt depends on (language, task).
        place: which prompt of its call it is, for messages.
        vectors: what stands in the place of tokens' own vectors, and from which token on. Shape: [n, D] each.
        given: state that it begins with; None where all is to be computed.
        columns: which columns of the caller's batch its tokens stand in, Shape: [n]; None for the last ones.
        layout: where its tokens stand, where the caller knows; None where the model says it.
    """

    tokens: tuple[int, ...]
    items: tuple[Item, ...] = ()
    encoder: Mapping[str, Tensor] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    place: int = 0
    vectors: tuple[tuple[int, Tensor], ...] = ()
    given: Given | None = None
    columns: Tensor | None = None
    layout: RowLayout | None = None

    @property
    def brought(self) -> int:
        """How many of its tokens need not be computed, for their state was given."""
        return 0 if self.given is None else len(self.given)


@dataclass(frozen=True, slots=True)
class Placed:
    """Vectors that stand in the place of some of a prompt's tokens.

    Attributes:
        start: the first of them.
        length: how many there are.
        content: a digest of what they were made of.
        vectors: themselves, Shape: [length, D]; None where the encoders' cache keeps them.
        offset: the first of the content's vectors that stands here.
    """

    start: int
    length: int
    content: Content
    vectors: Tensor | None = None
    offset: int = 0

    def within(self, first: int) -> int:
        """Which of the content's vectors would stand at a token of the row: it tells blocks of one content apart."""
        return first - self.start + self.offset


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was.

    Attributes:
        token: the token that was chosen.
        logprob: its log-probability under the model, before any rule or temperature.
        top: the likeliest tokens and theirs, as many as were asked for.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of an answer as it comes.

    Attributes:
        token: the token.
        text: what it adds to the text, once that is final; "" while it may still change, or without a tokenizer.
        logprob: how likely it was, if that was asked for.
        sequence: which of a request's several answers it belongs to.
    """

    token: int
    text: str = ""
    logprob: TokenLogprob | None = None
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Continuation:
    """One answer of a request.

    Attributes:
        tokens: its tokens, the one that ended it included.
        finish_reason: ``"stop"`` (an end token or a stop string), ``"length"`` or ``"cancelled"``.
        text: the answer as text, without special tokens and stop strings; None without a tokenizer.
        logprobs: one per token, if asked for.
        score: of beam search; None otherwise.
        beams: of beam search: for each token, which of the beams it was appended to; None otherwise.
        scores: what each token was chosen by, Shape: [V] each, if asked for.
        logits: the model's own scores likewise.
    """

    tokens: list[int]
    finish_reason: FinishReason
    text: str | None = None
    logprobs: list[TokenLogprob] | None = None
    score: float | None = None
    scores: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    beams: list[int] | None = None


@dataclass(frozen=True, slots=True)
class StepNotes:
    """What was noted of the steps of a request whose rows become others from step to step, as beams do.

    Attributes:
        scores: what the next beams were chosen by, step after step. Shape: [num_beams, V] each.
        logits: the model's own scores likewise.
        rows: the tokens of the beams that each step read.
    """

    scores: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    rows: list[list[list[int]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished request.

    Attributes:
        sequences: its answers, the best first; one, unless more were asked for.
        decoder_prompt: what the decoder read before the answer: the prompt, placeholders of pictures included, or what
            an encoder-decoder's answer opens with.
        cached_tokens: how many of them were not computed, because another request had begun the same.
        steps: of a beam search, what was noted step by step; None otherwise.
        model_steps: in how many steps of the model its answers were written, each counted for itself.
        drafted_tokens, accepted_tokens: tokens that were guessed ahead, and those among them that came true.
        prompt_logprobs: how likely each token of the decoder's prompt was after those before it, if asked for; None for
            the first, and for what is no token of the model's.
    """

    sequences: list[Continuation]
    decoder_prompt: tuple[int, ...]
    cached_tokens: int
    steps: StepNotes | None = None
    model_steps: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    prompt_logprobs: list[TokenLogprob | None] | None = None

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the decoder read before the answer."""
        return len(self.decoder_prompt)

    @property
    def tokens(self) -> list[int]:
        """The first answer's tokens."""
        return self.sequences[0].tokens

    @property
    def prompt_ids(self) -> list[int]:
        """The ecosystem's name for :attr:`decoder_prompt`."""
        return list(self.decoder_prompt)

    @property
    def opening(self) -> tuple[int, ...]:
        """The first name of :attr:`decoder_prompt`."""
        return self.decoder_prompt

    @property
    def generated_tokens(self) -> list[int]:
        """The ecosystem's name for :attr:`tokens`."""
        return self.tokens

    @property
    def text(self) -> str | None:
        """The first answer as text; None without a tokenizer."""
        return self.sequences[0].text

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first answer ended."""
        return self.sequences[0].finish_reason

    @property
    def logprobs(self) -> list[TokenLogprob] | None:
        """The first answer's log-probabilities, if they were asked for."""
        return self.sequences[0].logprobs


@dataclass(frozen=True, slots=True)
class Proposal:
    """A token drawn by somebody else, to be accepted or not.

    Attributes:
        token: the token.
        odds: of all tokens, what it was drawn from. Shape: [V], where V may be another than the model's own.
    """

    token: int
    odds: Tensor


@dataclass(slots=True, eq=False)
class Row:
    """One sequence of tokens in the making.

    Attributes:
        tokens: the prompt and what was written so far.
        prompt: how many of them are the prompt.
        computed: how many of them have their state in the tables.
        tables: its blocks in each pool.
        contents: digests of its full blocks.
        number: which of its request's answers it is.
        generator: of its draws; None for torch's global one.
        lane, lanes: its place among the rows of the same call, and how many those are: they draw together.
        finished: why it ended; None while it runs.
        logprobs, scores, logits: what was noted for each token written.
        outgrew: how long it was when it last outgrew its rotary frequencies, and was computed anew; 0 if it never did.
        nameless: how many of the prompt's tokens are vectors that no id stands for.
        source: the tokens that its encoder has read, none where that was sound or vectors; None without an encoder.
        shadow: the row that it is contrasted with, which reads another prompt and whatever this one writes.
        is_shadow: it is such a row, and no answer.
        drafted: how many of the last tokens are guesses, which the present step is to confirm; 0 between steps.
        guide: where it stands in its request's grammar, once it writes; None without one.
        guesses: those that the present step has computed and that are not confirmed yet.
        tentative: how many of the last tokens may be taken back after the step that reads them.
        proposals: what was drawn for its next places, and from which distributions; empty where nothing was.
        kept: a state of fixed size as it was before such tokens were read, and how much was computed then.
        history: what the rules remember of it.
        fed: what stands in the place of each token that it wrote, where that is not the token's own vector.
    """

    tokens: list[int]
    prompt: int
    number: int = 0
    computed: int = 0
    tables: dict[Pool, BlockTable] = field(default_factory=dict)
    contents: list[Content] = field(default_factory=list)
    generator: torch.Generator | None = None
    lane: int | None = None
    lanes: int = 0
    finished: FinishReason | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    outgrew: int = 0
    nameless: int = 0
    source: tuple[int, ...] | None = None
    drafted: int = 0
    guide: Matcher | None = None
    guesses: list[int] = field(default_factory=list)
    tentative: int = 0
    proposals: deque[Proposal] = field(default_factory=deque)
    kept: tuple[int, BlockTable] | None = None
    shadow: Row | None = None
    is_shadow: bool = False
    history: History | None = None
    fed: list[Placed] = field(default_factory=list)

    def take_drafts(self, kept: int = 0) -> list[int]:
        """Strike out the guesses but for the first ``kept``; returns those that were struck out."""
        at = len(self.tokens) - self.drafted + max(0, min(kept, self.drafted))
        taken, self.tokens[at:] = self.tokens[at:], []
        self.drafted -= len(taken)
        return taken

    @property
    def pending(self) -> int:
        """Tokens whose state is still to be computed."""
        return len(self.tokens) - self.computed

    @property
    def regime_length(self) -> int:
        """The length whose rotary frequencies its first tokens have."""
        return max(self.prompt, self.outgrew)

    @property
    def written(self) -> int:
        """How many tokens were written after the prompt."""
        return len(self.tokens) - self.prompt

    @property
    def named(self) -> list[int]:
        """The tokens that have an id: all but the places of vectors that are no token's."""
        return [t for t in self.tokens if t != NAMELESS] if self.nameless else self.tokens

    @property
    def read(self) -> tuple[int, ...]:
        """The tokens that it answers: its encoder's, or its prompt's."""
        if self.source is not None:
            return self.source
        return tuple(t for t in self.tokens[: self.prompt] if t != NAMELESS)

    def begun(self) -> Row:
        """The row as it was before anything was computed or written."""
        prompt = self.tokens[: self.prompt]
        return Row(prompt, self.prompt, source=self.source, nameless=self.nameless, is_shadow=self.is_shadow)

    def continued(self, number: int) -> Row:
        """Another row that begins with the same tokens; its tables are not set."""
        copy = Row(list(self.tokens), self.prompt, number, self.computed, contents=list(self.contents))
        copy.nameless, copy.outgrew, copy.source = self.nameless, self.outgrew, self.source
        copy.guide = None if self.guide is None else self.guide.copy()
        copy.is_shadow = self.is_shadow
        copy.history = None if self.history is None else self.history.copy()
        copy.fed = [*self.fed]
        if self.lane is not None:
            copy.lane, copy.lanes = self.lane + number - self.number, self.lanes
        return copy

    def renumber(self, number: int) -> None:
        """Make it another of its request's answers."""
        if self.lane is not None:
            self.lane += number - self.number
        self.number = number
        if self.shadow is not None:
            self.shadow.renumber(number)


class Sink(Protocol):
    """Receives what a request gives."""

    def piece(self, row: Row, token: int, logprob: TokenLogprob | None) -> None:
        """A token as it comes; not called for beam search, whose tokens are known at the end only."""
        ...

    def end(self, completion: Completion | None, error: BaseException | None) -> None:
        """The request is over: with a completion, or with the error that ended it. Called once."""
        ...


@dataclass(slots=True, eq=False)
class Request:
    """What the scheduler handles: one prompt, its settings, and the rows that are written for it.

    Attributes:
        prompt: what it begins with.
        settings: how to choose tokens and when to stop; read again once a model has chosen its decoder prompt.
        priority: the higher, the sooner.
        arrival: requests of the same priority keep the order in which they came.
        sink: told of every piece, and of the end.
        read_settings: the settings, given the number of tokens in the prompt.
        tokenizer: makes the answer's text.
        rows: empty until the request is first admitted.
        contents: digests of what its encoders read, once they were made.
        room: what its encoders make takes: bytes of features or blocks of memory; 0 until that is known.
        media: digests of its items, held in the encoders' cache while it runs.
        placed: which tokens stand for what, its items and its vectors.
        layout: what the decoder has to know of its prompt beyond the order of the tokens.
        memory: digest of its encoder's inputs, for an encoder-decoder, while it runs.
        parts: the objects that its call brought along.
        hooks: those of them that take part in choosing; None where there are none.
        strategy: how its rows go on together; None where each chooses for itself.
        contrast: what the model's scores are set against before anything is chosen by them; None for nothing.
        drafter: guesses what its rows will write; None where nobody does.
        grammar: the form that its answers have; None for any.
        stop_strings: ends a row by its text; None where no such strings were given.
        legacy: collects what its rows leave behind; None where nobody wants it.
        notes: how likely its prompt's own tokens are; None where nobody asks.
        company: the beam searches that end together with its own; None for none.
        feeder: makes what its rows read next of what they have written; None where that is the token itself.
        adapter: the adapter that it computes with; None for what the model does by itself.
        alone: to be computed in a step of its own, because a step that it was in failed.
        begun: it has had blocks; what it reuses after it was preempted is its own.
        cached_tokens: prompt tokens whose blocks another request had computed.
        steps, drafted_tokens, accepted_tokens: what its :class:`Completion` will say.
        over: it has ended, for better or worse.
        cancelled: somebody has lost interest.
        deadline: the time after which no further token is begun.
        seed: of the draws; None for torch's global generator.
        lane, lanes: the place of its first row among the rows of the same call, and how many those are.
    """

    prompt: Prompt
    settings: Settings
    priority: int
    arrival: int
    sink: Sink
    read_settings: Callable[[int], Settings]
    tokenizer: Decodes | None = None
    rows: list[Row] = field(default_factory=list)
    contents: tuple[Content, ...] = ()
    room: int = 0
    media: tuple[Content, ...] = ()
    placed: tuple[Placed, ...] = ()
    layout: RowLayout = PLAIN
    memory: Content | None = None
    memory_length: int = 0
    parts: Parts = NO_PARTS
    hooks: Hooks | None = None
    strategy: Strategy | None = None
    contrast: Contrast | None = None
    drafter: Drafter | None = None
    grammar: Grammar | None = None
    stop_strings: StopStrings | None = None
    legacy: Legacy | None = None
    notes: PromptNotes | None = None
    company: Company | None = None
    feeder: Feeder | None = None
    adapter: str | None = None
    alone: bool = False
    begun: bool = False
    cached_tokens: int = 0
    steps: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    over: bool = False
    cancelled: bool = False
    deadline: float | None = None
    seed: int | None = None
    lane: int | None = None
    lanes: int = 0

    @property
    def order(self) -> tuple[int, int]:
        """Sorts requests: the most urgent first."""
        return (-self.priority, self.arrival)

    @property
    def choosing(self) -> Settings:
        """What its tokens are chosen by: the same object for all requests that have it in common."""
        return choosing(self.settings)

    @property
    def first_wanted(self) -> int | None:
        """The first token whose output is wanted, so that it may not be taken over; None for each row's last ones."""
        if self.strategy is not None and self.strategy.reads_prompt:
            return 0
        return None if self.notes is None else self.notes.next

    @property
    def running(self) -> list[Row]:
        """The rows that are still being written."""
        return [row for row in self.rows if row.finished is None]

    @property
    def reading(self) -> list[Row]:
        """The rows that steps have to read on in: those that are being written, and what they are contrasted with."""
        return _with_shadows(self.running)

    @property
    def every_row(self) -> list[Row]:
        """All rows, and what they are contrasted with."""
        return _with_shadows(self.rows)

    @property
    def in_lockstep(self) -> bool:
        """Whether its rows choose together, once all of them have been read to their end."""
        if self.strategy is not None:
            return self.strategy.lockstep
        return any(row.shadow is not None for row in self.rows)

    def layout_of(self, row: Row) -> RowLayout:
        """What the decoder has to know of the prompt of one of its rows: shadows read text alone."""
        return PLAIN if row.is_shadow else self.layout

    def placed_of(self, row: Row, first: int, stop: int) -> tuple[Placed, ...]:
        """Which tokens of one of its rows stand for what; those it wrote only from ``first`` to ``stop``."""
        if row.is_shadow:
            return ()
        fed = row.fed[max(0, first - row.prompt) : max(0, stop - row.prompt)]
        return (*self.placed, *fed) if fed else self.placed


def _with_shadows(rows: list[Row]) -> list[Row]:
    return [*rows, *(row.shadow for row in rows if row.shadow is not None)]
