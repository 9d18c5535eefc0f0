"""Requests, as OpenAI's clients write them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Annotated, ClassVar, Final, Literal, NamedTuple, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from omniform.serve.config import Limits
from omniform.serve.desk import check_count
from omniform.serve.errors import APIError
from omniform.serve.threads import in_thread

Wire = TypeVar("Wire", bound="Asked")

AT_ONCE: Final = 1 << 18
"""Bytes of JSON that are read between two turns of the others."""

MOST_FAULTS: Final = 10_000
"""More are not looked at one by one."""

MOST_NAMED: Final = 32
"""Unknown fields that an answer names."""

_STRANGE: Final = re.compile(r"[^A-Za-z0-9_.-]")


class Unserved(NamedTuple):
    """A field of OpenAI's API that would change the answer, and that this server does not serve.

    Attributes:
        why: it does not.
        but: values that change nothing.
    """

    why: str
    but: tuple[object, ...] = ()


class Asked(BaseModel):
    """A request's body. What it holds beyond these fields is let be, and named in a header of the answer.

    Attributes:
        INERT: fields of OpenAI's API that say nothing of the answer itself; they are named in that header.
        UNSERVED: those that do and are refused, with the reason.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    INERT: ClassVar[frozenset[str]] = frozenset()
    UNSERVED: ClassVar[Mapping[str, Unserved]] = {}

    model: str | None = None

    def ignored(self) -> list[str]:
        """Fields that nobody here knows, as a header can name them."""
        told = {name for name in self.INERT & self.model_fields_set if getattr(self, name) is not None}
        return harmless(told.union(self.model_extra or ()))

    def check_served(self) -> None:
        """Refuse what this server does not serve, rather than answer as if it had not been asked for.

        Raises:
            APIError: such a field, and why.
        """
        for name, unserved in self.UNSERVED.items():
            value = getattr(self, name, None)
            if value not in (None, False, *unserved.but):
                raise APIError(400, f"{name}: {unserved.why}", param=name, code="unsupported_parameter")


def harmless(names: Iterable[str]) -> list[str]:
    """Names that strangers give, as a header can hold them."""
    return sorted({_STRANGE.sub("?", name[:64]) for name in names})[:MOST_NAMED]


class StreamOptions(BaseModel):
    """What a stream tells beside the answer."""

    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool = False
    include_obfuscation: bool | None = None


Number = Annotated[float, Field(strict=False, allow_inf_nan=False)]


class Writing(Asked):
    """How an answer is written: what chats and completions have in common.

    ``top_k``, ``min_p``, ``repetition_penalty``, ``min_tokens``, ``guide`` and ``priority`` are not OpenAI's.
    """

    INERT = frozenset({"user"})

    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = 1
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logit_bias: dict[str, Annotated[Number, Field(ge=-100, le=100)]] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    user: str | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Number, Field(gt=0)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    guide: object = None
    priority: Annotated[int, Field(ge=-100, le=100)] = 0


CARRIED: Final = frozenset(
    {"safety_identifier", "service_tier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
)
"""What OpenAI's service wants to know of a client, or to be told of how it keeps what was read."""


class Function(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool: a function."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["function"] = "function"
    function: Function


class Named(BaseModel):
    """A function's name."""

    name: str


class ToolChoice(BaseModel):
    """The function that is to be called."""

    type: Literal["function"] = "function"
    function: Named


class Allowed(BaseModel):
    """Which of the tools may be called now."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[ToolChoice], Field(min_length=1)]


class AllowedTools(BaseModel):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: Allowed


class Message(BaseModel):
    """One message of a chat; its parts are read where they become the model's inputs.

    Clients send back what they were told, so what is new in a message is let be.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, object]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, object]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    audio: None = None
    function_call: None = None


class ChatRequest(Writing):
    """``POST /v1/chat/completions``. Source: https://platform.openai.com/docs/api-reference/chat/create"""

    INERT = Writing.INERT | CARRIED | {"metadata", "prediction", "store", "verbosity"}
    UNSERVED: ClassVar[Mapping[str, Unserved]] = {
        "audio": Unserved("answers are text here"),
        "modalities": Unserved("answers are text here", (["text"],)),
        "functions": Unserved("functions are told in tools here"),
        "function_call": Unserved("what is called is chosen in tool_choice here"),
        "web_search_options": Unserved("this server searches nothing"),
        "moderation": Unserved("this server moderates nothing"),
    }

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | AllowedTools | None = None
    parallel_tool_calls: bool | None = True
    response_format: dict[str, object] | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, object] | None = None


class CompletionRequest(Writing):
    """``POST /v1/completions``. Source: https://platform.openai.com/docs/api-reference/completions/create"""

    prompt: str | list[str] | list[int] | list[list[int]] = ""
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = False
    suffix: str | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    response_format: dict[str, object] | None = None


COMPONENTS: Final = "#/components/schemas/{model}"
"""Where a description of the server keeps the kinds of its bodies."""


def described(kind: type[Asked]) -> dict[str, object]:
    """A body as the description of its door has it; what it refers to is within it, to be put where it says."""
    schema = kind.model_json_schema(ref_template=COMPONENTS)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def body_of(request: Request, limit: int) -> bytes:
    """A request's body.

    Raises:
        APIError: it is larger than the limit, or the client went away.
    """
    told = request.headers.get("content-length", "")
    pieces: list[bytes] = []
    size = int(told) if told.isdigit() else 0
    if size <= limit:
        size = 0
        try:
            async for piece in request.stream():
                size += len(piece)
                if size > limit:
                    break
                pieces.append(piece)
        except ClientDisconnect as error:
            raise APIError(400, "the request did not come whole", code="incomplete_request") from error
    if size > limit:
        raise APIError(
            413, f"the request is larger than {limit} bytes", code="request_too_large", headers={"Connection": "close"}
        )
    return b"".join(pieces)


def reads(kind: type[Wire]) -> Callable[[Request], Awaitable[Wire]]:
    """A dependency that reads a body of JSON.

    Raises:
        APIError: it is no JSON, too deep, too large, or not of this kind: the first thing wrong is named.
    """

    async def read(request: Request) -> Wire:
        limits = request.app.state.desk.config.limits
        raw = await body_of(request, limits.body_bytes)
        # A large one would hold up the answers of all others.
        return (
            await in_thread(lambda: read_json(kind, raw, limits))
            if len(raw) > AT_ONCE
            else read_json(kind, raw, limits)
        )

    return read


def read_json(kind: type[Wire], raw: bytes, limits: Limits) -> Wire:
    """A body of JSON.

    Raises:
        APIError: as for :func:`reads`.
    """
    brackets = raw.count(b"[") + raw.count(b"{")
    if brackets + raw.count(b",") > limits.items:
        raise APIError(413, f"the request holds more than {limits.items} values", code="request_too_large")
    if brackets > limits.depth and _too_deep(raw, limits.depth):
        raise APIError(400, f"the request is nested deeper than {limits.depth} levels", code="invalid_json")
    try:
        asked = kind.model_validate_json(raw)
    except ValidationError as error:
        raise wrong(error) from None
    except RecursionError:
        raise APIError(400, "the request is nested too deep", code="invalid_json") from None
    asked.check_served()
    _count(asked, limits)
    return asked


def _count(asked: Asked, limits: Limits) -> None:
    """Refuse more of anything than one request may bring.

    Raises:
        APIError: it is more.
    """
    told = vars(asked)
    for name, most in (
        ("messages", limits.messages), ("tools", limits.tools), ("logit_bias", limits.biases), ("stop", limits.stops)
    ):  # fmt: skip
        found = told.get(name)
        check_count(name, len(found) if isinstance(found, (list, dict)) else 0, most)
    messages = told.get("messages")
    contents = [getattr(one, "content", None) for one in messages] if isinstance(messages, list) else []
    check_count("messages", sum(len(one) for one in contents if isinstance(one, list)), limits.parts)


def _too_deep(raw: bytes, depth: int) -> bool:
    """Whether JSON nests deeper."""
    try:
        level: list[object] = [from_json(raw)]
    except ValueError:
        return False  # whoever reads it says what is wrong with it
    for _ in range(depth + 1):
        level = [
            inner
            for one in level
            if isinstance(one, (list, dict))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return any(isinstance(one, (list, dict)) for one in level)


_KIND = re.compile(r"[\[({]|^(str|int|float|bool|[A-Z]\w*)$|^(function|constrained|nullable|lax|json)-")
"""What pydantic puts among a field's names where it may be of several kinds: the kind that was tried."""


def wrong(error: ValidationError) -> APIError:
    """What a client is told of a body that is not as it should be."""
    if error.error_count() > MOST_FAULTS:
        return APIError(400, f"{error.error_count()} values are not what they should be", code="invalid_value")
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"] if not _KIND.search(str(part)))
    if first["type"] == "json_invalid":
        return APIError(400, f"the request is no JSON: {first['msg']:.200}", code="invalid_json")
    if first["type"] == "missing":
        return APIError(400, f"{where}: this field is missing", param=where, code="missing_required_parameter")
    return APIError(400, f"{where}: {first['msg']:.500}", param=where[:200], code="invalid_value")
