"""What came of a request, in the ecosystem's words for continuous batching."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from omniform.engine.request import Completion, Continuation, FinishReason, Row, TokenLogprob


class RequestStatus(IntEnum):
    """How far a request is."""

    PENDING = 0
    PREFILLING = 1
    DECODING = 2
    FINISHED = 3
    FAILED = 4


@dataclass
class GenerationOutput:
    """What a request has come to.

    Attributes:
        request_id: its name.
        prompt_ids: the tokens that the decoder reads before the answer.
        generated_tokens: those written so far.
        logprobs: how likely each of them was among those it was chosen from, if asked for.
        error: what went wrong; None while nothing has.
        status: how far it is.
        created_time: when it was made, in seconds of ``time.perf_counter``.
        lifespan: when it was begun and when it was over; -1 for not yet.
        timestamps: when each token was written, if asked for.
        text: the answer as text; None without a tokenizer, or before its end.
        finish_reason: why it ended: ``"stop"``, ``"length"`` or ``"cancelled"``; None before.
        completion: the whole outcome, once there is one.
    """

    request_id: str
    prompt_ids: list[int] = field(default_factory=list)
    generated_tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    error: str | None = None
    status: RequestStatus = RequestStatus.PENDING
    created_time: float = field(default_factory=time.perf_counter)
    lifespan: tuple[float, float] = (-1, -1)
    timestamps: list[float] | None = None
    text: str | None = None
    finish_reason: FinishReason | None = None
    completion: Completion | None = None

    def is_finished(self) -> bool:
        """Whether nothing more will come, for better or worse."""
        return self.status >= RequestStatus.FINISHED

    @property
    def tokens(self) -> list[int]:
        """The engine's name for :attr:`generated_tokens`."""
        return self.generated_tokens


class Tracked:
    """Receives what a request gives, and hands on what it has come to.

    Args:
        request_id: its name; further answers are ``NAME__child#0`` and so on.
        prompt: its tokens, as far as they are known beforehand.
        deliver: takes every output.
        streaming: whether outputs are handed on token by token.
        timed: whether they say when each token came.
        likely: whether they say how likely each token was; the row's scores are kept for that, and let go here.
    """

    def __init__(
        self,
        request_id: str,
        prompt: list[int],
        deliver: Callable[[GenerationOutput], None],
        *,
        streaming: bool = False,
        timed: bool = False,
        likely: bool = False,
    ) -> None:
        self.request_id = request_id
        self.created = time.perf_counter()
        self.begun = -1.0
        self.error: BaseException | None = None
        self.done = False
        self._prompt, self._deliver = prompt, deliver
        self._streaming, self._timed, self._likely = streaming, timed, likely
        self._tokens: dict[int, list[int]] = {}
        self._logprobs: dict[int, list[float]] = {}
        self._times: dict[int, list[float]] = {}

    @property
    def over(self) -> bool:
        """Whether the request is over; raises what ended it, if that was an error."""
        if self.error is not None:
            raise self.error
        return self.done

    def piece(self, row: Row, token: int, logprob: TokenLogprob | None) -> None:
        """A token as it comes."""
        number = row.number
        self._tokens.setdefault(number, []).append(token)
        if self._timed:
            self._times.setdefault(number, []).append(time.perf_counter())
        if self._likely:
            scores = row.scores.pop()
            self._logprobs.setdefault(number, []).append(float(scores.float().log_softmax(-1)[token]))
        if self._streaming and row.finished is None:
            self._prompt = self._prompt or row.named[: row.prompt - row.nameless]
            self._deliver(self._output(number, RequestStatus.DECODING, list(self._tokens[number])))

    def end(self, completion: Completion | None, error: BaseException | None) -> None:
        """The request is over."""
        self.error = error
        if completion is not None:
            self._prompt = list(completion.decoder_prompt)
            order = [*range(1, len(completion.sequences)), 0]  # the ecosystem names the first one last
            for number in order:
                self._deliver(self._ended(number, completion.sequences[number], completion))
        else:
            output = self._output(0, RequestStatus.FAILED, self._tokens.get(0, []))
            output.error = f"{type(error).__name__}: {error}"
            self._deliver(output)
        self.done = True

    def _ended(self, number: int, one: Continuation, completion: Completion) -> GenerationOutput:
        cancelled = one.finish_reason == "cancelled"
        output = self._output(number, RequestStatus.FAILED if cancelled else RequestStatus.FINISHED, list(one.tokens))
        output.error = "the request was cancelled" if cancelled else None
        output.text, output.finish_reason, output.completion = one.text, one.finish_reason, completion
        if one.logprobs is not None and not self._likely:
            output.logprobs = [told.logprob for told in one.logprobs]
        return output

    def _output(self, number: int, status: RequestStatus, tokens: list[int]) -> GenerationOutput:
        over = time.perf_counter() if status >= RequestStatus.FINISHED else -1.0
        return GenerationOutput(
            request_id=self.request_id if number == 0 else f"{self.request_id}__child#{number - 1}",
            prompt_ids=list(self._prompt),
            generated_tokens=tokens,
            logprobs=list(self._logprobs.get(number, [])),
            status=status,
            created_time=self.created,
            lifespan=(self.begun, over),
            timestamps=list(self._times.get(number, [])) if self._timed else None,
        )
