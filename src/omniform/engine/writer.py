"""The writer: from scores to tokens, and from finished rows to answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from omniform.engine.beams import BeamSearch
from omniform.engine.encoders import Encoders
from omniform.engine.request import NAMELESS, Completion, Continuation, FinishReason, Request, Row, TokenLogprob
from omniform.engine.sampling import choose, logprobs_of, processed, refuse_no_numbers
from omniform.engine.scheduler import ScheduledChunk, Scheduler
from omniform.engine.settings import Settings
from omniform.engine.stop import answer_text

log = logging.getLogger("omniform")

Entry = tuple[Request, Row, int]
"""A row whose next token is to be chosen, and the place of its scores."""


class Writer:
    """Chooses tokens, appends them to their rows, forks rows, and ends requests.

    Args:
        scheduler: holds the requests and their blocks.
        encoders: holds what they brought.
        device: where scores lie.

    Attributes:
        failures: requests that ended with an error.
        tokens_cached: prompt tokens that finished requests did not have to compute.
    """

    def __init__(self, scheduler: Scheduler, encoders: Encoders, device: torch.device) -> None:
        self.failures = 0
        self.tokens_cached = 0
        self._scheduler = scheduler
        self._encoders = encoders
        self._device = device

    @torch.inference_mode()
    def write(self, ready: Sequence[ScheduledChunk], logits_RV: Tensor) -> None:
        """Choose the next token of every row that was read to its end."""
        alike: dict[Settings, list[Entry]] = {}
        searches: dict[int, list[Entry]] = {}
        for at, chunk in enumerate(ready):
            request, row = chunk.request, chunk.row
            if request.settings.num_beams > 1:
                searches.setdefault(id(request), []).append((request, row, at))
                continue
            alike.setdefault(request.settings, []).append((request, row, at))
            if row.written == 0 and len(request.rows) == 1:
                for number in range(1, request.settings.num_return_sequences):
                    twin = self._scheduler.fork(row, number)
                    twin.generator = self.generator(request, number)
                    request.rows.append(twin)
                    alike[request.settings].append((request, twin, at))
        for settings, entries in alike.items():
            self._guarded(entries, lambda some, s=settings: self._choose(some, s, logits_RV))  # type: ignore[misc]
        for entries in searches.values():
            self._guarded(entries, lambda some: self._search(some, logits_RV))

    def _guarded(self, entries: list[Entry], work: Callable[[list[Entry]], None]) -> None:
        """Do something for rows; a request that makes it fail is over, and the others are served without it."""
        try:
            work(entries)
        except Exception as error:
            requests = list({id(request): request for request, _, _ in entries}.values())
            if len(requests) == 1:
                self.fail(requests[0], error)
                return
            for one in requests:
                self._guarded([entry for entry in entries if entry[0] is one], work)

    def _choose(self, entries: list[Entry], settings: Settings, logits_RV: Tensor) -> None:
        places = [at for _, _, at in entries]
        logits = logits_RV if places == list(range(logits_RV.shape[0])) else logits_RV[places]
        named = [_place(request, row) for request, row, _ in entries]
        tokens, scores = choose([row for _, row, _ in entries], settings, logits, named)
        for i, ((request, row, _), token) in enumerate(zip(entries, tokens, strict=True)):
            if request.over:
                continue  # another of its rows has failed
            try:
                self._append(request, row, token, logits[i], scores[i])
            except Exception as error:
                self.fail(request, error)

    def _append(self, request: Request, row: Row, token: int, logits_V: Tensor, scores_V: Tensor) -> None:
        settings = request.settings
        row.tokens.append(token)
        logprob: TokenLogprob | None = None
        if settings.logprobs is not None:
            logprob = logprobs_of(logits_V, token, settings.logprobs)
            row.logprobs.append(logprob)
        if settings.keep_scores:
            row.scores.append(scores_V.float())
        if settings.keep_logits:
            row.logits.append(logits_V.clone())
        if token in settings.eos_token_ids or (
            request.stop_strings is not None and request.stop_strings.ends(row.named)
        ):
            row.finished = "stop"
        elif row.written >= settings.max_new_tokens or is_late(request):
            row.finished = "length"
        request.sink.piece(row, token, logprob)
        if row.finished is not None:
            self._scheduler.release(row)
            if not request.running:
                self.finish(request)

    def _search(self, entries: list[Entry], logits_RV: Tensor) -> None:
        """One step of a beam search: its rows become others that continue them."""
        request = entries[0][0]
        rows = [row for _, row, _ in entries]
        if request.beams is None:
            request.beams = BeamSearch(request.settings.beam_settings(), rows[0].generator)
        logits = logits_RV[[at for _, _, at in entries]].float()
        logprobs = logits.log_softmax(-1)
        if not request.settings.remove_invalid:
            places = [request.prompt.place * request.settings.num_return_sequences] * len(rows)
            refuse_no_numbers(logprobs[:, 0].isnan(), rows, logits, places)  # one NaN makes the whole row NaN
        scores = processed(rows, request.settings, logprobs)
        late = is_late(request)

        def ends(parent: int, token: int) -> bool:
            row = rows[parent]
            stops = request.stop_strings
            return late or (stops is not None and stops.ends([*row.named, token]))

        fork = request.beams.advance(scores, ends)
        if request.beams.done:
            self.finish(request)
            return
        request.rows = [self._scheduler.fork(rows[parent], i) for i, parent in enumerate(fork.parents)]
        for row, token in zip(request.rows, fork.tokens, strict=True):
            row.tokens.append(token)
        for row in rows:
            self._scheduler.release(row)

    def generator(self, request: Request, number: int) -> torch.Generator | None:
        if request.seed is None:
            return None
        return torch.Generator(self._device).manual_seed(request.seed + number)

    def finish(self, request: Request) -> None:
        """A request is over and has its answers."""
        try:
            completion = self._completion(request)
        except Exception as error:
            self.fail(request, error)
            return
        self.tokens_cached += request.cached_tokens
        self._end(request, completion, None)

    def _completion(self, request: Request) -> Completion:
        beams = request.beams
        prompt = [t for t in request.prompt.tokens if t != NAMELESS]
        if request.rows:
            prompt = request.rows[0].named[: request.rows[0].prompt - request.rows[0].nameless]
        if beams is not None and beams.done:
            found = [
                self._continuation(request, prompt, h.tokens, "stop" if h.stopped else "length", None, h.score)
                for h in beams.results()
            ]
        else:
            found = [
                self._continuation(request, prompt, row.tokens[row.prompt :], row.finished or "length", row, None)
                for row in request.rows[: request.settings.num_return_sequences]
            ] or [self._continuation(request, prompt, [], "cancelled", None, None)]
        return Completion(found, tuple(prompt), request.cached_tokens)

    def fail(self, request: Request, error: BaseException) -> None:
        """A request is over for an error."""
        self.failures += 1
        self._end(request, None, error)

    def _end(self, request: Request, completion: Completion | None, error: BaseException | None) -> None:
        self._scheduler.remove(request)
        self._encoders.release(request)
        request.over = True
        try:
            request.sink.end(completion, error)
        except Exception:
            log.exception("whoever asked could not take the end of a request")  # which must not be the others' end

    def _continuation(
        self,
        request: Request,
        prompt: list[int],
        tokens: list[int],
        reason: FinishReason,
        row: Row | None,
        score: float | None,
    ) -> Continuation:
        text = None
        if request.tokenizer is not None:
            text = answer_text(request.tokenizer, request.stop_strings, [*prompt, *tokens], len(prompt))
        if row is None:
            return Continuation(tokens, reason, text, score=score)
        noted = row.logprobs if request.settings.logprobs is not None else None
        return Continuation(tokens, reason, text, noted, score, row.scores, row.logits)


def _place(request: Request, row: Row) -> int:
    """Which row of what its call gives back this is."""
    return request.prompt.place * request.settings.num_return_sequences + row.number


def is_late(request: Request) -> bool:
    """Whether a request's time is up."""
    return request.deadline is not None and time.monotonic() > request.deadline
