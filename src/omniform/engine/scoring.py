"""How likely texts are after others: log-probabilities of continuations, for evaluation and for ranking."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.core.errors import InputError, brief
from omniform.core.settings import SETTINGS, Effect
from omniform.engine.calls import AnyPrompt, Reader, named_inputs, prompts_of
from omniform.engine.prompt_notes import PromptNotes
from omniform.engine.request import Completion, Prompt, Request, Row, TokenLogprob
from omniform.engine.settings import Asked

if TYPE_CHECKING:
    from omniform.engine.engine import Engine

Continued = str | Tensor | Sequence[int]
"""What is to be scored: a text or token ids."""

AT_ONCE: Final = 128
"""So many passes wait in the engine's queue: it looks through all of them at every step."""

_OWN: Final = frozenset({"bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id"})

_PLAIN: Final[Mapping[str, object]] = {
    **{name: None for name, row in SETTINGS.items() if row.effect is not Effect.PART and name not in _OWN},
    "max_new_tokens": 0,
    "prompt_logprobs": 1,
}
"""Nothing is written, whatever a checkpoint's own settings say of writing."""


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a continuation is.

    Attributes:
        tokens: its tokens.
        logprobs: the log-probability of each, after the prompt and those before it.
        greedy: whether each is the likeliest token at its place.
    """

    tokens: list[int]
    logprobs: list[float]
    greedy: list[bool]

    @property
    def total(self) -> float:
        """The log-probability of the whole continuation."""
        return sum(self.logprobs)

    @property
    def is_greedy(self) -> bool:
        """Whether greedy search would write it."""
        return all(self.greedy)


@dataclass(slots=True, eq=False)
class _Reading:
    """One pass over a prompt and a continuation but its last token, for all continuations that differ in that alone.

    Attributes:
        prompt: what comes first.
        middle: the tokens of the continuation that are read.
        ends: the tokens that may follow.
        notes: what was noted; a request's sink.
        wanted: for each that asked: its place among the answers, and that of its last token among ``ends``.
    """

    prompt: Prompt
    middle: list[int]
    ends: list[int] = field(default_factory=list)
    notes: PromptNotes | None = None
    wanted: list[tuple[int, int]] = field(default_factory=list)
    error: BaseException | None = None
    done: bool = False

    def piece(self, row: Row, token: int, logprob: TokenLogprob | None) -> None:
        """Nothing is written."""

    def end(self, completion: Completion | None, error: BaseException | None) -> None:
        """The pass is over."""
        self.error, self.done = error, True

    def scores(self) -> Iterable[tuple[int, Score]]:
        """What each that asked gets.

        Raises:
            OmniformError: the pass failed.
        """
        if self.error is not None:
            raise self.error
        assert self.notes is not None
        for place, at in self.wanted:
            told = [one for one in self.notes.logprobs if one is not None] + [self.notes.ends[at]]
            tokens = [one.token for one in told]
            yield place, Score(tokens, [one.logprob for one in told], [one.token == one.top[0][0] for one in told])


def score_pairs(engine: Engine, pairs: Sequence[tuple[AnyPrompt, Continued]]) -> list[Score]:
    """Score continuations; see :meth:`omniform.engine.engine.Engine.score`."""
    settings = Asked(engine.model, _PLAIN)
    readings = _readings(engine, pairs, settings)
    # Those that begin alike one after another, so that what they share is still there.
    waiting = deque(sorted(readings, key=lambda one: (one.prompt.tokens, one.middle)))
    reading: list[_Reading] = []
    requests: list[Request] = []
    found: dict[int, Score] = {}
    try:
        while waiting or reading:
            while waiting and len(reading) < AT_ONCE:
                reading.append(waiting.popleft())
                notes = reading[-1].notes = PromptNotes(1, reading[-1].middle, reading[-1].ends)
                requests.append(engine.enqueue(reading[-1].prompt, settings, reading[-1], notes=notes))
            engine.step()
            found.update(one for done in reading if done.done for one in done.scores())
            reading = [one for one in reading if not one.done]
            requests = [one for one in requests if not one.over]
        return [found[place] for place in range(len(pairs))]
    finally:
        engine.cancel(requests)


def _readings(engine: Engine, pairs: Sequence[tuple[AnyPrompt, Continued]], asked: Asked) -> list[_Reading]:
    if not isinstance(pairs, (list, tuple)):
        raise InputError("these are no pairs", where="pairs", expected="a list of them", found=brief(pairs))
    alike: dict[object, _Reading] = {}
    for place, pair in enumerate(pairs):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise InputError(
                "this is no pair", where=f"pairs[{place}]", expected="a prompt and a continuation", found=brief(pair)
            )
        prompt, tokens = _read_pair(engine.model, engine.processor, pair[0], pair[1], asked)
        # Only prompts of text alone are known to be the same by their tokens.
        same = place if prompt.items or prompt.encoder or prompt.vectors else prompt.tokens
        reading = alike.setdefault((same, *tokens[:-1]), _Reading(prompt, tokens[:-1]))
        if tokens[-1] not in reading.ends:
            reading.ends.append(tokens[-1])
        reading.wanted.append((place, reading.ends.index(tokens[-1])))
    return list(alike.values())


def _read_pair(
    model: Generative, reader: Reader | None, prompt: AnyPrompt, continuation: Continued, asked: Asked
) -> tuple[Prompt, list[int]]:
    """A prompt, and the tokens to score after it.

    Two texts are read as one by a decoder, since a token may hold the end of the one and the beginning of the other:
    what the prompt alone has not as many tokens for is the continuation. Spaces at the prompt's end are the
    continuation's (as lm-eval cuts texts).

    Raises:
        InputError: one of the two is of no known kind, empty, too long or not in the vocabulary.
    """
    if isinstance(prompt, str) and isinstance(continuation, str) and not model.encoder_inputs:
        before, tokens = _cut(model, reader, prompt, continuation)
        named: dict[str, object] = {"input_ids": [before]}
    else:
        named = named_inputs(model, reader, prompt)
        tokens = _tokens(reader, continuation)
    if not tokens:
        raise InputError("there is nothing to score", where="continuation", expected="a token at least", found="none")
    prompts, _ = prompts_of(model, named, asked)
    if len(prompts) != 1:
        raise InputError("a pair has one prompt", where="prompt", expected="one row", found=f"{len(prompts)} rows")
    outside = next((token for token in tokens if not model.knows(token)), None)
    if outside is not None:
        raise InputError(
            "a token is not in the vocabulary", where="continuation", expected=f"ids below {model.vocabulary}",
            found=outside,
        )  # fmt: skip
    read, limit = (len(prompts[0].tokens) or 1) + len(tokens) - 1, model.max_positions
    if limit is not None and read > limit:
        raise InputError(
            "prompt and continuation are longer than the model's positions",
            where="continuation",
            expected=f"at most {limit + 1} tokens together",
            found=f"{read + 1} tokens",
        )
    return prompts[0], tokens


def _cut(model: Generative, reader: Reader | None, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
    before = encoded(reader, prompt.rstrip())
    if before:
        return before, encoded(reader, prompt + continuation)[len(before) :]
    whole = encoded(reader, prompt + continuation, add_special_tokens=False)
    for name in ("bos_token_id", "eos_token_id"):
        ids = Asked(model, {name: model.config.get(name)} if model.config.get(name) is not None else {}).values[name]
        if isinstance(ids, tuple) and ids:
            return [ids[0]], whole
    raise InputError(
        "an empty prompt needs a token that texts begin with", where="prompt", expected="a text", found="an empty one"
    )


def _tokens(reader: Reader | None, continuation: object) -> list[int]:
    if isinstance(continuation, str):
        return encoded(reader, continuation, add_special_tokens=False)
    if isinstance(continuation, Tensor) and continuation.dim() == 1 and not continuation.is_floating_point():
        return [int(token) for token in continuation.tolist()]
    if isinstance(continuation, (list, tuple)) and all(type(token) is int for token in continuation):
        return list(continuation)
    raise InputError(
        "this cannot be scored", where="continuation", expected="a text or token ids", found=brief(continuation)
    )


def encoded(reader: Reader | None, text: str, **options: object) -> list[int]:
    """The tokens of a text.

    Raises:
        InputError: nobody can read it.
    """
    if reader is None:
        raise InputError(
            "a text needs a tokenizer to be read",
            where="prompt",
            expected="token ids",
            found="a text",
            remedy="Give the Engine, or score(tokenizer=...), the checkpoint's tokenizer.",
        )
    if not text:
        return []  # some frame even nothing
    ids = reader(text=text, return_tensors="pt", **options)["input_ids"]
    return [int(token) for token in cast(Tensor, ids)[0].tolist()]


def score(
    model: Model, prompt: object, continuation: object, *, tokenizer: Reader | None = None
) -> Score | list[Score]:
    """How likely a continuation is after a prompt; of two lists of them, each pair's score.

    Args:
        prompt: a text, token ids, a processor's batch of one row, or a list of such prompts.
        continuation: a text or token ids, or a list of them, one for each prompt.
        tokenizer: reads texts.

    Raises:
        InputError: the model does not write, one of them cannot be read, or the lists are of different lengths.
    """
    from omniform.engine.engine import Engine

    many = isinstance(continuation, (list, tuple)) and not all(type(token) is int for token in continuation)
    engine = Engine(model, tokenizer, memory="auto")
    if not many:
        return score_pairs(engine, [(cast(AnyPrompt, prompt), cast(Continued, continuation))])[0]
    continuations = list(cast("Sequence[Continued]", continuation))
    if not isinstance(prompt, (list, tuple)) or len(prompt) != len(continuations):
        raise InputError(
            "there is not one prompt for each continuation",
            where="prompt",
            expected=f"a list of {len(continuations)}",
            found=len(prompt) if isinstance(prompt, (list, tuple)) else brief(prompt),
        )
    return score_pairs(engine, list(zip(prompt, continuations, strict=True)))
