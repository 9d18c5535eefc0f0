"""A model that answers records: prompts and chats, texts to embed, inputs of a pipeline."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.core.errors import InputError, brief
from omniform.core.generation import as_settings
from omniform.core.seeds import set_seed
from omniform.embeddings.embedder import Embedder
from omniform.engine.calls import AnyPrompt, Reader
from omniform.engine.each import complete_each
from omniform.engine.engine import Engine
from omniform.engine.request import Completion
from omniform.hub.auto_inputs import AutoProcessor
from omniform.hub.checkpoint import load_as_saved
from omniform.inputs.media_access import MediaAccess, Urls
from omniform.serve.mapping.job import EMBED, MEDIA, REQUESTS, WRITE, Job, Record, text_of
from omniform.serve.mapping.lines import Answerer, Told, failed

LONGEST_ANSWER = 256
"""Tokens of the longest answer, where neither the user nor the checkpoint's own settings say."""


def answerer_of(job: Job) -> Answerer:
    """What a job needs, loaded.

    Raises:
        OmniformError: the model is not there, or is for something else.
    """
    if job.task == WRITE:
        return Writes(job)
    if job.task == EMBED:
        return Embeds(job)
    if job.task == REQUESTS:
        from omniform.serve.mapping.requests import Requests

        return Requests(job)
    return Pipes(job)


class Writes:
    """Answers prompts and chats with one engine."""

    def __init__(self, job: Job) -> None:
        self._job = job
        model = load_as_saved(job.model, dtype=job.dtype)
        self._reader = cast(Reader, AutoProcessor.from_pretrained(job.model))
        self._engine = Engine(model, self._reader, memory=job.memory, cache_dtype=job.cache_dtype)
        assert isinstance(model, Generative)
        own = as_settings(model.generation_config).get("max_new_tokens")
        named = {"max_new_tokens", "max_length"} & job.settings.keys()
        self._longest = {} if own is not None or named else {"max_new_tokens": LONGEST_ANSWER}
        self._media = media_of(job)

    def answer(self, records: Sequence[Record], told: Told) -> list[dict[str, object]]:
        """See :class:`Answerer`."""
        prompts: list[AnyPrompt] = []
        settings: list[Mapping[str, object]] = []
        lines: dict[int, dict[str, object]] = {}
        for record in records:
            try:
                prompt = self._prompt(record)
                settings.append(self._settings(record))
                prompts.append(prompt)
            except Exception as error:
                lines[record.index] = failed(record, error)
                told(0)
        asked = [record for record in records if record.index not in lines]
        for record, outcome in zip(asked, complete_each(self._engine, prompts, settings, told), strict=True):
            lines[record.index] = _written(record, outcome)
        return [lines[record.index] for record in records]

    def _settings(self, record: Record) -> Mapping[str, object]:
        own = (record.fields or {}).get("settings", {})
        if not isinstance(own, Mapping):
            raise InputError("settings are an object", where="settings", found=brief(own))
        return {**self._longest, "seed": self._job.seed_of(record.index), **self._job.settings, **own}

    def _prompt(self, record: Record) -> AnyPrompt:
        chat = conversation(record, self._job)
        if isinstance(chat, str):
            return chat
        batch = self._reader.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            media_access=self._media,
        )  # fmt: skip
        assert isinstance(batch, Mapping)
        return batch


def media_of(job: Job) -> MediaAccess:
    """What records may have read for their pictures and sounds."""
    return MediaAccess(urls=cast(Urls, job.urls), roots=list(job.roots))


def conversation(record: Record, job: Job) -> str | list[dict[str, object]]:
    """A record's prompt, or the chat that it is: one of one message where it brings media.

    Raises:
        InputError: media of no kind that can be named, or without a question.
    """
    fields = record.fields or {}
    if "messages" in fields:
        messages = cast("Sequence[Mapping[str, object]]", fields["messages"])
        return [{**message, "content": _content(message.get("content"), job)} for message in messages]
    text = fields.get("prompt", text_of(fields) if job.text is None else job.text)
    parts: list[object] = []
    for name, kind in MEDIA.items():
        held = fields.get(name)
        for one in held if isinstance(held, list) else [held] if held is not None else []:
            parts.append({"type": kind, kind: placed(one, job)})
    if not parts:
        return str(text)
    if not isinstance(text, str):
        raise InputError("there is no question", where="prompt", remedy="Add prompt to the records, or --text.")
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def _content(content: object, job: Job) -> object:
    if not isinstance(content, list):
        return content
    return [_part(part, job) if isinstance(part, Mapping) else part for part in content]


def _part(part: Mapping[str, object], job: Job) -> dict[str, object]:
    kind = str(part.get("type", ""))
    if kind in ("image_url", "audio_url", "video_url"):  # OpenAI's way to say it
        held, kind = part.get(kind), kind.removesuffix("_url")
        return {"type": kind, kind: placed(held.get("url") if isinstance(held, Mapping) else held, job)}
    if kind in ("image", "audio", "video") and kind in part:
        return {**part, kind: placed(part[kind], job)}
    return dict(part)


def placed(name: object, job: Job) -> object:
    """A medium's name, from the dataset's folder on where it is a file's."""
    if not isinstance(name, str) or name.startswith("data:") or "://" in name:
        return name
    return str(Path(job.folder) / name)


def _written(record: Record, outcome: Completion | Exception) -> dict[str, object]:
    if isinstance(outcome, Exception):
        return failed(record, outcome)
    texts = [one.text or "" for one in outcome.sequences]
    told: dict[str, object] = {"text": texts[0]} if len(texts) == 1 else {"texts": texts}
    reasons = [str(one.finish_reason) for one in outcome.sequences]
    tokens = {"prompt": outcome.prompt_tokens, "answer": sum(len(one.tokens) for one in outcome.sequences)}
    line = {**record.named(), **told, "finish_reason": reasons[0] if len(reasons) == 1 else reasons, "tokens": tokens}
    first = outcome.sequences[0].logprobs
    if first is not None:
        line["logprobs"] = [{"token": one.token, "logprob": one.logprob, "top": list(one.top)} for one in first]
    return line


class Embeds:
    """Turns texts into vectors."""

    def __init__(self, job: Job) -> None:
        self._settings = dict(job.settings)
        self._model = Embedder(job.model, model_kwargs={"dtype": job.dtype})

    def answer(self, records: Sequence[Record], told: Told) -> list[dict[str, object]]:
        """See :class:`Answerer`."""
        texts = [text_of(record.fields or {}) or "" for record in records]
        try:
            vectors = self._vectors(texts)
        except Exception as error:
            if len(records) == 1:
                told(0)
                return [failed(records[0], error)]
            gc.collect()  # one of them, or all together: each for itself says which
            return [line for record in records for line in self.answer([record], told)]
        for _ in records:
            told(0)
        return [{**record.named(), "embedding": vector} for record, vector in zip(records, vectors, strict=True)]

    def _vectors(self, texts: Sequence[str]) -> list[list[float]]:
        some: object = texts
        vectors = cast(Tensor, self._model.encode(some, None, **{**self._settings, "convert_to_tensor": True}))
        # The fewest digits that mean the same number, which a float64 would write out to the last.
        return [[float(str(number)) for number in row] for row in vectors.float().cpu().numpy()]


class Pipes:
    """Has a pipeline answer its inputs."""

    def __init__(self, job: Job) -> None:
        from omniform.pipelines import pipeline
        from omniform.pipelines.text_to_audio import TextToAudioPipeline
        from omniform.pipelines.writing import WritingPipeline

        self._job = job
        self._pipe = pipeline(job.task, job.model, dtype=job.dtype)
        self._writes = isinstance(self._pipe, WritingPipeline)
        self._draws = isinstance(self._pipe, TextToAudioPipeline)

    def answer(self, records: Sequence[Record], told: Told) -> list[dict[str, object]]:
        """See :class:`Answerer`."""
        alone = self._writes or self._draws or any("parameters" in (record.fields or {}) for record in records)
        if alone or len(records) == 1:
            return [self._alone(record, told) for record in records]
        inputs = [input_of(record, self._job) for record in records]
        settings: dict[str, object] = {"on_error": "return", **self._job.settings}
        found = cast("list[object]", self._pipe(inputs, **settings))  # type: ignore[arg-type]
        lines = []
        for record, one in zip(records, found, strict=True):
            lines.append(_answered(record, one))
            told(0)
        return lines

    def _alone(self, record: Record, told: Told) -> dict[str, object]:
        seed = self._job.seed_of(record.index)
        settings = {**({"seed": seed} if self._writes else {}), **self._job.settings}
        if self._draws:
            set_seed(seed % 2**32)
        try:
            own = (record.fields or {}).get("parameters", {})
            if not isinstance(own, Mapping):
                raise InputError("parameters are an object", where="parameters", found=brief(own))
            answer = self._pipe(input_of(record, self._job), **{**settings, **own})
            return _answered(record, answer)
        except Exception as error:
            return failed(record, error)
        finally:
            told(0)


def input_of(record: Record, job: Job) -> object:
    """A record's input to a pipeline: what it calls so, the one thing that it holds, or all of its fields by name."""
    fields = {
        name: placed(value, job) if name in MEDIA else value
        for name, value in (record.fields or {}).items()
        if name not in ("id", "custom_id", "parameters")
    }
    if "inputs" in fields:
        return fields["inputs"]
    if "messages" in fields:
        return fields["messages"]
    if len(fields) == 1:
        return next(iter(fields.values()))
    return fields


def _answered(record: Record, answer: object) -> dict[str, object]:
    if isinstance(answer, BaseException):
        return failed(record, answer)
    return {**record.named(), "answer": plain(answer)}


def plain(value: object) -> object:
    """An answer as JSON.

    Raises:
        InputError: it holds something that JSON cannot.
    """
    import numpy as np
    from PIL.Image import Image

    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return cast(object, value.tolist())
    if isinstance(value, Image):
        import base64
        import io

        data = io.BytesIO()
        value.save(data, "PNG")
        return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    raise InputError("the answer cannot be written as JSON", found=type(value).__name__)
