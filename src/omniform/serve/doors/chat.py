"""``POST /v1/chat/completions``."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import JSONResponse

from omniform.engine.handle import Handle
from omniform.engine.request import Completion, Piece
from omniform.engine.stop import Pieces
from omniform.serve.desk import Desk, Use, check_count, desk_of
from omniform.serve.errors import APIError
from omniform.serve.streams import Events, sent
from omniform.serve.wire import ChatRequest, Message, reads
from omniform.serve.writing import attended, logprob_of, settings_of, submitted, usage, whole

router = APIRouter()

FINISH = {"stop": "stop", "length": "length", "cancelled": "stop"}
"""Why an answer ended, in OpenAI's words."""


@router.post("/v1/chat/completions", openapi_extra={"requestBody": {"content": {"application/json": {}}}})
async def chat(request: Request, asked: Annotated[ChatRequest, Depends(reads(ChatRequest))]) -> Response:
    """Answer a conversation."""
    desk = desk_of(request)
    check_count("messages", len(asked.messages), desk.config.limits.messages)
    check_count("n", asked.n or 1, desk.config.limits.answers)
    stack = contextlib.AsyncExitStack()
    try:
        use = await stack.enter_async_context(desk.use(request, asked.model))
        answer = await _begun(use, desk, asked)
        await stack.enter_async_context(attended(request, [answer.handle], desk))
        headers = {"x-omniform-ignored": ", ".join(asked.ignored())} if asked.ignored() else {}
        if asked.stream:
            streamed = _stream(answer, include_usage=bool(asked.stream_options and asked.stream_options.include_usage))
            return sent(streamed, stack.pop_all(), headers)
        completion = await whole(request, answer.handle)
        return JSONResponse(answer.told(completion), headers=headers)
    finally:
        await stack.aclose()


@dataclass(slots=True)
class Answer:
    """A chat's answer in the making.

    Attributes:
        use: the model.
        asked: what was asked for.
        handle: of the engine's request.
        ident: the answer's name.
        created: when it was begun, in seconds since 1970.
    """

    use: Use
    asked: ChatRequest
    handle: Handle
    ident: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def _head(self, kind: str) -> dict[str, object]:
        return {
            "id": self.ident,
            "object": kind,
            "created": self.created,
            "model": self.use.name,
            "system_fingerprint": None,
        }

    def told(self, completion: Completion) -> dict[str, object]:
        """The whole answer."""
        pieces = Pieces(self.use.loaded.reader)
        choices = []
        for index, one in enumerate(completion.sequences):
            likely = None
            if one.logprobs is not None:
                likely = {"content": [logprob_of(pieces, p, self.asked.top_logprobs or 0) for p in one.logprobs]}
            choices.append(
                {
                    "index": index,
                    "message": {"role": "assistant", "content": one.text, "refusal": None},
                    "logprobs": likely,
                    "finish_reason": FINISH[one.finish_reason],
                }
            )
        return {**self._head("chat.completion"), "choices": choices, "usage": usage(completion)}

    def chunk(self, choices: Sequence[Mapping[str, object]], **more: object) -> dict[str, object]:
        """A piece of a stream."""
        return {**self._head("chat.completion.chunk"), "choices": list(choices), **more}

    def choice(self, index: int, delta: Mapping[str, object], **more: object) -> dict[str, object]:
        """One answer's part of a piece."""
        return {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": None, **more}


async def _stream(answer: Answer, *, include_usage: bool) -> Events:
    more: dict[str, object] = {"usage": None} if include_usage else {}
    pieces = Pieces(answer.use.loaded.reader)
    for index in range(answer.asked.n or 1):
        yield answer.chunk([answer.choice(index, {"role": "assistant", "content": ""})], **more)
    async for piece in answer.handle:
        likely = _likely(answer, pieces, piece)
        if piece.text or likely is not None:
            yield answer.chunk([answer.choice(piece.sequence, {"content": piece.text}, logprobs=likely)], **more)
    completion = await answer.handle
    for index, one in enumerate(completion.sequences):
        yield answer.chunk([answer.choice(index, {}, finish_reason=FINISH[one.finish_reason])], **more)
    if include_usage:
        yield answer.chunk([], usage=usage(completion))


def _likely(answer: Answer, pieces: Pieces, piece: Piece) -> dict[str, object] | None:
    if piece.logprob is None:
        return None
    return {"content": [logprob_of(pieces, piece.logprob, answer.asked.top_logprobs or 0)]}


async def _begun(use: Use, desk: Desk, asked: ChatRequest) -> Answer:
    use.loaded.writes()
    settings = settings_of(asked, use, asked.max_completion_tokens or asked.max_tokens)
    if asked.logprobs:
        settings["logprobs"] = asked.top_logprobs or 0
    if asked.response_format is not None and asked.response_format.get("type") != "text":
        settings["guide"] = asked.response_format
    messages = await asyncio.to_thread(
        lambda: [_message(m, desk, f"messages.{i}") for i, m in enumerate(asked.messages)]
    )
    options = dict(asked.chat_template_kwargs or {})
    if asked.tools and asked.tool_choice != "none":
        options["tools"] = [tool.model_dump(exclude_none=True) for tool in asked.tools]
    reader = use.loaded.reader
    if not reader.chat_template:
        raise APIError(400, "this model has no chat template", param="messages", code="no_chat_template")
    batch = await asyncio.to_thread(
        lambda: reader.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            media_access=desk.media,
            **options,
        )
    )
    assert isinstance(batch, Mapping)
    return Answer(use, asked, await submitted(use, batch, settings, asked.priority))


def _message(message: Message, desk: Desk, where: str) -> dict[str, object]:
    """A message as templates and processors read it."""
    told: dict[str, object] = {"role": "system" if message.role == "developer" else message.role}
    content = message.content
    told["content"] = content if isinstance(content, str) else [_part(p, desk, where) for p in content or ()]
    for name in ("name", "tool_calls", "tool_call_id", "reasoning_content"):
        value = getattr(message, name)
        if value is not None:
            told[name] = value
    return told


def _part(part: Mapping[str, object], desk: Desk, where: str) -> dict[str, object]:
    """A part of a message: text, a picture, a sound or a video."""
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind in ("image_url", "video_url", "audio_url"):
        named = part.get(str(kind))
        url = named.get("url") if isinstance(named, Mapping) else named
        if isinstance(url, str):
            medium = str(kind).removesuffix("_url")
            return {"type": medium, medium: _bytes(url, desk, f"{where}.{kind}")}
    if kind == "input_audio":
        held = part.get("input_audio")
        data = held.get("data") if isinstance(held, Mapping) else None
        if isinstance(data, str):
            return {"type": "audio", "audio": _base64(data, f"{where}.input_audio.data")}
    raise APIError(
        400, f"{where}: this part of a message cannot be read: {kind!r:.100}", param=where, code="invalid_value"
    )


def _bytes(url: str, desk: Desk, where: str) -> bytes:
    head, comma, data = url.partition(",")
    if url[:5].lower() == "data:" and comma and head.lower().endswith(";base64"):
        return _base64(data, where)
    if url[:5].lower() == "data:":
        raise APIError(400, f"{where}: a data URL must hold base64", param=where, code="invalid_value")
    return desk.fetched(url)


def _base64(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise APIError(400, f"{where}: this is no base64", param=where, code="invalid_value") from None
