"""The writer: from scores to tokens, and from finished rows to answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from omniform.engine.beam_strategy import look_at
from omniform.engine.beams import Hypothesis
from omniform.engine.encoders import Encoders
from omniform.engine.guided import begin_masks, is_whole, refuse_unfit, seat
from omniform.engine.handover import Handover
from omniform.engine.recorder import Likeliest
from omniform.engine.request import NAMELESS, Completion, Continuation, FinishReason, Request, Row, TokenLogprob
from omniform.engine.runner import ChunkOutput, taken
from omniform.engine.sampling import choose, goes_by_likeliest, logprobs_of
from omniform.engine.scheduler import Scheduler
from omniform.engine.stop import answer_text

log = logging.getLogger("omniform")

Entry = tuple[Request, Row, int]
"""A row whose next token is to be chosen, and the place of its scores."""


class Writer:
    """Chooses tokens, appends them to their rows, forks rows, and ends requests.

    Args:
        scheduler: holds the requests and their blocks.
        encoders: holds what they brought.
        handover: copies out what rows leave behind.
        device: where scores lie.

    Attributes:
        failures: requests that ended with an error.
        tokens_cached: prompt tokens that finished requests did not have to compute.
        tokens_drafted, tokens_accepted: tokens that were guessed, and those among them that came true.
    """

    def __init__(self, scheduler: Scheduler, encoders: Encoders, handover: Handover, device: torch.device) -> None:
        self.failures = 0
        self.tokens_cached = 0
        self.tokens_drafted = self.tokens_accepted = 0
        self._ended: list[Request] = []
        self._scheduler = scheduler
        self._encoders = encoders
        self._handover = handover
        self._device = device
        self._likeliest: Likeliest | None = None

    @torch.inference_mode()
    def write(self, outputs: Sequence[ChunkOutput], logits_RV: Tensor, likeliest: Likeliest | None = None) -> None:
        """Choose the next token of every row that was read to its end; several where guesses come true.

        Args:
            outputs: what the step gave.
            logits_RV: the scores in them, of all rows that were read to their end.
            likeliest: the likeliest tokens by these, where they are on their way to the host already.
        """
        self._likeliest = likeliest
        chosen_by = self._contrasted(outputs, logits_RV)
        entries: list[Entry] = []
        together: dict[int, list[ChunkOutput]] = {}
        at = 0
        for output in outputs:
            request, row = output.chunk.request, output.chunk.row
            if request.grammar is not None:
                seat(request, row)
            if request.notes is not None and not row.is_shadow and not request.over:
                self._note(request, row, output)
            here, at = at, at + output.scored
            if request.over:
                continue  # its prompt alone was to be read, or it has failed
            if request.strategy is not None:
                together.setdefault(id(request), []).append(output)
            elif at > here and not row.is_shadow:
                entries.append((request, row, here))
                request.steps += 1
                row.guesses = row.take_drafts()
                request.drafted_tokens += len(row.guesses)
                if row.written == 0 and len(request.rows) == 1:
                    entries += [(request, twin, here) for twin in self._twins(request, row)]
        self._write_rows(entries, logits_RV, chosen_by)
        self._feed(outputs)
        ready = self._looked_at(list(together.values()))
        for theirs in ready:
            self._advance(theirs)
        for theirs in ready:  # searches of one call may end together
            request = theirs[0].chunk.request
            if request.strategy is not None and request.strategy.over and not request.over:
                self.finish(request)
        self.dismiss()
        guided = {id(o.chunk.request): o.chunk.request for o in outputs if o.chunk.request.grammar is not None}
        if guided:
            begin_masks(guided.values())

    def _feed(self, outputs: Sequence[ChunkOutput]) -> None:
        """Let what feeds rows make what they read next; the rows of one feeder go together."""
        fed: dict[int, list[ChunkOutput]] = {}
        for output in outputs:
            request, row = output.chunk.request, output.chunk.row
            if request.feeder is not None and output.scored and row.finished is None and not request.over:
                fed.setdefault(id(request.feeder), []).append(output)
        for theirs in fed.values():
            feeder = theirs[0].chunk.request.feeder
            assert feeder is not None
            try:
                feeder.feed([output.chunk.row for output in theirs], torch.stack([o.hidden[-1] for o in theirs]))
            except Exception as error:
                for output in theirs:
                    self.fail(output.chunk.request, error)

    def _note(self, request: Request, row: Row, output: ChunkOutput) -> None:
        """Note how likely the prompt's tokens were; a request that wants no more than that is over at their end."""
        assert request.notes is not None
        try:
            request.notes.read(row, output)
        except Exception as error:
            self.fail(request, error)
            return
        if request.settings.max_new_tokens == 0 and output.chunk.is_read:
            row.finished = "length"
            self.finish(request)

    def _contrasted(self, outputs: Sequence[ChunkOutput], logits_RV: Tensor) -> Tensor:
        """The scores to choose by: the model's own, but for rows that are contrasted with something. Shape: [R, V]."""
        if all(output.chunk.request.contrast is None for output in outputs):
            return logits_RV
        chosen_by = logits_RV.float()
        chosen_by = chosen_by.clone() if chosen_by is logits_RV else chosen_by
        shadows = {id(output.chunk.row): output for output in outputs if output.chunk.row.is_shadow}
        at = 0
        for output in outputs:
            row, contrast, width = output.chunk.row, output.chunk.request.contrast, output.scored
            if contrast is not None and width and not row.is_shadow:
                shadow = None if row.shadow is None else shadows[id(row.shadow)]
                try:
                    chosen_by[at : at + width] = contrast.scores(output, shadow)
                except Exception as error:
                    self.fail(output.chunk.request, error)
            at += width
        return chosen_by

    def _looked_at(self, groups: list[list[ChunkOutput]]) -> list[list[ChunkOutput]]:
        """Let the objects of calls see their calls' requests at once; returns the requests that go on."""
        calls: dict[int, list[list[ChunkOutput]]] = {}
        for group in groups:
            calls.setdefault(id(group[0].chunk.request.hooks), []).append(group)
        for some in calls.values():
            if some[0][0].chunk.request.hooks is not None:
                try:
                    look_at(some)
                except Exception as error:
                    for group in some:
                        self.fail(group[0].chunk.request, error)
        return [group for group in groups if not group[0].chunk.request.over]

    def counts_of(self, other: Writer) -> None:
        """Go on counting where another has come to."""
        self.failures, self.tokens_cached = other.failures, other.tokens_cached
        self.tokens_drafted, self.tokens_accepted = other.tokens_drafted, other.tokens_accepted

    def dismiss(self) -> None:
        """Tell those who guessed for requests that are over."""
        while self._ended:
            request = self._ended.pop()
            if request.drafter is not None:
                request.drafter.over(request)

    def _twins(self, request: Request, row: Row) -> list[Row]:
        """The rows of a request's other answers, which begin as its first."""
        for number in range(1, request.settings.num_return_sequences):
            twin = self._scheduler.fork(row, number)
            twin.generator = self.generator(request, number)
            request.rows.append(twin)
        return request.rows[1:]

    def _write_rows(self, entries: list[Entry], logits_RV: Tensor, chosen_by_RV: Tensor) -> None:
        """Write one token of each row, then one more of those whose token was the guess that the step went on with."""
        guessed = [(request, row, len(row.guesses)) for request, row, _ in entries if row.guesses]
        while entries:
            alike: dict[tuple[int, int, int], list[Entry]] = {}
            for entry in entries:
                # Rows that bring objects along choose with the others of their call only; and with those that are as
                # far as they are, which guesses may change, since all of them are shown in one tensor.
                request, row, _ = entry
                pace = row.written if request.hooks is not None and request.drafter is not None else 0
                alike.setdefault((id(request.choosing), id(request.hooks), pace), []).append(entry)
            for some in alike.values():
                self._guarded(some, lambda some: self._choose(some, logits_RV, chosen_by_RV))
            entries = [
                (request, row, at + 1)
                for request, row, at in entries
                if row.guesses and _came_true(row) and not request.over
            ]
        for request, row, drafted in guessed:
            right = drafted - len(row.guesses)
            self.tokens_drafted += drafted
            self.tokens_accepted += right
            if request.drafter is not None:
                request.drafter.confirmed(row, drafted, right)
            if row.finished is None and not request.over:
                self._scheduler.roll_back(row, len(row.tokens) - 1)

    def _guarded(self, entries: list[Entry], work: Callable[[list[Entry]], None]) -> None:
        """Do something for rows; a request that makes it fail is over, and the others are served without it."""
        try:
            work(entries)
        except Exception as error:
            requests = list({id(request): request for request, _, _ in entries}.values())
            if (
                len(requests) == 1 or requests[0].hooks is not None
            ):  # a call is looked at once in a step, and ends whole
                for request in requests:
                    self.fail(request, error)
                return
            for one in requests:
                self._guarded([entry for entry in entries if entry[0] is one], work)

    def _advance(self, outputs: list[ChunkOutput]) -> None:
        """Let one request's strategy go on."""
        request = outputs[0].chunk.request
        strategy = request.strategy
        assert strategy is not None
        try:
            ready = [output for output in outputs if output.chunk.is_read]
            for output in outputs:
                if strategy.reads_prompt:
                    strategy.read(request, output)
            if len(ready) == len(request.running):
                strategy.advance(request, ready, self)
        except Exception as error:
            self.fail(request, error)

    def _choose(self, entries: list[Entry], logits_RV: Tensor, chosen_by_RV: Tensor) -> None:
        """Choose the next token of rows that choose alike."""
        settings = entries[0][0].choosing
        places = [at for _, _, at in entries]
        everything = places == list(range(logits_RV.shape[0]))
        rows, hooks = [row for _, row, _ in entries], entries[0][0].hooks
        known = None
        if self._likeliest is not None and chosen_by_RV is logits_RV and goes_by_likeliest(rows, settings, hooks):
            tokens = self._likeliest.tokens()
            known = [tokens[at] for at in places]
        logits = logits_RV if everything else taken(logits_RV, places)
        chosen_by = logits if chosen_by_RV is logits_RV else chosen_by_RV if everything else taken(chosen_by_RV, places)
        if known is not None and min(known) >= 0:
            tokens, scores = known, chosen_by
        else:
            named = [_place(request, row) for request, row, _ in entries]
            tokens, scores = choose(rows, settings, chosen_by, named, hooks)
        ends = [False] * len(rows) if hooks is None else hooks.ends(rows, tokens, scores)
        for i, ((request, row, _), token) in enumerate(zip(entries, tokens, strict=True)):
            if request.over:
                continue  # another of its rows has failed
            if row.guesses:
                request.accepted_tokens += row.guesses[0] == token
            try:
                logprob = _noted(request, row, token, logits, scores, i) if request.settings.notes else None
                self._append(request, row, token, logprob, ends=ends[i])
            except Exception as error:
                self.fail(request, error)

    def append(
        self, request: Request, row: Row, token: int, logits_V: Tensor, scores_V: Tensor, *, ends: bool = False
    ) -> None:
        """Let a row write a token: note what is to be noted, look for an end, tell the sink."""
        noted = _noted(request, row, token, logits_V[None], scores_V[None], 0)
        self._append(request, row, token, noted, ends=ends)

    def _append(
        self, request: Request, row: Row, token: int, logprob: TokenLogprob | None, *, ends: bool = False
    ) -> None:
        """Let a row write a token: look for an end, tell the sink.

        Args:
            request: whose row it is.
            row: the row.
            token: the token.
            logprob: how likely it was, if that was asked for.
            ends: whether the call's own criteria end the row.
        """
        settings = request.settings
        row.tokens.append(token)
        if row.shadow is not None:
            row.shadow.tokens.append(token)
        if (
            ends
            or token in settings.eos_token_ids
            or (request.stop_strings is not None and request.stop_strings.ends(row.named))
        ):
            row.finished = "stop"
        elif not settings.eos_token_ids and is_whole(row):
            row.finished = "stop"  # no token could say so
        elif row.written >= settings.max_new_tokens or is_late(request):
            row.finished = "length"
        request.sink.piece(row, token, logprob)
        if row.finished is not None:
            if row.kept is not None:  # what is handed over has read no guesses that did not come true
                self._scheduler.roll_back(row, len(row.tokens) - 1)
            self._handover.take(request, row)
            self._scheduler.release(row)
            if row.shadow is not None:
                self._scheduler.release(row.shadow)
            if not request.running:
                self.finish(request)

    def fork(self, row: Row, number: int) -> Row:
        """A second row that continues the first, sharing what was computed of it."""
        return self._scheduler.fork(row, number)

    def release(self, row: Row) -> None:
        """Let go of what was computed of a row."""
        self._scheduler.release(row)

    def roll_back(self, row: Row, tokens: int) -> None:
        """Forget what was computed of a row after its first ``tokens`` tokens."""
        self._scheduler.roll_back(row, tokens)

    def is_late(self, request: Request) -> bool:
        """Whether a request's time is up."""
        return is_late(request)

    def generator(self, request: Request, number: int) -> torch.Generator | None:
        """What the answer of this number draws from; None for torch's global generator."""
        if request.seed is None:
            return None
        return torch.Generator(self._device).manual_seed(request.seed + number)

    def finish(self, request: Request) -> None:
        """A request is over and has its answers."""
        try:
            completion = self._completion(request)
            self._handover.take_all(request)
        except Exception as error:
            self.fail(request, error)
            return
        self.tokens_cached += request.cached_tokens
        self._end(request, completion, None)

    def _completion(self, request: Request) -> Completion:
        told = None if request.strategy is None else request.strategy.hypotheses()
        prompt = [t for t in request.prompt.tokens if t != NAMELESS]
        if request.rows:
            prompt = request.rows[0].named[: request.rows[0].prompt - request.rows[0].nameless]
        if told is not None:
            refuse_unfit(request, [hypothesis.tokens for hypothesis in told])
            found = [
                self._continuation(request, prompt, h.tokens, "stop" if h.stopped else "length", None, h) for h in told
            ]
        else:
            found = [
                self._continuation(request, prompt, row.tokens[row.prompt :], row.finished or "length", row, None)
                for row in request.rows[: request.settings.num_return_sequences]
            ] or [self._continuation(request, prompt, [], "cancelled", None, None)]
        steps = None if request.strategy is None else request.strategy.steps()
        counts = request.steps, request.drafted_tokens, request.accepted_tokens
        noted = None if request.notes is None else request.notes.whole(len(prompt))
        return Completion(found, tuple(prompt), request.cached_tokens, steps, *counts, noted)

    def fail(self, request: Request, error: BaseException) -> None:
        """A request is over for an error."""
        self.failures += 1
        self._end(request, None, error)

    def _end(self, request: Request, completion: Completion | None, error: BaseException | None) -> None:
        self._scheduler.remove(request)
        self._encoders.release(request)
        request.over = True
        self._ended.append(request)
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
        told: Hypothesis | None,
    ) -> Continuation:
        text = None
        if request.tokenizer is not None:
            text = answer_text(request.tokenizer, request.stop_strings, [*prompt, *tokens], len(prompt))
        if told is not None:
            return Continuation(tokens, reason, text, score=told.score, beams=told.beams)
        if row is None:
            return Continuation(tokens, reason, text)
        noted = row.logprobs if request.settings.logprobs is not None else None
        return Continuation(tokens, reason, text, noted, None, row.scores, row.logits)


def _noted(
    request: Request, row: Row, token: int, logits_RV: Tensor, scores_RV: Tensor, at: int
) -> TokenLogprob | None:
    """Note of a token what its request wants to know, and how likely it was, if that was asked for."""
    settings = request.settings
    if settings.keep_scores:
        row.scores.append(scores_RV[at].float())
    if settings.keep_logits:
        row.logits.append(logits_RV[at].to(torch.float32, copy=True))
    if settings.logprobs is None:
        return None
    row.logprobs.append(logprobs_of(logits_RV[at], token, settings.logprobs))
    return row.logprobs[-1]


def _came_true(row: Row) -> bool:
    """Whether a row goes on with what was computed of its guesses; strikes out the first of them if it came true."""
    if row.guesses[:1] != row.tokens[-1:]:
        return False
    del row.guesses[0]
    return row.finished is None


def _place(request: Request, row: Row) -> int:
    """Which row of what its call gives back this is."""
    return request.prompt.place * request.settings.num_return_sequences + row.number


def is_late(request: Request) -> bool:
    """Whether a request's time is up."""
    return request.deadline is not None and time.monotonic() > request.deadline
