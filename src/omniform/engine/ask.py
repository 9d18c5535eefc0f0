"""One question to one model: text, pictures and sound in, pieces of the answer out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief
from omniform.engine.calls import Reader
from omniform.engine.engine import Engine
from omniform.engine.hearing.hear import hear
from omniform.engine.text import Decodes
from omniform.inputs.audio import WhisperFeatureExtractor
from omniform.inputs.audio.load import open_recording
from omniform.inputs.processors import WhisperProcessor

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
    """

    text: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


def ask(
    model: Model,
    reader: Reader,
    answer: Answer,
    *,
    text: str = "",
    images: Sequence[object] = (),
    audio: Sequence[object] = (),
    settings: Mapping[str, object] | None = None,
) -> Iterator[str]:
    """Answer a question piece by piece.

    Args:
        model: any model that writes.
        reader: its processor or tokenizer.
        answer: filled in on the way.
        text: the question.
        images: pictures, in any form a processor takes.
        audio: sounds, in any form a feature extractor takes.
        settings: of generation; see :func:`omniform.engine.generate.generate`.

    Yields:
        Pieces of text; together they are the answer.

    Raises:
        InputError: the model cannot read what it is given.
    """
    started = time.perf_counter()
    _check_types(model, reader, answer, text, images, audio, settings)
    _check_kinds(model, text, images, audio)
    if audio:
        yield from _heard(model, reader, answer, audio[0], settings or {}, started)
    else:
        yield from _answered(model, reader, answer, read_question(model, reader, text, images, None), settings, started)
    answer.seconds["total"] = time.perf_counter() - started


def _heard(
    model: Model, reader: Reader, answer: Answer, source: object, settings: Mapping[str, object], started: float
) -> Iterator[str]:
    """What is said in a sound: token by token if it is short, else stretch by stretch."""
    if not isinstance(reader, WhisperProcessor):
        raise InputError("the checkpoint has no processor for sound", where="audio")
    extractor = cast(WhisperFeatureExtractor, reader.feature_extractor)
    with open_recording(cast("AudioSource", source), extractor.sampling_rate) as recording:
        samples = recording.read(extractor.n_samples + 1)
        if samples.shape[0] <= extractor.n_samples:
            yield from _answered(
                model, reader, answer, read_question(model, reader, "", (), samples), settings, started
            )
            return
        for utterance in hear(model, reader, recording, **settings):
            answer.seconds.setdefault("prepare", time.perf_counter() - started)
            answer.seconds.setdefault("first_token", time.perf_counter() - started)
            answer.tokens += len(utterance.tokens)
            answer.text += utterance.text
            yield utterance.text


def _answered(
    model: Model, reader: Reader, answer: Answer, inputs: dict[str, Tensor], settings: object, started: float
) -> Iterator[str]:
    """The answer to one question, token by token."""
    answer.seconds["prepare"] = time.perf_counter() - started
    handle = Engine(model, reader).submit(inputs, priority=0, **cast("dict[str, object]", settings or {}))
    try:
        for piece in handle:
            if piece.sequence:
                continue  # one answer to one question, however many the checkpoint's settings ask for
            answer.seconds.setdefault("first_token", time.perf_counter() - started)
            answer.tokens += 1
            answer.text += piece.text
            if piece.text:
                yield piece.text
        answer.prompt_tokens += handle.result().prompt_tokens
    finally:
        handle.cancel()  # whoever stops reading wants no more of it


def read_question(
    model: Model, reader: Reader, text: str, images: Sequence[object], sound: Tensor | None
) -> dict[str, Tensor]:
    """The model's inputs for a question: through the checkpoint's chat template where it has one."""
    accepts = model.accepts()
    encoder = _encoder_inputs(model)
    if sound is not None:
        batch = reader(audio=sound, return_tensors="pt")
    elif reader.chat_template is not None and "input_ids" in accepts and not encoder:
        content: list[dict[str, object]] = [{"type": "image", "image": image} for image in images]
        content.append({"type": "text", "text": text})
        # Text-only templates expect a plain string.
        message: dict[str, object] = {
            "role": "user",
            "content": content if images or "pixel_values" in accepts else text,
        }
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        batch = cast(Batch, reader.apply_chat_template([message], **options))
    elif images:
        placeholders = "<image>\n" * max(0, len(images) - text.count("<image>"))
        batch = reader(images=list(images), text=placeholders + text, return_tensors="pt")
    else:
        batch = reader(text=text, return_tensors="pt")
    wanted = accepts | encoder
    return {name: value for name, value in batch.items() if name in wanted and isinstance(value, Tensor)}


def _encoder_inputs(model: Model) -> frozenset[str]:
    return model.encoder_inputs if isinstance(model, Generative) else frozenset()


def _check_types(
    model: object, reader: object, answer: object, text: object, images: object, audio: object, settings: object
) -> None:
    """Refuse arguments of another kind than :func:`ask` names."""
    for name, value, holds, expected in (
        ("model", model, isinstance(model, Model), "a model"),
        ("reader", reader, callable(reader) and isinstance(reader, Decodes), "a processor or a tokenizer"),
        ("answer", answer, isinstance(answer, Answer), "an Answer"),
        ("text", text, isinstance(text, str), "a text"),
        ("images", images, isinstance(images, (list, tuple)), "a list of pictures"),
        ("audio", audio, isinstance(audio, (list, tuple)), "a list of sounds"),
        ("settings", settings, settings is None or is_named(settings), "a mapping of names"),
    ):
        if not holds:
            raise InputError("this argument is of another kind", where=name, expected=expected, found=brief(value))


def is_named(settings: object) -> bool:
    """Whether something is a mapping whose keys are names."""
    return isinstance(settings, Mapping) and all(isinstance(name, str) for name in settings)


def _check_kinds(model: Model, text: str, images: Sequence[object], audio: Sequence[object]) -> None:
    accepts = model.accepts() | _encoder_inputs(model)
    name = model.origin.architecture.name
    if not isinstance(model, Generative):
        raise InputError(
            f"a {name} does not write text", where="model", remedy="Use the low-level API; see the README."
        )
    for what, given, key in (("pictures", images, "pixel_values"), ("sound", audio, "input_features")):
        if given and key not in accepts:
            raise InputError(f"a {name} reads no {what}", where=what, found=len(given))
    if "input_features" in accepts and not audio:
        raise InputError(f"a {name} needs sound to listen to", where="audio", expected="one sound", found="none")
    if len(audio) > 1:
        raise InputError("one sound at a time", where="audio", found=len(audio))
    if not audio and not text.strip():
        raise InputError("there is no question", where="text", expected="some text", found="nothing")
