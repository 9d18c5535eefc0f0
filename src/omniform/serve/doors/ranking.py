"""``/score``, ``/rerank`` and ``/v1/classify``: how well texts fit, and which class a text is of."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field
from starlette.responses import JSONResponse

from omniform.embeddings.embedder import Embedder
from omniform.pipelines.base import Pipeline
from omniform.serve.accounts import spent
from omniform.serve.crafts import Stacked
from omniform.serve.desk import check_count, desk_of
from omniform.serve.doing import done, ignored
from omniform.serve.doors.embeddings import MOST
from omniform.serve.errors import APIError
from omniform.serve.wire import Asked, described, reads

router = APIRouter()


class ScoreRequest(Asked):
    """``POST /score``, as vLLM's server takes it. Source: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html"""

    text_1: str | list[str]
    text_2: str | list[str]


class Document(Asked):
    """A text that may be a question's answer, with whatever else is known of it."""

    text: str


class RerankRequest(Asked):
    """``POST /rerank``, as Jina's and Cohere's services take it. Source: https://api.jina.ai/redoc"""

    query: str
    documents: Annotated[list[str | Document], Field(min_length=1)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = True


class ClassifyRequest(Asked):
    """``POST /v1/classify``, as vLLM's server takes it."""

    input: str | list[str]


@router.post("/score", openapi_extra=described(ScoreRequest))
@router.post("/v1/score", openapi_extra=described(ScoreRequest))
async def score(request: Request, asked: Annotated[ScoreRequest, Depends(reads(ScoreRequest))]) -> Response:
    """How well texts go together, pair by pair; one text on the left is compared with each on the right."""
    desk = desk_of(request)
    left, right = _listed(asked.text_1, "text_1"), _listed(asked.text_2, "text_2")
    if len(left) == 1:
        left = left * len(right)
    if len(left) != len(right):
        raise APIError(
            400, f"text_2: one for each of the {len(left)} of text_1, found {len(right)}", param="text_2",
            code="invalid_value",
        )  # fmt: skip
    check_count("text_2", len(right), MOST)
    async with desk.use(request, asked.model) as use:
        stack = use.loaded.crafts.stack()
        found, tokens = await done(use, lambda: scores_of(stack, left, right))
        data = [{"index": place, "object": "score", "score": one} for place, one in enumerate(found)]
        return JSONResponse(
            {**_head("score", use.name), "data": data, "usage": _usage(tokens)}, headers=ignored(asked.ignored())
        )


@router.post("/rerank", openapi_extra=described(RerankRequest))
@router.post("/v1/rerank", openapi_extra=described(RerankRequest))
@router.post("/v2/rerank", openapi_extra=described(RerankRequest))
async def rerank(request: Request, asked: Annotated[RerankRequest, Depends(reads(RerankRequest))]) -> Response:
    """Documents by how well they answer a question, the best first."""
    desk = desk_of(request)
    check_count("documents", len(asked.documents), MOST)
    texts = [one if isinstance(one, str) else one.text for one in asked.documents]
    async with desk.use(request, asked.model) as use:
        stack = use.loaded.crafts.stack()
        found, tokens = await done(use, lambda: scores_of(stack, [asked.query] * len(texts), texts))
        order = sorted(range(len(texts)), key=lambda place: -found[place])[: asked.top_n]
        results = []
        for place in order:
            told: dict[str, object] = {"index": place, "relevance_score": found[place]}
            if asked.return_documents:
                told["document"] = {"text": texts[place]}
            results.append(told)
        answer = {"id": f"rerank-{uuid.uuid4().hex}", "model": use.name, "results": results, "usage": _usage(tokens)}
        return JSONResponse(answer, headers=ignored(asked.ignored()))


@router.post("/classify", openapi_extra=described(ClassifyRequest))
@router.post("/v1/classify", openapi_extra=described(ClassifyRequest))
async def classify(request: Request, asked: Annotated[ClassifyRequest, Depends(reads(ClassifyRequest))]) -> Response:
    """Which class each text is of, and how likely each class is."""
    desk = desk_of(request)
    texts = _listed(asked.input, "input")
    check_count("input", len(texts), MOST)
    async with desk.use(request, asked.model) as use:
        crafts = use.loaded.crafts

        def work() -> tuple[list[dict[str, object]], int]:
            pipe = crafts.pipeline_for("text-classification", "tells no classes of texts", "model_does_not_classify")
            return classes_of(pipe, texts)

        data, tokens = await done(use, work)
        answer = {**_head("classify", use.name), "data": data, "usage": _usage(tokens)}
        return JSONResponse(answer, headers=ignored(asked.ignored()))


def scores_of(stack: Stacked, left: Sequence[str], right: Sequence[str]) -> tuple[list[float], int]:
    """How well pairs fit: by a model that reads both at once, or by how alike their vectors are; and tokens read.

    Raises:
        APIError: the model tells several classes of pairs.
    """
    if isinstance(stack, Embedder):
        known = list(dict.fromkeys((*left, *right)))
        vectors = stack.encode(known, convert_to_tensor=True, show_progress_bar=False)
        place = {text: at for at, text in enumerate(known)}
        first, second = (vectors[[place[text] for text in side]] for side in (left, right))
        found = stack.similarity_pairwise(first, second)
        read = stack.reader.rows(known).lengths()
    else:
        if stack.num_labels != 1:
            raise APIError(
                400, f"the model tells {stack.num_labels} classes of texts, and no score", param="model",
                code="model_does_not_rank",
            )  # fmt: skip
        pairs = list(zip(left, right, strict=True))
        found = stack.predict(pairs, convert_to_tensor=True, show_progress_bar=False)  # type: ignore[assignment]
        read = stack.reader.rows(pairs).lengths()
    return [float(one) for one in found], sum(read)


def classes_of(pipe: Pipeline, texts: Sequence[str]) -> tuple[list[dict[str, object]], int]:
    """The class of each text, with the chances of all in the model's order; and tokens read."""
    labels = pipe.model.config.common.id2label
    told = cast("list[list[dict[str, object]]]", pipe(list(texts), top_k=None, truncation=True))
    data: list[dict[str, object]] = []
    for place, classes in enumerate(told):
        chances = {one["label"]: one["score"] for one in classes}
        probs = [chances[labels[number]] for number in sorted(labels)]
        data.append({"index": place, "label": classes[0]["label"], "probs": probs, "num_classes": len(probs)})
    assert pipe.tokenizer is not None
    ids = cast("list[list[int]]", pipe.tokenizer(list(texts), truncation=True)["input_ids"])
    return data, sum(map(len, ids))


def _listed(given: str | list[str], where: str) -> list[str]:
    found = [given] if isinstance(given, str) else given
    if not found:
        raise APIError(400, f"{where}: there is none", param=where, code="invalid_value")
    return found


def _head(kind: str, model: str) -> dict[str, object]:
    return {"id": f"{kind}-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": model}


def _usage(tokens: int) -> dict[str, object]:
    spent(tokens)
    return {"prompt_tokens": tokens, "total_tokens": tokens}
