"""``POST /v1/audio/speech``: texts are spoken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, cast

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from omniform.pipelines.base import Pipeline
from omniform.serve.accounts import spent
from omniform.serve.desk import desk_of
from omniform.serve.doing import done, ignored, tokens_of
from omniform.serve.errors import APIError
from omniform.serve.sounds import MEDIA_TYPES, Samples, file_of
from omniform.serve.wire import Asked, Number, described, reads

router = APIRouter()


class Voice(BaseModel):
    """A voice by its name, as OpenAI's API takes those that its users made."""

    id: str


class SpeechRequest(Asked):
    """``POST /v1/audio/speech``. Source: https://platform.openai.com/docs/api-reference/audio/createSpeech"""

    input: Annotated[str, Field(min_length=1, max_length=4096)]
    voice: str | Voice = "default"
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] | None = "mp3"
    speed: Annotated[Number, Field(ge=0.25, le=4)] | None = 1.0
    stream_format: Literal["audio", "sse"] | None = "audio"
    instructions: str | None = None


@router.post("/v1/audio/speech", openapi_extra=described(SpeechRequest))
async def speech(request: Request, asked: Annotated[SpeechRequest, Depends(reads(SpeechRequest))]) -> Response:
    """A text as a sound; ``x-sampling-rate`` says how many samples a second of it has."""
    for field, there in (
        ("instructions", asked.instructions),
        ("stream_format", asked.stream_format == "sse"),
    ):
        if there:
            raise APIError(400, f"{field}: this server knows none", param=field, code="unsupported_parameter")
    desk = desk_of(request)
    form = asked.response_format or "mp3"
    voice = asked.voice if isinstance(asked.voice, str) else asked.voice.id
    async with desk.use(request, asked.model) as use:

        def work() -> tuple[bytes, int]:
            pipe = use.loaded.crafts.pipeline_for("text-to-audio", "does not speak", "model_does_not_speak")
            more = {**_voice(pipe, voice), **_speed(pipe, asked.speed or 1.0)}
            spent(tokens_of(pipe.tokenizer, asked.input))
            told = cast("Mapping[str, object]", pipe(asked.input, **({"forward_params": more} if more else {})))  # type: ignore[arg-type]
            samples = cast(Samples, np.asarray(told["audio"], dtype=np.float32))
            rate = cast(int, told["sampling_rate"])
            return file_of(samples, rate, form), rate

        data, rate = await done(use, work)
    return Response(
        data, media_type=MEDIA_TYPES[form], headers={"x-sampling-rate": str(rate), **ignored(asked.ignored())}
    )


def voices_of(pipe: Pipeline) -> list[str]:
    """The names of a model's voices: numbers where it has several."""
    count = pipe.model.config.get("num_speakers", 1)
    return ["default", *(map(str, range(count)) if isinstance(count, int) and count > 1 else ())]


def _voice(pipe: Pipeline, name: str) -> dict[str, object]:
    known = voices_of(pipe)
    if name not in known:
        shown = ", ".join(known[:20])
        raise APIError(
            400, f"voice: this model has no {name!r:.50}; its voices: {shown}", param="voice", code="unsupported_value"
        )
    return {} if name == "default" else {"speaker_id": int(name)}


def _speed(pipe: Pipeline, speed: float) -> dict[str, object]:
    """How fast is spoken, of models that can be told."""
    usual = pipe.model.config.get("speaking_rate")
    if speed == 1:
        return {}
    if not isinstance(usual, (int, float)):
        raise APIError(400, "speed: this model has but one", param="speed", code="unsupported_parameter")
    return {"speaking_rate": usual * speed}
