"""What is said in a sound, for the doors that write it down: stretch by stretch, as it is understood."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from omniform.architectures.speech import SpeechToText
from omniform.core.spoken import SpokenWord, Utterance
from omniform.engine.calls import Reader
from omniform.engine.hearing.hear import hear
from omniform.inputs.processors import WhisperProcessor
from omniform.serve.desk import Desk, Use
from omniform.serve.errors import APIError


class Abandoned(Exception):  # noqa: N818  nobody waits any more, which is no error
    """Nobody waits for what is heard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """How a sound is heard.

    Attributes:
        language: that is spoken; None: the model tells.
        prompt: what was said before, or words that may come.
        temperature: to draw with; None or 0: the likeliest words, drawn only where these cannot be right.
        translate: into English.
        words: whether to tell when each word was said.
    """

    language: str | None
    prompt: str | None
    temperature: float | None
    translate: bool
    words: bool


def ear_of(use: Use, how: Listening) -> Callable[[bytes, Desk, threading.Event], Iterator[Utterance]]:
    """What hears a sound and tells it stretch by stretch.

    Raises:
        APIError: the model does not write down speech, or does not do it so.
    """
    model, reader, name = use.loaded.model, use.loaded.reader, use.loaded.origin.name
    if isinstance(model, SpeechToText) and isinstance(reader, WhisperProcessor):
        return lambda data, desk, over: _whispered(model, reader, data, desk, how, over)
    if "ctc" not in model.origin.architecture.tasks:
        raise APIError(400, f"the model {name!r} does not write down speech", param="model", code="model_does_not_hear")
    for field, asked in (("prompt", how.prompt), ("language", how.language), ("temperature", how.temperature)):
        if asked:
            raise APIError(400, f"{field}: this model knows none", param=field, code="unsupported_parameter")
    if how.translate:
        raise APIError(400, "this model does not translate", param="model", code="model_does_not_translate")
    return lambda data, desk, over: _spelt(use, data, desk, how)


def _whispered(
    model: SpeechToText, reader: WhisperProcessor, data: bytes, desk: Desk, how: Listening, over: threading.Event
) -> Iterator[Utterance]:
    settings: dict[str, object] = {}
    known = model.generation_config.to_dict()
    tasks = known.get("task_to_id")
    several = known.get("is_multilingual", True)
    if how.translate and not (several and isinstance(tasks, Mapping) and "translate" in tasks):
        raise APIError(400, "this model does not translate", param="model", code="model_does_not_translate")
    if several:
        settings["task"] = "translate" if how.translate else "transcribe"
        if how.language is not None:
            settings["language"] = how.language.lower()
    elif how.language is not None and how.language.lower() not in ("en", "english"):
        raise APIError(400, "language: this model knows one language", param="language", code="unsupported_parameter")
    if how.temperature:
        settings["temperature"] = how.temperature
    if how.prompt:
        settings["prompt_ids"] = reader.get_prompt_ids(how.prompt, return_tensors="pt")

    def progress(heard: float, seconds: float) -> None:
        if over.is_set():
            raise Abandoned

    able = cast(Reader, reader)
    yield from hear(model, able, data, words=how.words, progress=progress, media_access=desk.media, **settings)


def _spelt(use: Use, data: bytes, desk: Desk, how: Listening) -> Iterator[Utterance]:
    """What a model that tells letters frame by frame hears, in one stretch."""
    pipe = use.loaded.crafts.pipeline("automatic-speech-recognition")
    found = cast(
        "Mapping[str, object]", pipe(data, return_timestamps="word", media_access=desk.media)
    )  # fmt: skip
    words = []
    for one in cast("list[Mapping[str, object]]", found.get("chunks", [])):
        start, end = cast("tuple[float, float]", one["timestamp"])
        words.append(SpokenWord(f" {one['text']}", start, end))
    start, end = (words[0].start, words[-1].end) if words else (0.0, 0.0)
    text = f" {found['text']}"
    if text.strip():
        yield Utterance(text, start, end, (), tuple(words) if how.words else (), None, end, end)


async def heard(ear: Callable[[threading.Event], Iterator[Utterance]]) -> AsyncIterator[Utterance]:
    """What is heard, as it comes from a thread; which ends soon after nobody waits for it any more."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Utterance | BaseException | None] = asyncio.Queue()
    over = threading.Event()

    def tell(one: Utterance | BaseException | None) -> None:
        if not over.is_set():
            loop.call_soon_threadsafe(queue.put_nowait, one)

    def listen() -> None:
        try:
            for one in ear(over):
                tell(one)
                if over.is_set():
                    return
            tell(None)
        except Abandoned:
            return
        except BaseException as error:
            tell(error)

    listening = loop.run_in_executor(None, listen)
    try:
        while (one := await queue.get()) is not None:
            if isinstance(one, BaseException):
                raise one
            yield one
    finally:
        over.set()
        del listening
