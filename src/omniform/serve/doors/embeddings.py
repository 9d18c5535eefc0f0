"""``POST /v1/embeddings``: texts to vectors."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, cast

import torch
import torch.nn.functional as F
from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field
from starlette.responses import JSONResponse
from torch import Tensor

from omniform.embeddings.embedder import Embedder
from omniform.embeddings.features import MASK, SENTENCE, tensor_of
from omniform.serve.accounts import spent
from omniform.serve.desk import check_count, desk_of
from omniform.serve.doing import done, ignored
from omniform.serve.errors import APIError
from omniform.serve.wire import Asked, described, reads

router = APIRouter()

MOST: Final = 2048
"""Texts of a request, as OpenAI has it."""


class EmbeddingRequest(Asked):
    """``POST /v1/embeddings``. Source: https://platform.openai.com/docs/api-reference/embeddings/create"""

    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors of texts, Shape: [N, D], and how many tokens were read for them."""

    values: Tensor
    tokens: int


@router.post("/v1/embeddings", openapi_extra=described(EmbeddingRequest))
async def embeddings(
    request: Request, asked: Annotated[EmbeddingRequest, Depends(reads(EmbeddingRequest))]
) -> Response:
    """The vectors of texts."""
    desk = desk_of(request)
    given = _listed(asked.input)
    check_count("input", len(given), MOST)
    async with desk.use(request, asked.model) as use:
        embedder = use.loaded.crafts.embedder()
        found = await done(use, lambda: vectors_of(embedder, given, asked.dimensions))
        spent(found.tokens)
        as_text = asked.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": place, "embedding": _coded(row) if as_text else row.tolist()}
            for place, row in enumerate(found.values)
        ]
        told = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
        answer = {"object": "list", "data": data, "model": use.name, "usage": told}
        return JSONResponse(answer, headers=ignored(asked.ignored()))


def _listed(given: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    if isinstance(given, str):
        found: list[str | list[int]] = [given]
    elif given and all(isinstance(one, int) for one in given):
        found = [cast("list[int]", given)]
    else:
        found = cast("list[str | list[int]]", given)
    for place, one in enumerate(found):
        if not one:
            where = "input" if len(found) == 1 else f"input.{place}"
            raise APIError(400, f"{where}: it is empty", param=where, code="invalid_value")
    if not found:
        raise APIError(400, "input: there is none", param="input", code="invalid_value")
    return found


def vectors_of(embedder: Embedder, given: Sequence[str | list[int]], dimensions: int | None) -> Vectors:
    """The vectors of texts, or of rows of tokens, which are read as they are.

    Args:
        dimensions: so many first numbers of each are kept, and its length is made 1 again.

    Raises:
        APIError: one is longer than the model reads, a token is none, or vectors have not so many numbers.
    """
    width = embedder.get_embedding_dimension()
    if dimensions is not None and width is not None and dimensions > width:
        raise APIError(400, f"dimensions: vectors of this model have {width}", param="dimensions", code="invalid_value")
    texts = [one for one in given if isinstance(one, str)]
    read = embedder.tokenizer(texts, truncation=False)["input_ids"] if texts else []
    lengths = [len(row) for row in cast("list[list[int]]", read)] if texts else [len(row) for row in given]
    most = embedder.max_seq_length
    if most is not None and max(lengths) > most:
        place = lengths.index(max(lengths))
        raise APIError(
            400, f"input: this model reads {most} tokens, and text {place} has {lengths[place]}", param="input",
            code="context_length_exceeded",
        )  # fmt: skip
    if texts:
        values = torch.as_tensor(embedder.encode(texts, convert_to_tensor=True, show_progress_bar=False)).cpu()
    else:
        values = torch.stack([_of_tokens(embedder, cast("list[int]", row)) for row in given])
    values = values.float()
    if dimensions is not None:
        values = F.normalize(values[:, :dimensions], dim=-1)
    return Vectors(values, sum(lengths))


def _of_tokens(embedder: Embedder, row: list[int]) -> Tensor:
    table = embedder.transformers_model.get_input_embeddings()
    most = table.num_embeddings if isinstance(table, torch.nn.Embedding) else 0
    wrong = next((token for token in row if not 0 <= token < most), None)
    if wrong is not None:
        raise APIError(400, f"input: there is no token {wrong}", param="input", code="invalid_value")
    ids = torch.tensor([row], device=embedder.device)
    with torch.no_grad():
        found = tensor_of(embedder({"input_ids": ids, MASK: torch.ones_like(ids)}), SENTENCE, "input")[0]
    kept = found if embedder.truncate_dim is None else found[: embedder.truncate_dim]
    return kept.cpu()


def _coded(row: Tensor) -> str:
    """Numbers of 32 bits, the lowest byte first, as base64."""
    return base64.b64encode(row.numpy().astype("<f4").tobytes()).decode()
