"""``/v1/responses``: OpenAI's other way to talk with a model, in items."""

from __future__ import annotations

import contextlib
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import JSONResponse

from omniform.inputs.replies.closing import closed_format
from omniform.serve.desk import Desk, Use, check_count, desk_of, key_of
from omniform.serve.doing import ignored
from omniform.serve.errors import APIError
from omniform.serve.response_items import Answer
from omniform.serve.response_wire import (
    LIKELY,
    AllowedNamed,
    Item,
    NamedTool,
    ResponseRequest,
    items_of,
    messages_of_items,
)
from omniform.serve.spoken import Spoken, speak
from omniform.serve.streams import sent
from omniform.serve.wire import Allowed, AllowedTools, Named, ToolChoice, described, reads
from omniform.serve.writing import choice_of, settings_of, template_of, unread_effort

router = APIRouter()


@router.post("/v1/responses", openapi_extra=described(ResponseRequest))
async def create(request: Request, asked: Annotated[ResponseRequest, Depends(reads(ResponseRequest))]) -> Response:
    """Answer a conversation."""
    desk = desk_of(request)
    key = key_of(request)
    items = items_of(asked.input)
    if asked.previous_response_id is not None:
        items = [*desk.responses.get(key, asked.previous_response_id, "previous_response_id").items, *items]
    check_count("input", len(items), desk.config.limits.messages)
    stack = contextlib.AsyncExitStack()
    try:
        use = await stack.enter_async_context(desk.use(request, asked.model, asked.priority))
        answer = Answer(await _begun(use, desk, asked, items), asked)
        stack.callback(answer.spoken.handle.cancel)
        headers = ignored(asked.ignored() + unread_effort(use, asked.effort, "reasoning.effort"))

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
    data = [_shown(item, f"{ident}_{place}") for place, item in enumerate(kept.items[:count])]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return JSONResponse({"object": "list", "data": data, "has_more": False, **ends})


def _shown(item: Item, ident: str) -> Item:
    """An item that was asked, as it is told: with a name, and text in parts."""
    told: Item = {"type": "message", "id": ident, **item}
    if told["type"] == "message" and isinstance(told.get("content"), str):
        kind = "output_text" if told.get("role") == "assistant" else "input_text"
        told["content"] = [{"type": kind, "text": told["content"]}]
    return told


@router.delete("/v1/responses/{ident}")
async def delete(request: Request, ident: str) -> Response:
    """Forget a response."""
    desk_of(request).responses.drop(key_of(request), ident)
    return JSONResponse({"id": ident, "object": "response", "deleted": True})


def _choice(asked: ResponseRequest) -> str | ToolChoice | AllowedTools | None:
    """The choice of a tool as chats have it."""

    def named(tool: NamedTool) -> ToolChoice:
        return ToolChoice(function=Named(name=tool.name))

    match asked.tool_choice:
        case NamedTool() as one:
            return named(one)
        case AllowedNamed(mode=mode, tools=tools):
            allowed = Allowed(mode=mode, tools=[named(tool) for tool in tools])
            return AllowedTools(type="allowed_tools", allowed_tools=allowed)
        case told:
            return told


async def _begun(use: Use, desk: Desk, asked: ResponseRequest, items: list[Item]) -> Spoken:
    settings = settings_of(asked, use, asked.max_output_tokens)
    form = None if asked.text is None else asked.text.format.as_chat()
    if form is not None:
        settings["guide"] = closed_format(form)
    if asked.top_logprobs and not asked.likely:
        raise APIError(400, f"top_logprobs: only with {LIKELY} in include", param="top_logprobs", code="invalid_value")
    if asked.likely:
        settings["logprobs"] = asked.top_logprobs or 0
    choice, tools = choice_of(_choice(asked), [tool.as_chat() for tool in asked.tools or ()])
    return await speak(
        use,
        desk,
        messages_of_items(items, asked.instructions),
        settings,
        tools=tools,
        choice=choice,
        parallel=asked.parallel_tool_calls is not False,
        template=template_of(asked.effort, asked.chat_template_kwargs),
        priority=asked.priority,
    )
