"""``POST /v1/completions``: texts are written on."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import JSONResponse

from omniform.engine.handle import Handle
from omniform.engine.request import Completion, Piece, TokenLogprob
from omniform.engine.stop import Pieces
from omniform.inputs.replies.closing import closed_format
from omniform.serve.accounts import follow
from omniform.serve.desk import Use, check_count, desk_of
from omniform.serve.doing import ignored
from omniform.serve.errors import APIError
from omniform.serve.streams import Events, sent
from omniform.serve.threads import in_thread
from omniform.serve.told_tokens import Teller, Told
from omniform.serve.wire import CompletionRequest, described, reads
from omniform.serve.writing import FINISH, settings_of, usage_of

router = APIRouter()

Prompt = str | list[int]


@router.post("/v1/completions", openapi_extra=described(CompletionRequest))
async def completions(
    request: Request, asked: Annotated[CompletionRequest, Depends(reads(CompletionRequest))]
) -> Response:
    """Write texts on."""
    desk = desk_of(request)
    prompts = _prompts(asked.prompt)
    check_count("n", len(prompts) * (asked.n or 1), desk.config.limits.answers)
    _refuse(asked)
    stack = contextlib.AsyncExitStack()
    try:
        use = await stack.enter_async_context(desk.use(request, asked.model, asked.priority))
        answer = Answer(use, asked, prompts, await _begun(use, asked, prompts, stack))
        headers = ignored(asked.ignored())
        if asked.stream:
            told = answer.chunks(usage_too=bool(asked.stream_options and asked.stream_options.include_usage))
            return sent(told, stack.pop_all(), headers)
        return JSONResponse(await answer.whole(), headers=headers)
    finally:
        await stack.aclose()


def _prompts(given: str | list[str] | list[int] | list[list[int]]) -> list[Prompt]:
    if isinstance(given, str):
        return [given]
    if not given:
        raise APIError(400, "prompt: there is none", param="prompt", code="invalid_value")
    if all(isinstance(one, int) for one in given):
        return [[one for one in given if isinstance(one, int)]]
    return [one for one in given if not isinstance(one, int)]


def _refuse(asked: CompletionRequest) -> None:
    """What OpenAI's API has and this server has not."""
    if asked.suffix:
        raise APIError(400, "suffix: texts are written on, not filled in", param="suffix", code="unsupported_parameter")
    if asked.best_of not in (None, 1, asked.n or 1):
        raise APIError(
            400, "best_of: all answers are given back; leave it out, or say as many as n",
            param="best_of", code="unsupported_parameter",
        )  # fmt: skip


async def _begun(
    use: Use, asked: CompletionRequest, prompts: Sequence[Prompt], stack: contextlib.AsyncExitStack
) -> list[Handle]:
    engine = use.loaded.writes()
    settings = settings_of(asked, use, asked.max_tokens)
    if asked.logprobs is not None:
        settings["logprobs"] = asked.logprobs
    if asked.max_tokens == 0:
        settings["prompt_logprobs"] = 0
    if asked.echo and asked.logprobs is not None:
        settings["prompt_logprobs"] = asked.logprobs
    if asked.response_format is not None and asked.response_format.get("type") != "text":
        settings["guide"] = closed_format(asked.response_format)

    def begin() -> None:
        for place, prompt in enumerate(prompts):
            where = "prompt" if len(prompts) == 1 else f"prompt.{place}"
            if not prompt:
                raise APIError(400, f"{where}: it is empty", param=where, code="invalid_value")
            handle = engine.submit(prompt, priority=use.priority(asked.priority), reader=None, **settings)
            follow(handle)
            handles.append(handle)
            stack.callback(handle.cancel)

    handles: list[Handle] = []
    await in_thread(begin)
    return handles


@dataclass(slots=True)
class Answer:
    """The answers to all prompts in OpenAI's words.

    Attributes:
        use: the model.
        asked: what was asked for.
        prompts: as they came.
        handles: of the engine's requests, one for each.
        ident: the answer's name.
        created: when it was begun, in seconds since 1970.
    """

    use: Use
    asked: CompletionRequest
    prompts: list[Prompt]
    handles: list[Handle]
    ident: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    async def whole(self) -> dict[str, object]:
        """All of them when they are whole."""
        found = [await handle for handle in self.handles]
        pieces, choices = self.use.loaded.spelling.pieces, []
        for place, completion in enumerate(found):
            echoed = self._echo(place)
            for number, one in enumerate(completion.sequences):
                tokens = None
                if self.asked.logprobs is not None:
                    tokens = self._likely(self._teller(pieces, place), completion, one.logprobs or [])
                choices.append(
                    _choice(self._index(place, number), echoed + (one.text or ""), tokens, FINISH[one.finish_reason])
                )
        return {**self._head(), "choices": choices, "usage": usage_of(found)}

    async def chunks(self, *, usage_too: bool) -> Events:
        """All of them piece by piece, as they come."""
        more: dict[str, object] = {"usage": None} if usage_too else {}
        pieces = self.use.loaded.spelling.pieces
        tellers: dict[int, Teller] = {}
        for place in range(len(self.prompts)):
            opening = self._echo(place)
            # How likely a prompt is is known at its answer's end.
            read = await self.handles[place] if opening and self.asked.logprobs is not None else None
            for number in range(self.asked.n or 1):
                index = self._index(place, number)
                teller = tellers[index] = self._teller(pieces, place)
                if opening:
                    told = None if read is None else self._likely(teller, read, [])
                    yield self._chunk([_choice(index, opening, told)], **more)
        async for place, piece in _together(self.handles):
            index, told = self._index(place, piece.sequence), None
            if self.asked.logprobs is not None and piece.logprob is not None:
                told = tellers[index].written([piece.logprob])
            if piece.text or told is not None:
                yield self._chunk([_choice(index, piece.text, told)], **more)
        found = [await handle for handle in self.handles]
        for place, completion in enumerate(found):
            for number, one in enumerate(completion.sequences):
                choice = _choice(self._index(place, number), "", None, FINISH[one.finish_reason])
                yield self._chunk([choice], **more)
        if usage_too:
            yield self._chunk([], usage=usage_of(found))

    def _teller(self, pieces: Pieces, place: int) -> Teller:
        start = 0 if self.asked.echo else len(self._text(place))
        return Teller(pieces, self.asked.logprobs or 0, start, frozenset(self.use.loaded.spelling.special.values()))

    def _likely(self, teller: Teller, completion: Completion, written: Sequence[TokenLogprob]) -> Told:
        """How likely tokens were: those that were written, and the prompt's before them where it is echoed."""
        if not self.asked.echo:
            return teller.written(written)
        read = zip(completion.decoder_prompt, completion.prompt_logprobs or [], strict=True)
        return teller.told((*read, *((one.token, one) for one in written)))

    def _index(self, place: int, number: int) -> int:
        return place * (self.asked.n or 1) + number

    def _text(self, place: int) -> str:
        prompt = self.prompts[place]
        return prompt if isinstance(prompt, str) else str(self.use.loaded.reader.decode(prompt))

    def _echo(self, place: int) -> str:
        return self._text(place) if self.asked.echo else ""

    def _chunk(self, choices: Sequence[Mapping[str, object]], **more: object) -> dict[str, object]:
        return {**self._head(), "choices": list(choices), **more}

    def _head(self) -> dict[str, object]:
        return {
            "id": self.ident,
            "object": "text_completion",
            "created": self.created,
            "model": self.use.name,
            "system_fingerprint": None,
        }


def _choice(index: int, text: str, told: Told | None, ended: str | None = None) -> dict[str, object]:
    likely = None if told is None else told.as_dict()
    return {"index": index, "text": text, "logprobs": likely, "finish_reason": ended}


async def _together(handles: Sequence[Handle]) -> AsyncIterator[tuple[int, Piece]]:
    """The pieces of several answers as they come, with the place of each answer."""
    queue: asyncio.Queue[tuple[int, Piece] | BaseException | None] = asyncio.Queue()

    async def forward(place: int, handle: Handle) -> None:
        try:
            async for piece in handle:
                queue.put_nowait((place, piece))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(forward(place, handle)) for place, handle in enumerate(handles)]
    try:
        left = len(tasks)
        while left:
            got = await queue.get()
            if isinstance(got, BaseException):
                raise got
            if got is None:
                left -= 1
            else:
                yield got
    finally:
        for task in tasks:
            task.cancel()
