"""Whom one talks to: a model, its processor, and one engine that is kept over all turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.cli.chat_session import KINDS, Session
from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.core.generation import as_settings
from omniform.core.settings import Setting
from omniform.engine.ask import Asked, marked, media_read, read_question
from omniform.engine.calls import Reader, named_inputs
from omniform.engine.engine import Engine
from omniform.engine.handle import Handle
from omniform.engine.request import FinishReason
from omniform.engine.settings import table_of

LONGEST_ANSWER = 512
"""Tokens of the longest answer, where neither the user nor the checkpoint's own settings say."""

KEPT = 0.75
"""Of a full window so much is kept: if each turn pushed out one other, the rest would be read anew each time."""

THINKING = "<think>"


@dataclass(slots=True)
class Reply:
    """An answer in the making, and what it took.

    Attributes:
        text: what was written so far.
        tokens: how many tokens that is.
        prompt_tokens: how many were read.
        reused: how many of those an earlier turn had computed.
        first: seconds until the first token.
        seconds: from the first token to the last.
        reason: why it ended.
    """

    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    reused: int = 0
    first: float = 0.0
    seconds: float = 0.0
    reason: FinishReason = "stop"

    @property
    def speed(self) -> float | None:
        """Tokens per second after the first; None for less than two."""
        return (self.tokens - 1) / self.seconds if self.tokens > 1 and self.seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Question:
    """What the model is about to read.

    Attributes:
        inputs: by name.
        tokens: how many the decoder reads of them.
        dropped: how many turns had to go to make room.
        thinking: whether the prompt ends within a thought.
    """

    inputs: Mapping[str, object]
    tokens: int
    dropped: int
    thinking: bool


class Form(Protocol):
    """How a conversation becomes a prompt.

    Attributes:
        notice: what is to be said of it once; "" for nothing.
        stops: texts that end an answer, where nobody asks for others.
    """

    notice: str
    stops: tuple[str, ...]

    def inputs(self, model: Generative, reader: Reader, session: Session, *, in_parts: bool) -> Mapping[str, object]:
        """The model's inputs for the last question."""
        ...


class Templated:
    """By the checkpoint's own template."""

    notice: str = ""
    stops: tuple[str, ...] = ()

    def inputs(self, model: Generative, reader: Reader, session: Session, *, in_parts: bool) -> Mapping[str, object]:
        return named_inputs(model, reader, session.messages(in_parts=in_parts))


class Spelled:
    """As ``role: text``, for models that know no template."""

    notice: str = "no chat template: the model reads the conversation as plain text (User: ... Assistant: ...)"
    stops: tuple[str, ...] = ("\nUser:",)

    def inputs(self, model: Generative, reader: Reader, session: Session, *, in_parts: bool) -> Mapping[str, object]:
        lines = [session.system] if session.system else []
        shown = [medium for turn in session.seen for medium in turn.media]
        for turn in session.seen:
            lines.append(f"User: {marked(reader, turn.text, [medium.kind for medium in turn.media])}")
            lines.append("Assistant:" if turn.answer is None else f"Assistant: {turn.answer.strip()}")
        given = {name: [m.path for m in shown if m.kind == kind] for kind, name in KINDS.items()}
        more: dict[str, object] = {name: paths for name, paths in given.items() if paths}
        return named_inputs(model, reader, reader(text="\n".join(lines), return_tensors="pt", **more))


class Alone:
    """Each question by itself, for models whose encoder reads one text and whose decoder writes the answer to it."""

    notice: str = "this model answers each line by itself: it reads no conversations"
    stops: tuple[str, ...] = ()

    def inputs(self, model: Generative, reader: Reader, session: Session, *, in_parts: bool) -> Mapping[str, object]:
        last = session.turns[-1]
        asked = {name: [m.path for m in last.media if m.kind == kind] for kind, name in KINDS.items()}
        return read_question(model, reader, last.text, Asked(**{name: tuple(paths) for name, paths in asked.items()}))


class Partner:
    """A model to talk to.

    Args:
        model: any model that writes and can be asked in text.
        reader: its processor or tokenizer.
        cache_dtype: how keys and values are kept; see :class:`~omniform.engine.engine.Engine`.

    Raises:
        InputError: it does not write, or listens to sound only.
    """

    def __init__(self, model: Model, reader: Reader, cache_dtype: str | None = None) -> None:
        self.engine = Engine(model, reader, cache_dtype=cache_dtype)
        assert isinstance(model, Generative), "the engine has checked that it writes"
        self.model = model
        self.reader = reader
        self.name = model.origin.architecture.name
        if "input_ids" not in model.accepts() | model.encoder_inputs or "input_features" in model.encoder_inputs:
            raise InputError(f"a {self.name} reads no text to talk about", where="model", remedy="See omniform run.")
        self.reads = media_read(reader)
        templated = reader.chat_template is not None
        self.form: Form = Alone() if model.encoder_inputs else Templated() if templated else Spelled()
        self.table: Mapping[str, Setting] = table_of(model)
        self._most = model.max_positions

    @property
    def window(self) -> int | None:
        """The most tokens that prompt and answer may have; None for any number."""
        return self._most

    def question(self, session: Session, longest: int) -> Question:
        """The prompt for the last turn; the oldest turns are dropped where there is no room for them.

        Args:
            longest: tokens of the longest answer.

        Raises:
            InputError: the last question alone is too long.
        """
        dropped = 0
        inputs, tokens = self._read(session)
        if self._most is not None and not isinstance(self.form, Alone):
            most = self._most
            room = min(longest, most // 4)
            fits = most - room
            while tokens > fits and session.forget_oldest():
                dropped, fits = dropped + 1, int(most * KEPT) - room
                inputs, tokens = self._read(session)
            if tokens >= most:
                raise InputError(
                    "this is longer than the model's window",
                    where="your message" if not session.system else "your message, with the system message",
                    expected=f"less than {most} tokens",
                    found=f"{tokens} tokens",
                )
        ids = inputs.get("input_ids")
        last = ids[0, -8:].tolist() if isinstance(ids, Tensor) and ids.dim() == 2 else []
        return Question(inputs, tokens, dropped, str(self.reader.decode(last)).rstrip().endswith(THINKING))

    def _read(self, session: Session) -> tuple[Mapping[str, object], int]:
        inputs = self.form.inputs(self.model, self.reader, session, in_parts=bool(self.reads))
        ids = inputs.get("input_ids")
        return inputs, ids.shape[-1] if isinstance(ids, Tensor) else 0

    def settings(self, given: Mapping[str, object], question: Question) -> dict[str, object]:
        """What the engine is told: the user's settings, within what the window has room for."""
        asked = dict(given)
        if self.form.stops and "stop_strings" not in asked:
            asked["stop_strings"] = list(self.form.stops)
        longest = self.longest(given)
        if longest is not None:
            room = longest if self._most is None or isinstance(self.form, Alone) else self._most - question.tokens
            asked["max_new_tokens"] = max(1, min(longest, room))
        return asked

    def longest(self, given: Mapping[str, object]) -> int | None:
        """Tokens of the longest answer; None where ``max_length`` says it otherwise."""
        own = as_settings(self.model.generation_config)
        for said in (given, own):
            if isinstance(said.get("max_new_tokens"), int):
                return cast(int, said["max_new_tokens"])
            if said is given and said.get("max_length") is not None:
                return None
        return LONGEST_ANSWER

    def ask(self, question: Question, settings: Mapping[str, object]) -> Handle:
        """Put a question into the engine's queue.

        Raises:
            OmniformError: it, or a setting, cannot be used.
        """
        return self.engine.submit(cast(Batch, dict(question.inputs)), priority=0, reader=None, **settings)

    def count(self, text: str) -> int:
        """How many tokens a text is."""
        ids = self.reader(text=text, return_tensors="pt")["input_ids"]
        return int(ids.shape[-1]) if isinstance(ids, Tensor) else len(cast(Sequence[object], ids))


def pieces(handle: Handle, reply: Reply, clock: Callable[[], float] = time.perf_counter) -> Iterator[str]:
    """The texts of an answer as they come; ``reply`` is filled in on the way.

    Raises:
        OmniformError: the request failed.
    """
    started = clock()
    try:
        for piece in handle:
            if piece.sequence:
                continue  # one answer to one question, however many the settings ask for
            now = clock()
            if not reply.tokens:
                reply.first, begun = now - started, now
            reply.tokens += 1
            reply.seconds = now - begun
            reply.text += piece.text
            if piece.text:
                yield piece.text
        completion = handle.result()
        reply.prompt_tokens, reply.reused = completion.prompt_tokens, completion.cached_tokens
        reply.reason = completion.finish_reason
        # An answer that was given up may hold back its last characters.
        if completion.text is not None and completion.text.startswith(reply.text):
            rest, reply.text = completion.text[len(reply.text) :], completion.text
            if rest:
                yield rest
    finally:
        handle.cancel()
