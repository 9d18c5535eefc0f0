"""``/v1/responses``: OpenAI's other way to talk with a model, in items."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import JSONResponse

from omniform.serve.desk import Desk, Use, check_count, desk_of, key_of
from omniform.serve.doing import ignored
from omniform.serve.errors import APIError
from omniform.serve.messages import messages_of
from omniform.serve.response_items import Answer
from omniform.serve.response_wire import Item, NamedTool, ResponseRequest, items_of, messages_of_items
from omniform.serve.spoken import Spoken, speak
from omniform.serve.streams import sent
from omniform.serve.wire import reads
from omniform.serve.writing import settings_of

router = APIRouter()


@router.post("/v1/responses", openapi_extra={"requestBody": {"content": {"application/json": {}}}})
async def create(request: Request, asked: Annotated[ResponseRequest, Depends(reads(ResponseRequest))]) -> Response:
    """Answer a conversation."""
    desk = desk_of(request)
    key = key_of(request)
    if asked.background:
        raise APIError(400, "background: answers are waited for here", param="background", code="unsupported_parameter")
    if asked.n not in (None, 1):
        raise APIError(400, "n: there is one answer", param="n", code="unsupported_parameter")
    items = items_of(asked.input)
    if asked.previous_response_id is not None:
        items = [*desk.responses.get(key, asked.previous_response_id, "previous_response_id").items, *items]
    check_count("input", len(items), desk.config.limits.messages)
    stack = contextlib.AsyncExitStack()
    try:
        use = await stack.enter_async_context(desk.use(request, asked.model, asked.priority))
        answer = Answer(await _begun(use, desk, asked, items), asked)
        stack.callback(answer.spoken.handle.cancel)
        headers = ignored(asked.ignored())

        def keep() -> None:
            if asked.store is not False:
                desk.responses.keep(key, answer.told(), [*items, *answer.items])

        if asked.stream:
            return sent(answer.events(keep), stack.pop_all(), headers)
        told = await answer.whole()
        keep()
        return JSONResponse(told, headers=headers)
    finally:
        await stack.aclose()


@router.get("/v1/responses/{ident}")
async def retrieve(request: Request, ident: str) -> Response:
    """A response that was kept."""
    return JSONResponse(desk_of(request).responses.get(key_of(request), ident).told)


@router.get("/v1/responses/{ident}/input_items")
async def input_items(request: Request, ident: str) -> Response:
    """What it answered."""
    kept = desk_of(request).responses.get(key_of(request), ident)
    output = kept.told["output"]
    count = len(kept.items) - (len(output) if isinstance(output, list) else 0)
    return JSONResponse({"object": "list", "data": [*kept.items[:count]], "has_more": False})


@router.delete("/v1/responses/{ident}")
async def delete(request: Request, ident: str) -> Response:
    """Forget a response."""
    desk_of(request).responses.drop(key_of(request), ident)
    return JSONResponse({"id": ident, "object": "response", "deleted": True})


async def _begun(use: Use, desk: Desk, asked: ResponseRequest, items: list[Item]) -> Spoken:
    settings = settings_of(asked, use, asked.max_output_tokens)
    form = None if asked.text is None else asked.text.format.as_chat()
    if form is not None:
        settings["guide"] = form
    choice = asked.tool_choice or "auto"
    named = {"type": "function", "function": {"name": choice.name}} if isinstance(choice, NamedTool) else choice
    messages = messages_of_items(items, asked.instructions)
    return await speak(
        use,
        desk,
        await asyncio.to_thread(messages_of, messages, desk),
        settings,
        tools=[tool.as_chat() for tool in asked.tools or ()],
        choice=named,
        parallel=asked.parallel_tool_calls is not False,
        template=asked.chat_template_kwargs,
        priority=asked.priority,
    )
