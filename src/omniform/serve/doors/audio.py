"""``POST /v1/audio/transcriptions`` and ``/v1/audio/translations``: what is said in a sound."""

from __future__ import annotations

import contextlib
import io
import math
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse, PlainTextResponse

from omniform.core.languages import LANGUAGES
from omniform.core.spoken import Utterance
from omniform.core.subtitles import subtitles
from omniform.inputs.audio.load import open_recording
from omniform.serve.accounts import spent
from omniform.serve.desk import Desk, desk_of
from omniform.serve.doing import ignored
from omniform.serve.errors import APIError
from omniform.serve.hearing import Listening, ear_of, heard
from omniform.serve.streams import Events, sent
from omniform.serve.threads import in_thread
from omniform.serve.uploads import Form, form_of

router = APIRouter()

SECOND: Final = 10
"""Tokens that a second of sound counts as where keys have limits."""

FORMS: Final = ("json", "text", "srt", "verbose_json", "vtt")
KNOWN: Final = frozenset(
    {"model", "language", "prompt", "response_format", "temperature", "timestamp_granularities[]",
     "timestamp_granularities", "stream"}
)  # fmt: skip
INERT: Final = frozenset(
    {"chunking_strategy", "include", "keywords", "known_speaker_names", "known_speaker_references", "languages"}
)
"""Fields of OpenAI's API that this server lets be, and names in a header."""
BODY: Final[dict[str, object]] = {"requestBody": {"content": {"multipart/form-data": {}}}}


@router.post("/v1/audio/transcriptions", openapi_extra=BODY)
async def transcriptions(request: Request) -> Response:
    """What is said in a sound. Source: https://platform.openai.com/docs/api-reference/audio/createTranscription"""
    return await _written(request, translate=False)


@router.post("/v1/audio/translations", openapi_extra=BODY)
async def translations(request: Request) -> Response:
    """The same in English."""
    return await _written(request, translate=True)


async def _written(request: Request, *, translate: bool) -> Response:
    desk = desk_of(request)
    form = await form_of(request, desk.config.limits.upload_bytes)
    shape = form.choice("response_format", FORMS, "json")
    times = _times(form, shape)
    stream = form.flag("stream") and not translate
    how = Listening(
        language=form.one("language"), prompt=form.one("prompt"), temperature=form.number("temperature", 0, 1),
        translate=translate, words="word" in times,
    )  # fmt: skip
    stack = contextlib.AsyncExitStack()
    try:
        use = await stack.enter_async_context(desk.use(request, form.one("model")))
        ear = ear_of(use, how)
        if use.adapter is not None:
            raise APIError(400, "an adapter hears nothing", param="model", code="model_not_supported")
        seconds = await in_thread(lambda: _length(form.file, desk))
        spent(math.ceil(seconds * SECOND))

        def listen(over: threading.Event) -> Iterator[Utterance]:
            return ear(form.file, desk, over)

        transcript = Transcript(heard(listen), how, seconds)
        headers = ignored(sorted(form.fields.keys() - KNOWN))
        if stream:
            return sent(transcript.events(), stack.pop_all(), headers)
        said = await transcript.said()
        return _answer(transcript, said, shape, times, headers)
    finally:
        await stack.aclose()


def _times(form: Form, shape: str) -> list[str]:
    """Of what times are told: of segments, of words, or both."""
    name = "timestamp_granularities[]"
    asked = [*form.fields.get(name, []), *form.fields.get("timestamp_granularities", [])]
    wrong = next((one for one in asked if one not in ("word", "segment")), None)
    if wrong is not None:
        raise APIError(
            400, f"timestamp_granularities: word or segment, not {wrong!r:.50}", param="timestamp_granularities",
            code="invalid_value",
        )  # fmt: skip
    if asked and shape != "verbose_json":
        raise APIError(
            400, "timestamp_granularities: only with response_format=verbose_json", param="timestamp_granularities",
            code="invalid_value",
        )  # fmt: skip
    return asked or ["segment"]


def _length(data: bytes, desk: Desk) -> float:
    """Seconds of a sound.

    Raises:
        InputError: it is none, or longer than it may be.
    """
    rate = 16_000
    most = desk.config.limits.sound_seconds
    with open_recording(io.BytesIO(data), rate, media_access=desk.media, max_seconds=most) as recording:
        samples = 0
        while len(piece := recording.read(rate * 60)):
            samples += len(piece)
    return samples / rate


@dataclass(slots=True)
class Transcript:
    """What is said in a sound, in OpenAI's words.

    Attributes:
        utterances: as they come.
        how: it is heard.
        seconds: of the sound.
    """

    utterances: AsyncIterator[Utterance]
    how: Listening
    seconds: float

    async def said(self) -> list[Utterance]:
        """All of it."""
        return [one async for one in self._counted()]

    async def _counted(self) -> AsyncIterator[Utterance]:
        async for one in self.utterances:
            spent(len(one.tokens))
            yield one

    async def events(self) -> Events:
        """Piece by piece."""
        text = ""
        async for one in self._counted():
            delta = one.text if text else one.text.lstrip()
            text += delta
            yield {"type": "transcript.text.delta", "delta": delta}
        yield {"type": "transcript.text.done", "text": text, "usage": self.usage()}

    def usage(self) -> dict[str, object]:
        """What it cost."""
        return {"type": "duration", "seconds": round(self.seconds, 3)}


def _answer(
    transcript: Transcript, said: list[Utterance], shape: str, times: list[str], headers: dict[str, str]
) -> Response:
    text = "".join(one.text for one in said).strip()
    if shape in ("text", "srt", "vtt"):
        body = f"{text}\n" if shape == "text" else "".join(subtitles(said, shape))
        return PlainTextResponse(body, headers=headers)
    if shape == "json":
        return JSONResponse({"text": text, "usage": transcript.usage()}, headers=headers)
    how = transcript.how
    code = next((one.language for one in said if one.language), how.language) or "en"
    told: dict[str, object] = {
        "task": "translate" if how.translate else "transcribe",
        "language": "english" if how.translate else LANGUAGES.get(code, code),
        "duration": round(transcript.seconds, 3),
        "text": text,
        "usage": transcript.usage(),
    }
    if "segment" in times:
        told["segments"] = [_segment(place, one, how) for place, one in enumerate(said)]
    if "word" in times:
        told["words"] = [
            {"word": word.text.strip(), "start": round(word.start, 3), "end": round(word.end, 3)}
            for one in said
            for word in one.words
        ]
    return JSONResponse(told, headers=headers)


def _segment(place: int, one: Utterance, how: Listening) -> dict[str, object]:
    raw = one.text.encode()
    return {
        "id": place,
        "seek": round(one.start * 100),
        "start": round(one.start, 3),
        "end": round(one.end, 3),
        "text": one.text,
        "tokens": list(one.tokens),
        "temperature": how.temperature or 0.0,
        "avg_logprob": None,
        "compression_ratio": round(len(raw) / len(zlib.compress(raw)), 4) if raw else None,
        "no_speech_prob": None,
    }
