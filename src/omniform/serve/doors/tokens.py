"""``/tokenize`` and ``/detokenize``: what a model reads of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field
from starlette.responses import JSONResponse
from torch import Tensor

from omniform.inputs.replies.messages import for_template
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.serve.desk import Desk, Use, desk_of
from omniform.serve.doing import ignored
from omniform.serve.errors import APIError
from omniform.serve.messages import messages_of
from omniform.serve.showing import tokenizer_of
from omniform.serve.spoken import check_variables
from omniform.serve.threads import in_thread
from omniform.serve.typed import Typed
from omniform.serve.wire import Asked, Message, Tool, described, reads
from omniform.serve.writing import longest_of

router = APIRouter()


class TokenizeRequest(Asked):
    """``POST /tokenize``, as vLLM's server takes it: a text, or a conversation."""

    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool | None = False
    chat_template_kwargs: dict[str, object] | None = None


class DetokenizeRequest(Asked):
    """``POST /detokenize``."""

    tokens: list[int]


@router.post("/tokenize", openapi_extra=described(TokenizeRequest))
@router.post("/v1/tokenize", openapi_extra=described(TokenizeRequest))
async def tokenize(request: Request, asked: Annotated[TokenizeRequest, Depends(reads(TokenizeRequest))]) -> Response:
    """The tokens of a text or of a conversation."""
    desk = desk_of(request)
    if (asked.prompt is None) == (asked.messages is None):
        raise APIError(400, "prompt: either this or messages", param="prompt", code="invalid_value")
    async with desk.use(request, asked.model) as use:
        tokenizer = _tokenizer(use)
        ids = await in_thread(lambda: _ids(use, desk, asked, tokenizer))
        answer: dict[str, object] = {"count": len(ids), "max_model_len": longest_of(use.loaded.model), "tokens": ids}
        if asked.return_token_strs:
            answer["token_strs"] = tokenizer.convert_ids_to_tokens(ids)
        return JSONResponse(answer, headers=ignored(asked.ignored()))


@router.post("/detokenize", openapi_extra=described(DetokenizeRequest))
@router.post("/v1/detokenize", openapi_extra=described(DetokenizeRequest))
async def detokenize(
    request: Request, asked: Annotated[DetokenizeRequest, Depends(reads(DetokenizeRequest))]
) -> Response:
    """The text of tokens."""
    async with desk_of(request).use(request, asked.model) as use:
        tokenizer = _tokenizer(use)
        most = max(tokenizer.get_vocab().values(), default=0)
        wrong = next((token for token in asked.tokens if not 0 <= token <= most), None)
        if wrong is not None:
            raise APIError(400, f"tokens: there is no token {wrong}", param="tokens", code="invalid_value")
        text = await in_thread(lambda: tokenizer.decode(asked.tokens))
        return JSONResponse({"prompt": text}, headers=ignored(asked.ignored()))


def _tokenizer(use: Use) -> Tokenizer:
    found = tokenizer_of(use.loaded.reader)
    if found is None:
        name = use.loaded.origin.name
        raise APIError(400, f"the model {name!r} reads no text", param="model", code="model_reads_no_text")
    return found


def _ids(use: Use, desk: Desk, asked: TokenizeRequest, tokenizer: Tokenizer) -> list[int]:
    if asked.prompt is not None:
        special = True if asked.add_special_tokens is None else asked.add_special_tokens
        return cast("list[int]", tokenizer(asked.prompt, add_special_tokens=special)["input_ids"])
    reader = use.loaded.reader
    if not reader.chat_template:
        raise APIError(400, "this model has no chat template", param="messages", code="no_chat_template")
    options = dict(asked.chat_template_kwargs or {})
    if asked.tools:
        options["tools"] = [tool.model_dump(exclude_none=True) for tool in asked.tools]
    check_variables(asked.chat_template_kwargs or {})
    typed = Typed() if desk.config.typed_tokens else use.loaded.typed
    batch = reader.apply_chat_template(
        typed.messages(for_template(messages_of(asked.messages or [], desk), use.loaded.template)),
        add_generation_prompt=asked.add_generation_prompt,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        media_access=desk.media,
        **options,
    )
    assert isinstance(batch, Mapping)
    return cast("list[int]", cast(Tensor, batch["input_ids"])[0].tolist())
