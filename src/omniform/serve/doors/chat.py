"""``POST /v1/chat/completions``."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import JSONResponse

from omniform.engine.request import Piece
from omniform.engine.stop import Pieces
from omniform.inputs.replies.closing import closed_format
from omniform.inputs.replies.events import CallArguments, CallBegun, Content, Event, Reasoning, collected
from omniform.serve.desk import Desk, Use, check_count, desk_of
from omniform.serve.doing import ignored
from omniform.serve.errors import APIError
from omniform.serve.spoken import Spoken, speak
from omniform.serve.streams import Events, sent
from omniform.serve.wire import ChatRequest, described, reads
from omniform.serve.writing import (
    FINISH,
    choice_of,
    logprob_of,
    settings_of,
    template_of,
    unread_effort,
    usage,
)

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=described(ChatRequest))
async def chat(request: Request, asked: Annotated[ChatRequest, Depends(reads(ChatRequest))]) -> Response:
    """Answer a conversation."""
    desk = desk_of(request)
    check_count("messages", len(asked.messages), desk.config.limits.messages)
    check_count("n", asked.n or 1, desk.config.limits.answers)
    stack = contextlib.AsyncExitStack()
    try:
        use = await stack.enter_async_context(desk.use(request, asked.model, asked.priority))
        answer = Answer(await _begun(use, desk, asked), asked)
        stack.callback(answer.spoken.handle.cancel)
        headers = ignored(asked.ignored() + unread_effort(use, asked.reasoning_effort, "reasoning_effort"))
        if asked.stream:
            streamed = answer.chunks(usage_too=bool(asked.stream_options and asked.stream_options.include_usage))
            return sent(streamed, stack.pop_all(), headers)
        return JSONResponse(await answer.whole(), headers=headers)
    finally:
        await stack.aclose()


async def _begun(use: Use, desk: Desk, asked: ChatRequest) -> Spoken:
    if asked.top_logprobs is not None and not asked.logprobs:
        raise APIError(400, "top_logprobs: only with logprobs", param="top_logprobs", code="invalid_value")
    settings = settings_of(asked, use, asked.max_completion_tokens or asked.max_tokens)
    if asked.logprobs:
        settings["logprobs"] = asked.top_logprobs or 0
    if asked.response_format is not None and asked.response_format.get("type") != "text":
        settings["guide"] = closed_format(asked.response_format)
    choice, tools = choice_of(asked.tool_choice, [tool.model_dump(exclude_none=True) for tool in asked.tools or ()])
    return await speak(
        use,
        desk,
        asked.messages,
        settings,
        tools=tools,
        choice=choice,
        parallel=asked.parallel_tool_calls is not False,
        template=template_of(asked.reasoning_effort, asked.chat_template_kwargs),
        priority=asked.priority,
        answers=asked.n or 1,
    )


@dataclass(slots=True)
class Answer:
    """A chat's answer in OpenAI's words.

    Attributes:
        spoken: what the model says.
        asked: what was asked for.
        ident: the answer's name.
        created: when it was begun, in seconds since 1970.
    """

    spoken: Spoken
    asked: ChatRequest
    ident: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    async def whole(self) -> dict[str, object]:
        """The answer when it is whole."""
        events: list[list[Event]] = [[] for _ in range(self.spoken.answers)]
        async for said in self.spoken.said():
            events[said.sequence] += said.events
        completion = await self.spoken.completion()
        pieces, choices = self._pieces(), []
        for index, one in enumerate(completion.sequences):
            reply = collected(events[index])
            message: dict[str, object] = {"role": "assistant", "content": reply.content, "refusal": None}
            if reply.reasoning:
                message["reasoning_content"] = reply.reasoning
            if reply.calls:
                message["content"] = reply.content or None
                message["tool_calls"] = [_call(call.id, call.name, call.arguments) for call in reply.calls]
            likely = None
            if one.logprobs is not None:
                likely = {"content": [logprob_of(pieces, p, self.asked.top_logprobs or 0) for p in one.logprobs]}
            ended = "tool_calls" if reply.calls else FINISH[one.finish_reason]
            choices.append({"index": index, "message": message, "logprobs": likely, "finish_reason": ended})
        return {**self._head("chat.completion"), "choices": choices, "usage": self._usage(usage(completion))}

    async def chunks(self, *, usage_too: bool) -> Events:
        """The answer piece by piece."""
        more: dict[str, object] = {"usage": None} if usage_too else {}
        pieces = self._pieces()
        for index in range(self.spoken.answers):
            yield self._chunk([_choice(index, {"role": "assistant", "content": ""})], **more)
        called: set[int] = set()
        async for said in self.spoken.said():
            likely = self._likely(pieces, said.piece)
            for delta in _deltas(said.events) or ([{}] if likely is not None else []):
                called |= {said.sequence} if "tool_calls" in delta else set()
                yield self._chunk([_choice(said.sequence, delta, logprobs=likely)], **more)
                likely = None
        completion = await self.spoken.completion()
        for index, one in enumerate(completion.sequences):
            ended = "tool_calls" if index in called else FINISH[one.finish_reason]
            yield self._chunk([_choice(index, {}, finish_reason=ended)], **more)
        if usage_too:
            yield self._chunk([], usage=self._usage(usage(completion)))

    def _usage(self, told: dict[str, object]) -> dict[str, object]:
        return {**told, "completion_tokens_details": {"reasoning_tokens": sum(self.spoken.reasoning.values())}}

    def _pieces(self) -> Pieces:
        return self.spoken.use.loaded.spelling.pieces

    def _likely(self, pieces: Pieces, piece: Piece | None) -> dict[str, object] | None:
        if piece is None or piece.logprob is None:
            return None
        return {"content": [logprob_of(pieces, piece.logprob, self.asked.top_logprobs or 0)]}

    def _chunk(self, choices: Sequence[Mapping[str, object]], **more: object) -> dict[str, object]:
        return {**self._head("chat.completion.chunk"), "choices": list(choices), **more}

    def _head(self, kind: str) -> dict[str, object]:
        return {
            "id": self.ident,
            "object": kind,
            "created": self.created,
            "model": self.spoken.use.name,
            "system_fingerprint": None,
        }


def _choice(index: int, delta: Mapping[str, object], **more: object) -> dict[str, object]:
    """One answer's part of a piece."""
    return {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": None, **more}


def _call(ident: str, name: str, arguments: str) -> dict[str, object]:
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def _deltas(events: Sequence[Event]) -> list[dict[str, object]]:
    """What events add to a message."""
    found: list[dict[str, object]] = []
    for event in events:
        match event:
            case Content(text) if text:
                found.append({"content": text})
            case Reasoning(text) if text:
                found.append({"reasoning_content": text})
            case CallBegun(index, ident, name):
                found.append({"tool_calls": [{"index": index, **_call(ident, name, "")}]})
            case CallArguments(index, text) if text:
                found.append({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
    return found
