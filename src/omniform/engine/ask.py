"""One question to one model: text, pictures and sound in, pieces of the answer out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.core.batch import Batch, Modality
from omniform.core.errors import InputError, brief
from omniform.engine.calls import Reader
from omniform.engine.engine import Engine
from omniform.engine.hearing.hear import hear
from omniform.engine.text import Decodes
from omniform.inputs.audio import WhisperFeatureExtractor
from omniform.inputs.audio.load import open_recording
from omniform.inputs.processors import Processor, VoxtralProcessor, WhisperProcessor

if TYPE_CHECKING:
    from omniform.inputs.audio.load import AudioSource


@dataclass(slots=True)
class Answer:
    """An answer, and what it took.

    Attributes:
        text: the whole answer, once its pieces were consumed.
        prompt_tokens: tokens the model read, placeholders of pictures included.
        tokens: tokens it wrote.
        seconds: preparing the inputs (``prepare``), until the first token (``first_token``), altogether (``total``).
        inputs: what the model read.
        token_ids: what it wrote.
    """

    text: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)


def ask(
    model: Model,
    reader: Reader,
    answer: Answer,
    *,
    text: str = "",
    images: Sequence[object] = (),
    audio: Sequence[object] = (),
    videos: Sequence[object] = (),
    settings: Mapping[str, object] | None = None,
    cache_dtype: str | None = None,
) -> Iterator[str]:
    """Answer a question piece by piece.

    Args:
        model: any model that writes.
        reader: its processor or tokenizer.
        answer: filled in on the way.
        text: the question.
        images: pictures, in any form a processor takes.
        audio: sounds, in any form a feature extractor takes.
        videos: videos, in any form a video processor takes.
        settings: of generation; see :func:`omniform.engine.generate.generate`.
        cache_dtype: how keys and values are kept; see :class:`~omniform.engine.engine.Engine`.

    Yields:
        Pieces of text; together they are the answer.

    Raises:
        InputError: the model cannot read what it is given.
    """
    started = time.perf_counter()
    _check_types(model, reader, answer, text, (images, audio, videos), settings)
    asked = Asked(tuple(images), tuple(audio), tuple(videos))
    _check_kinds(model, reader, text, asked)
    heard = isinstance(reader, WhisperProcessor)
    if heard and cache_dtype is not None:
        raise InputError("what is said in a sound is written down without", where="cache_dtype")
    if heard:
        yield from _heard(model, reader, answer, audio[0], settings or {}, started)
    else:
        inputs = read_question(model, reader, text, asked)
        yield from _answered(model, reader, answer, inputs, settings, started, cache_dtype)
    answer.seconds["total"] = time.perf_counter() - started


def _heard(
    model: Model, reader: Reader, answer: Answer, source: object, settings: Mapping[str, object], started: float
) -> Iterator[str]:
    """What is said in a sound: token by token if it is short, else stretch by stretch."""
    extractor = cast(WhisperFeatureExtractor, cast(WhisperProcessor, reader).feature_extractor)
    with open_recording(cast("AudioSource", source), extractor.sampling_rate) as recording:
        samples = recording.read(extractor.n_samples + 1)
        if samples.shape[0] <= extractor.n_samples:
            inputs = _taken(model, reader(audio=samples, return_tensors="pt"))
            yield from _answered(model, reader, answer, inputs, settings, started)
            return
        for utterance in hear(model, reader, recording, **settings):  # type: ignore[arg-type]
            answer.seconds.setdefault("prepare", time.perf_counter() - started)
            answer.seconds.setdefault("first_token", time.perf_counter() - started)
            answer.tokens += len(utterance.tokens)
            answer.text += utterance.text
            yield utterance.text


def _answered(
    model: Model,
    reader: Reader,
    answer: Answer,
    inputs: dict[str, Tensor],
    settings: object,
    started: float,
    cache_dtype: str | None = None,
) -> Iterator[str]:
    """The answer to one question, token by token."""
    answer.seconds["prepare"] = time.perf_counter() - started
    engine = Engine(model, reader, cache_dtype=cache_dtype)
    handle = engine.submit(inputs, priority=0, reader=None, **cast("dict[str, object]", settings or {}))
    try:
        for piece in handle:
            if piece.sequence:
                continue  # one answer to one question, however many the checkpoint's settings ask for
            answer.seconds.setdefault("first_token", time.perf_counter() - started)
            answer.tokens += 1
            answer.text += piece.text
            if piece.text:
                yield piece.text
        completion = handle.result()
        answer.prompt_tokens += completion.prompt_tokens
        answer.inputs, answer.token_ids = inputs, list(completion.tokens)
    finally:
        handle.cancel()  # whoever stops reading wants no more of it


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question is about besides its text, in the order in which it is read."""

    images: tuple[object, ...] = ()
    audio: tuple[object, ...] = ()
    videos: tuple[object, ...] = ()

    def of(self, kind: Modality) -> tuple[object, ...]:
        """The items of one modality."""
        return {"image": self.images, "audio": self.audio, "video": self.videos}[kind]

    @property
    def parts(self) -> list[dict[str, object]]:
        """The items as parts of a message."""
        return [{"type": kind, kind: item} for kind in NAMES for item in self.of(kind)]

    @property
    def named(self) -> dict[str, object]:
        """The items as a processor takes them."""
        given = {"images": self.images, "audio": self.audio, "videos": self.videos}
        return {name: list(items) for name, items in given.items() if items}


NAMES: Final[Mapping[Modality, str]] = {"image": "picture", "audio": "sound", "video": "video"}
"""What an item of each modality is called."""


def media_read(reader: Reader) -> frozenset[Modality]:
    """What a processor reads besides text."""
    if not isinstance(reader, Processor):
        return frozenset()
    kinds: Mapping[str, Modality] = {
        "image_processor": "image",
        "feature_extractor": "audio",
        "audio_processor": "audio",
        "video_processor": "video",
    }
    return frozenset(kinds[name] for name in reader.parts() if name in kinds)


def marked(reader: Reader, text: str, kinds: Sequence[Modality]) -> str:
    """A text with what stands for an item in front of it, for each item that it has no place for."""
    return reader.marked(text, kinds) if isinstance(reader, Processor) else text


def read_question(model: Model, reader: Reader, text: str, asked: Asked) -> dict[str, Tensor]:
    """The model's inputs for a question: through the checkpoint's chat template where it has one.

    A sound without a question is written down, by a model that has a way of being asked for that.
    """
    if isinstance(reader, VoxtralProcessor) and not text.strip() and len(asked.audio) == 1 and len(asked.parts) == 1:
        return _taken(model, cast(Batch, reader.apply_transcription_request(asked.audio[0])))
    if reader.chat_template is not None and "input_ids" in model.accepts() and not _encoder_inputs(model):
        # Text-only templates expect a plain string.
        content = [*asked.parts, {"type": "text", "text": text}] if media_read(reader) else text
        message: dict[str, object] = {"role": "user", "content": content}
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        return _taken(model, cast(Batch, reader.apply_chat_template([message], **options)))
    kinds = [kind for kind in NAMES for _ in asked.of(kind)]
    return _taken(model, reader(text=marked(reader, text, kinds), return_tensors="pt", **asked.named))


def _taken(model: Model, batch: Mapping[str, object]) -> dict[str, Tensor]:
    """What the model takes of a batch."""
    wanted = model.accepts() | _encoder_inputs(model)
    return {name: value for name, value in batch.items() if name in wanted and isinstance(value, Tensor)}


def _encoder_inputs(model: Model) -> frozenset[str]:
    return model.encoder_inputs if isinstance(model, Generative) else frozenset()


def _check_types(
    model: object, reader: object, answer: object, text: object, media: tuple[object, object, object], settings: object
) -> None:
    """Refuse arguments of another kind than :func:`ask` names."""
    for name, value, holds, expected in (
        ("model", model, isinstance(model, Model), "a model"),
        ("reader", reader, callable(reader) and isinstance(reader, Decodes), "a processor or a tokenizer"),
        ("answer", answer, isinstance(answer, Answer), "an Answer"),
        ("text", text, isinstance(text, str), "a text"),
        *(
            (name, items, isinstance(items, (list, tuple)), f"a list of {what}")
            for name, items, what in zip(
                ("images", "audio", "videos"), media, ("pictures", "sounds", "videos"), strict=True
            )
        ),
        ("settings", settings, settings is None or is_named(settings), "a mapping of names"),
    ):
        if not holds:
            raise InputError("this argument is of another kind", where=name, expected=expected, found=brief(value))


def is_named(settings: object) -> bool:
    """Whether something is a mapping whose keys are names."""
    return isinstance(settings, Mapping) and all(isinstance(name, str) for name in settings)


def _check_kinds(model: Model, reader: Reader, text: str, asked: Asked) -> None:
    name, reads = model.origin.architecture.name, media_read(reader)
    if not isinstance(model, Generative):
        raise InputError(
            f"a {name} does not write text", where="model", remedy="Use the low-level API; see the README."
        )
    for kind, what in NAMES.items():
        if asked.of(kind) and kind not in reads:
            raise InputError(f"a {name} reads no {what}s", where=f"{what}s", found=len(asked.of(kind)))
    if isinstance(reader, WhisperProcessor):
        if not asked.audio:
            raise InputError(f"a {name} needs sound to listen to", where="audio", expected="one sound", found="none")
        if len(asked.audio) > 1:
            raise InputError("one sound at a time", where="audio", found=len(asked.audio))
    elif not asked.audio and not text.strip() and not (asked.images and _encoder_inputs(model)):
        raise InputError("there is no question", where="text", expected="some text", found="nothing")
