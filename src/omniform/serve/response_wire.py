"""``POST /v1/responses``: what is asked, and how its items become a chat's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from omniform.serve.errors import APIError
from omniform.serve.wire import CARRIED, Message, Unserved, Writing, harmless

Item = dict[str, object]
"""A part of a conversation: a message, a call, what a call gave, a thought."""


class ResponseTool(BaseModel):
    """A function that may be called; here without the wrapping that chats have."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None

    def as_chat(self) -> dict[str, object]:
        """As chats have it."""
        told = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": {name: value for name, value in told.items() if value is not None}}


class NamedTool(BaseModel):
    """The function that is to be called."""

    type: Literal["function"] = "function"
    name: str


class AllowedNamed(BaseModel):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class TextFormat(BaseModel):
    """The form of what is said."""

    model_config = ConfigDict(extra="allow", strict=True, populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    scheme: dict[str, object] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    def as_chat(self) -> dict[str, object] | None:
        """As chats have it; None for any text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return {"type": "json_object"}
        return {"type": "json_schema", "json_schema": {"name": self.name or "answer", "schema": self.scheme or {}}}


class TextOptions(BaseModel):
    """How text is said."""

    model_config = ConfigDict(extra="allow", strict=True)

    format: TextFormat = Field(default_factory=TextFormat)


class ResponseRequest(Writing):
    """``POST /v1/responses``. Source: https://platform.openai.com/docs/api-reference/responses/create"""

    INERT = Writing.INERT | CARRIED | {"access_programs", "background_options", "max_tool_calls", "stream_options"}
    UNSERVED: ClassVar[Mapping[str, Unserved]] = {
        "background": Unserved("answers are waited for here"),
        "context_management": Unserved("conversations are read as they are here"),
        "conversation": Unserved("conversations go on from previous_response_id here"),
        "image": Unserved("answers are text here"),
        "moderation": Unserved("this server moderates nothing"),
        "n": Unserved("there is one answer", (1,)),
        "prompt": Unserved("this server keeps no prompts"),
    }

    input: Annotated[str | list[Item], Field(min_length=1)]
    instructions: str | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedNamed | None = None
    parallel_tool_calls: bool | None = True
    previous_response_id: str | None = None
    store: bool | None = True
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    text: TextOptions | None = None
    reasoning: dict[str, object] | None = None
    metadata: dict[str, str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    chat_template_kwargs: dict[str, object] | None = None

    @property
    def likely(self) -> bool:
        """Whether it is asked for how likely tokens are."""
        return LIKELY in (self.include or ())

    @property
    def effort(self) -> str | None:
        """How hard the model is to think."""
        found = (self.reasoning or {}).get("effort")
        return found if isinstance(found, str) else None

    def ignored(self) -> list[str]:
        """What is let be, parts of fields too."""
        parts = {"truncation": self.truncation == "auto", "text.verbosity": bool(self.text and self.text.model_extra)}
        parts |= {f"include.{name}": name != LIKELY for name in self.include or ()}
        parts |= {f"reasoning.{name}": name != "effort" for name, value in (self.reasoning or {}).items() if value}
        return harmless([*super().ignored(), *(name for name, there in parts.items() if there)])


LIKELY: Final = "message.output_text.logprobs"
"""Whoever includes this in an answer is told how likely its tokens were."""


def items_of(given: str | Sequence[Item]) -> list[Item]:
    """What is asked, as items."""
    return [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else [*given]


def messages_of_items(items: Sequence[Item], instructions: str | None) -> list[Message]:
    """A conversation as chats have it: what a model thought, said and called in one go is one message.

    Raises:
        APIError: an item that nobody can read, and which.
    """
    told: list[dict[str, object]] = []
    if instructions:
        told.append({"role": "system", "content": instructions})
    for place, item in enumerate(items):
        where = f"input.{place}"
        kind = item.get("type", "message" if "role" in item else None)
        if kind == "message" and item.get("role") != "assistant":
            told.append({"role": item.get("role"), "content": _content(item.get("content"), where)})
        elif kind == "message":
            _assistant(told, without=("content", "tool_calls"))["content"] = _said(item.get("content"))
        elif kind == "reasoning":
            _assistant(told, without=("content", "tool_calls", "reasoning_content"))["reasoning_content"] = _thought(
                item
            )
        elif kind == "function_call":
            calls = cast("list[object]", _assistant(told).setdefault("tool_calls", []))
            named = {"name": _text(item, "name", where), "arguments": _text(item, "arguments", where)}
            calls.append({"id": _text(item, "call_id", where), "type": "function", "function": named})
        elif kind == "function_call_output":
            output = item.get("output")
            content = output if isinstance(output, str) else _content(output, f"{where}.output")
            told.append({"role": "tool", "tool_call_id": _text(item, "call_id", where), "content": content})
        else:
            raise APIError(400, f"{where}: this item cannot be read: {kind!r:.100}", param=where, code="invalid_value")
    try:
        return [Message.model_validate(one) for one in told]
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise APIError(
            400, f"input: {first['loc'][0]}: {first['msg']:.300}", param="input", code="invalid_value"
        ) from None


def _assistant(told: list[dict[str, object]], *, without: Sequence[str] = ()) -> dict[str, object]:
    """The model's message that goes on here: its last one, unless somebody spoke since, or it has some of these."""
    last = told[-1] if told else None
    if last is None or last["role"] != "assistant" or any(name in last for name in without):
        last = {"role": "assistant"}
        told.append(last)
    return last


def _content(content: object, where: str) -> object:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return [_part(cast("Mapping[str, object]", part)) for part in content]
    raise APIError(400, f"{where}.content: neither text nor parts", param=f"{where}.content", code="invalid_value")


def _part(part: Mapping[str, object]) -> dict[str, object]:
    """A part as chats have it."""
    return {str(name): value for name, value in part.items()}


def _said(content: object) -> str:
    """What a model said, as one text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text", part.get("refusal")) for part in parts if isinstance(part, Mapping)]
    return "".join(text for text in texts if isinstance(text, str))


def _thought(item: Item) -> str:
    parts = item.get("content") or item.get("summary") or []
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    return "".join(text for text in texts if isinstance(text, str))


def _text(item: Item, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise APIError(
            400, f"{where}.{name}: this field is missing", param=f"{where}.{name}", code="missing_required_parameter"
        )
    return value
