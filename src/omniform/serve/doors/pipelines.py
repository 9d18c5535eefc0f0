"""``/pipelines/{task}``: every task of :func:`omniform.pipelines.factory.pipeline`, for inputs that JSON can hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import JSONResponse

from omniform.core.errors import OmniformError
from omniform.core.settings import SETTINGS, Effect
from omniform.pipelines.base import Pipeline
from omniform.pipelines.hearing import Hearing
from omniform.pipelines.registry import PIPELINE_REGISTRY
from omniform.pipelines.seeing import Seeing
from omniform.pipelines.video_classification import VideoClassificationPipeline
from omniform.serve.accounts import spent
from omniform.serve.desk import Desk, check_count, desk_of
from omniform.serve.doing import done, ignored, tokens_of
from omniform.serve.errors import APIError
from omniform.serve.messages import medium_of, part_of
from omniform.serve.plain_json import plain
from omniform.serve.wire import Asked, described, reads

log = logging.getLogger("omniform.serve")

router = APIRouter()

MEDIA: Final = frozenset({"image", "images", "audio", "audios", "video", "videos", "mask_image"})
"""Names that pictures, sounds and videos have among a task's inputs."""

SAMPLES: Final = frozenset({"raw", "array", "sampling_rate", "stride"})
"""Names of a sound's samples and their rate."""

FORBIDDEN: Final = frozenset(
    {name for name, row in SETTINGS.items() if row.effect is Effect.PART} - {"guide", "response_format"}
) | {
    "media_access", "timeout", "num_workers", "on_error", "progress_bar", "batch_size", "generation_config", "max_time",
    "model", "tokenizer", "device", "trust_remote_code", "lang", "tesseract_config", "decoder_kwargs", "vocoder",
    "streamer", "return_tensors", "chat_template",
}  # fmt: skip
"""Parameters that name the server's own objects, files or programs."""


class PipelineRequest(Asked):
    """``POST /pipelines/{task}``: inputs and parameters, as Hugging Face's inference servers take them."""

    inputs: object
    parameters: dict[str, object] | None = None


@router.get("/pipelines")
async def pipelines() -> dict[str, object]:
    """The tasks that there are."""
    tasks = await asyncio.to_thread(lambda: PIPELINE_REGISTRY.supported_tasks)
    aliases = PIPELINE_REGISTRY.task_aliases
    data = [
        {
            "id": name,
            "object": "pipeline",
            "kind": info.get("type"),
            "aliases": [a for a, t in aliases.items() if t == name],
        }
        for name, info in sorted(tasks.items())
    ]
    return {"object": "list", "data": data}


@router.post("/pipelines/{task}", openapi_extra=described(PipelineRequest))
async def pipeline(
    request: Request, task: str, asked: Annotated[PipelineRequest, Depends(reads(PipelineRequest))]
) -> Response:
    """What a task's pipeline makes of some inputs."""
    desk = desk_of(request)
    parameters = asked.parameters or {}
    _check_parameters(parameters, desk)
    async with desk.use(request, asked.model) as use:

        def work() -> object:
            pipe = use.loaded.crafts.pipeline(task)
            told = answered(pipe, asked.inputs, parameters, desk)
            spent(tokens_of(pipe.tokenizer, told))
            return plain(told)

        found = await done(use, work)
        return JSONResponse(found, headers=ignored(asked.ignored()))


def _check_parameters(given: object, desk: Desk, where: str = "parameters") -> None:
    """Refuse what is the server's own to say, wherever it stands."""
    if isinstance(given, Mapping):
        for name, value in given.items():
            if name in FORBIDDEN:
                raise APIError(
                    400, f"{where}.{name}: this is not for clients to say", param=f"{where}.{name}"[:200],
                    code="unsupported_parameter",
                )  # fmt: skip
            if name in ("num_beams", "num_return_sequences", "top_k") and isinstance(value, int):
                check_count(f"{where}.{name}", value, max(desk.config.limits.answers, 1000 if name == "top_k" else 0))
            _check_parameters(value, desk, f"{where}.{name}")
    elif isinstance(given, list):
        for place, value in enumerate(given):
            _check_parameters(value, desk, f"{where}.{place}")


def answered(pipe: Pipeline, inputs: object, parameters: Mapping[str, object], desk: Desk) -> object:
    """What a pipeline makes of inputs of a stranger.

    Raises:
        APIError: inputs or parameters that it cannot use.
    """
    looks = isinstance(pipe, (Seeing, Hearing, VideoClassificationPipeline))
    if isinstance(inputs, list):
        check_count("inputs", len(inputs), desk.config.limits.answers)
    read = _read(inputs, desk, "inputs", medium=looks)
    info = PIPELINE_REGISTRY.check_task(pipe.task)[1]
    text = info.get("type") == "text" and not isinstance(pipe, VideoClassificationPipeline)
    reading = {} if text or pipe.task == "image-text-retrieval" else {"media_access": desk.media}
    spent(tokens_of(pipe.tokenizer, read))
    call: Callable[..., object] = pipe
    try:
        if isinstance(read, Mapping) and pipe.task == "question-answering":
            return call(**{str(name): value for name, value in read.items()}, **parameters)
        return call(read, **{**parameters, **reading})
    except (OmniformError, APIError, MemoryError, TimeoutError):
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        log.warning("a pipeline cannot use what it was given", exc_info=error)
        raise APIError(
            400, f"{pipe.task} cannot be done with these inputs", param="inputs", code="invalid_value"
        ) from error


def _read(value: object, desk: Desk, where: str, *, medium: bool) -> object:
    """Inputs with the bytes of what they hold in place of data URLs and base64.

    Args:
        medium: whether a text stands for a picture, a sound or a video.

    Raises:
        APIError: bytes that are none; an address or a file where bytes should be.
    """
    if isinstance(value, str):
        return medium_of(value, desk, where) if medium else value
    if isinstance(value, list):
        return [_read(one, desk, f"{where}.{place}", medium=medium) for place, one in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    if "role" in value and "content" in value:
        return _message(value, desk, where)
    found: dict[str, object] = {}
    for name, one in value.items():
        here = f"{where}.{name}"
        if name in MEDIA:
            found[name] = _medium(one, desk, here)
        elif name in ("bytes", "path", "url") and medium:
            raise APIError(400, f"{here}: send base64 or a data URL", param=here[:200], code="invalid_value")
        else:
            found[name] = _read(one, desk, here, medium=False)
    return found


def _medium(value: object, desk: Desk, where: str) -> object:
    if isinstance(value, str):
        return medium_of(value, desk, where)
    if isinstance(value, list) and not all(isinstance(one, (int, float)) for one in value):
        return [_medium(one, desk, f"{where}.{place}") for place, one in enumerate(value)]
    if isinstance(value, Mapping) and not value.keys() <= SAMPLES:
        raise APIError(400, f"{where}: send base64 or a data URL", param=where[:200], code="invalid_value")
    return value


def _message(message: Mapping[str, object], desk: Desk, where: str) -> dict[str, object]:
    content = message["content"]
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = [_part(part, desk, f"{where}.content.{place}") for place, part in enumerate(content)]
    elif not isinstance(content, str):
        raise APIError(400, f"{where}.content: this is no text", param=f"{where}.content"[:200], code="invalid_value")
    return {**message, "content": content}


def _part(part: object, desk: Desk, where: str) -> dict[str, object]:
    """A part of a message, in OpenAI's words or in those of templates."""
    if not isinstance(part, Mapping):
        raise APIError(400, f"{where}: this is no part of a message", param=where[:200], code="invalid_value")
    kind = part.get("type")
    if kind in ("image", "audio", "video"):
        source = part.get(str(kind), part.get("url", part.get("base64")))
        return {"type": kind, str(kind): _medium(source, desk, where)} if source is not None else {"type": kind}
    return part_of(part, desk, where)
