"""What is to be done with every record, as processes tell it to one another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, cast

from omniform.core.errors import InputError

WRITE: Final = "write"
"""Answer prompts and chats."""

EMBED: Final = "embed"
"""Turn texts into vectors."""

REQUESTS: Final = "requests"
"""Answer requests of OpenAI's API: ``{"custom_id", "method", "url", "body"}``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be done with every record.

    Attributes:
        model: a folder or a Hub id.
        task: :data:`WRITE`, :data:`EMBED`, :data:`REQUESTS` or a pipeline's task.
        folder: that names of files in records start from.
        settings: of the engine, or parameters of the pipeline.
        text: the question to records that bring a picture, a sound or a video and no words.
        seed: of all draws; every record has one of its own, made of this and its number.
        dtype: of the weights.
        memory: of the engine: see :class:`~omniform.engine.engine.Engine`.
        cache_dtype: how its state is kept.
        urls: addresses that may be read for media: ``"none"``, ``"public"`` or ``"any"``.
        roots: folders whose files may be read for media.
        created: seconds since 1970 when the job was begun, which answers of OpenAI's API tell.
    """

    model: str
    task: str
    folder: str
    settings: Mapping[str, object] = field(default_factory=dict)
    text: str | None = None
    seed: int = 0
    dtype: str = "auto"
    memory: int | str | None = None
    cache_dtype: str | None = None
    urls: str = "none"
    roots: tuple[str, ...] = ()
    created: int = 0

    def told(self) -> dict[str, object]:
        """The same as JSON."""
        settings = dict(self.settings)
        if settings.get("guide") is not None:
            from omniform.engine.guide import Guide

            guide = Guide.read(settings["guide"])
            settings["guide"] = None if guide is None else {"kind": guide.kind, "source": guide.source}
        return {**asdict(self), "settings": settings, "roots": list(self.roots)}

    @classmethod
    def read(cls, told: Mapping[str, object]) -> Job:
        """Back from JSON."""
        settings = dict(cast("Mapping[str, object]", told["settings"]))
        if isinstance(guide := settings.get("guide"), Mapping):
            from omniform.engine.guide import Guide

            settings["guide"] = Guide(**guide)
        roots = tuple(cast("list[str]", told["roots"]))
        return cls(**{**told, "settings": settings, "roots": roots})  # type: ignore[arg-type]

    def seed_of(self, index: int) -> int:
        """A record's own seed: the same whoever answers it, and beside whom."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{index}".encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True, slots=True)
class Record:
    """A record.

    Attributes:
        index: its number in the input, from 0.
        line: its number in the file, from 1, for people.
        fields: what it holds; None where it is none, which is then :attr:`fault`.
        fault: what is wrong with it.
    """

    index: int
    line: int
    fields: Mapping[str, object] | None
    fault: str | None = None

    def named(self) -> dict[str, object]:
        """How its result says whose it is."""
        told: dict[str, object] = {"index": self.index}
        for name in ("id", "custom_id"):
            if self.fields is not None and name in self.fields:
                told[name] = self.fields[name]
        return told


MEDIA: Final = {"image": "image", "images": "image", "audio": "audio", "video": "video"}
"""Fields of records that name media, and the kind of each."""


def fault_of(fields: Mapping[str, object], task: str) -> str | None:
    """What a record lacks for a task; None: nothing that can be seen before it is answered."""
    if task == REQUESTS:
        if not isinstance(fields.get("custom_id"), str):
            return "no custom_id, which is a text"
        if fields.get("method", "POST") != "POST":
            return f"method {fields.get('method')!r:.40}: only POST is answered"
        if not isinstance(fields.get("url"), str) or not isinstance(fields.get("body"), Mapping):
            return "no url and body of a request"
        if cast("Mapping[str, object]", fields["body"]).get("stream"):
            return "a body that asks for a stream"
        return None
    if task == EMBED:
        return None if text_of(fields) is not None else "no text, input or prompt to embed"
    if task != WRITE:
        return None if fields else "an object without fields"
    if "messages" in fields:
        held = fields["messages"]
        whole = isinstance(held, list) and bool(held) and all(isinstance(one, Mapping) for one in held)
        return None if whole else "messages that are no list of objects"
    if "prompt" in fields:
        return None if isinstance(fields["prompt"], str) else "a prompt that is no text"
    return None if any(name in fields for name in MEDIA) else "neither prompt nor messages nor a picture or sound"


def text_of(fields: Mapping[str, object]) -> str | None:
    """The text that a record brings."""
    return next((v for name in ("text", "input", "prompt") if isinstance(v := fields.get(name), str)), None)


def task_of(fields: Mapping[str, object], asked: str | None) -> str:
    """What is to be done, where nothing is asked for: what the first record is made for."""
    if asked is not None:
        if asked in (WRITE, EMBED, REQUESTS):
            return asked
        from omniform.pipelines import check_task

        check_task(asked)
        return asked
    return REQUESTS if "body" in fields and "url" in fields else WRITE


def check_settings(job: Job) -> None:
    """Refuse settings where nothing reads them.

    Raises:
        InputError: the requests bring their own, and vectors have none but these.
    """
    known = {EMBED: {"prompt", "prompt_name", "normalize_embeddings", "truncate_dim", "batch_size"}, REQUESTS: set()}
    if job.task in known:
        extra = sorted(job.settings.keys() - known[job.task])
        if extra:
            raise InputError(f"nothing reads this with the task {job.task}", where=extra[0], remedy="Leave it out.")
