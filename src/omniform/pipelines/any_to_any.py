"""``any-to-any``: texts, pictures, sounds and videos together, that a model answers in text or in speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, TypedDict, cast

import numpy as np
from torch import Tensor

from omniform.core.errors import InputError
from omniform.hub.auto import AutoModelForMultimodalLM
from omniform.pipelines.base import Params
from omniform.pipelines.batching import BatchSize, Inputs
from omniform.pipelines.registry import Task
from omniform.pipelines.running import Failure, Run
from omniform.pipelines.seen_and_heard import SeeingAndHearing, Told, prompt_told

MODES = ("text", "audio")


class Spoken(TypedDict):
    """One answer in speech: ``input_text``, and ``generated_audio``, samples at the model's rate. Shape: [samples]."""

    input_text: object
    generated_audio: np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class AnyToAnyPipeline(SeeingAndHearing):
    """Answers texts with pictures, sounds and videos among their words, or chats that hold them.

    Options besides those of :class:`~omniform.pipelines.seen_and_heard.SeeingAndHearing`:
        generation_mode: ``"text"``, or ``"audio"`` where the model speaks.
        load_audio_from_video: hear a video's sound beside its pictures.
    """

    media: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "images": ("images", "image"),
        "videos": ("videos", "video"),
        "audio": ("audio",),
    }

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.check_model_type(AutoModelForMultimodalLM)

    def _sanitize_parameters(  # type: ignore[override]
        self, generation_mode: str | None = None, **others: object
    ) -> tuple[Params, Params, Params]:
        reading, writing, telling = super()._sanitize_parameters(**others)  # type: ignore[arg-type]
        if generation_mode is None:
            return reading, writing, telling
        speaks = "text-to-waveform" in self.model.origin.architecture.tasks
        if generation_mode not in MODES or (generation_mode == "audio" and not speaks):
            raise InputError(
                "the model gives no such answers",
                where="generation_mode",
                expected=" or ".join(map(repr, MODES if speaks else MODES[:1])),
                found=repr(generation_mode),
            )
        if generation_mode == "audio":
            if "return_type" in telling:
                raise InputError("speech has no text", where="return_type", remedy="Leave it out.")
            writing["generation_mode"] = generation_mode
            telling["generation_mode"] = generation_mode
        return reading, writing, telling

    def __call__(  # type: ignore[override]
        self, text: object = None, images: object = None, videos: object = None, audio: object = None, **kwargs: object
    ) -> object:
        """Answer a text with media among its words, a chat, or many.

        Args:
            text: a text (with the model's placeholders), several, a chat, a mapping ``{"text": ..., "images": ...,
                "videos": ..., "audio": ...}``, or several of them.
            images, videos, audio: what the texts' placeholders stand for, in reading order.
            kwargs: parameters.

        Returns:
            A list of :class:`~omniform.pipelines.seen_and_heard.Told` or :class:`Spoken`; a list of such lists for
            several inputs.
        """
        return self.asked(text, {"images": images, "videos": videos, "audio": audio}, kwargs)

    def compute(self, chunks: Sequence[Inputs], size: BatchSize, run: Run) -> list[object | Failure]:
        """Answers in text are written side by side, speech one after another."""
        if run.forward.get("generation_mode") == "audio":
            return [run.tried(self._alone, chunk, run.forward) for chunk in chunks]
        return super().compute(chunks, size, run)

    def _forward(self, input_tensors: Inputs, **generate_kwargs: object) -> object:
        if generate_kwargs.pop("generation_mode", None) != "audio":
            return super()._forward(input_tensors, **generate_kwargs)
        given = self._prepare_generate_kwargs(generate_kwargs)
        spoken = self.model.generate(**self.prompt_of(input_tensors), **given, generation_mode="audio")
        _, wave = cast("tuple[object, Tensor]", spoken)
        return {"generated_audio": wave.cpu(), "prompt_text": input_tensors["text"]}

    def postprocess(  # type: ignore[override]
        self, model_outputs: Mapping[str, object], generation_mode: str = "text", **params: object
    ) -> list[Told] | list[Spoken]:
        """A record for each answer."""
        if generation_mode != "audio":
            return super().postprocess(model_outputs, **params)  # type: ignore[arg-type]
        wave = cast(Tensor, model_outputs["generated_audio"]).float().reshape(-1).numpy()
        return [Spoken(input_text=prompt_told(model_outputs["prompt_text"]), generated_audio=wave)]


TASKS: Final = (
    Task(
        name="any-to-any",
        pipeline=AnyToAnyPipeline,
        models=(AutoModelForMultimodalLM,),
        kind="multimodal",
        inferred=("multimodal-lm",),
    ),
)

__all__ = ["TASKS", "AnyToAnyPipeline", "Spoken"]
