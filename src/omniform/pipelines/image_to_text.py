"""``image-to-text``: what a picture shows, in words that a model writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypedDict, cast

from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.hub.auto import AutoModelForImageTextToText
from omniform.inputs.images.load import ImageSource, load_image
from omniform.inputs.media_access import MediaAccess
from omniform.pipelines.base import Params
from omniform.pipelines.batching import Inputs
from omniform.pipelines.registry import Task
from omniform.pipelines.seen_and_heard import access_of
from omniform.pipelines.writing import WritingPipeline, Written


class Caption(TypedDict):
    """What was written about a picture."""

    generated_text: str


class ImageToTextPipeline(WritingPipeline):
    """Writes what a picture shows: a list of :class:`Caption`, one for each answer.

    Options, for the pipeline or for a call, besides those of ``generate`` (by name, or in ``generate_kwargs``):
        prompt: how the text begins, or what the model is to do, for models that read one.
        max_new_tokens: tokens of an answer.
        timeout, media_access: how pictures are read.
    """

    _load_processor = None
    _load_image_processor = None

    def _sanitize_parameters(  # type: ignore[override]
        self,
        prompt: str | None = None,
        timeout: float | None = None,
        media_access: MediaAccess | None = None,
        generate_kwargs: Mapping[str, object] | None = None,
        **writing: object,
    ) -> tuple[Params, Params, Params]:
        if twice := sorted(writing.keys() & (generate_kwargs or {}).keys()):
            raise InputError("the setting is given twice", where=twice[0], found="directly and in generate_kwargs")
        reading: Params = {} if prompt is None else {"prompt": prompt}
        if (access := access_of(media_access, timeout)) is not None:
            reading["media_access"] = access
        return reading, {**writing, **(generate_kwargs or {})}, {}

    def __call__(self, inputs: object = None, **given: object) -> object:  # type: ignore[override]
        """What one picture or several show; ``images`` is another name of them.

        Raises:
            InputError: there is no picture, or it cannot be read.
        """
        inputs = given.pop("images", None) if inputs is None else inputs
        if inputs is None:
            raise InputError("there is no picture", where=self.task or type(self).__name__, expected="at least one")
        return super().__call__(inputs, **given)  # type: ignore[arg-type]

    def preprocess(  # type: ignore[override]
        self, image: object, prompt: str | None = None, media_access: MediaAccess | None = None
    ) -> Inputs:
        """The model's inputs of a picture, and of the prompt where there is one."""
        picture = load_image(cast(ImageSource, image), media_access=media_access)
        return looked_at(self, picture, prompt)

    def prompt_of(self, inputs: Inputs) -> dict[str, object]:
        return dict(inputs)

    def outcome(self, inputs: Inputs, written: Written) -> object:
        return {"generated_sequence": written.sequences.cpu(), "input_ids": inputs.get("input_ids")}

    def postprocess(self, model_outputs: Mapping[str, object], **_: object) -> list[Caption]:  # type: ignore[override]
        """The texts."""
        texts = texts_of(self, cast(Tensor, model_outputs["generated_sequence"]))
        return [Caption(generated_text=text) for text in texts]


def looked_at(pipe: WritingPipeline, picture: object, text: str | None, **options: object) -> Inputs:
    """The inputs of a picture with or without a text: by the processor, else by its parts.

    Args:
        options: of the tokenizer.
    """
    if pipe.processor is not None:
        words = {} if text is None else {"text": pipe.processor.marked(text, ["image"])}
        batch = pipe.processor(images=picture, return_tensors="pt", **words, **options)
        return batch.to(pipe.dtype)
    if pipe.image_processor is None:
        raise InputError("nothing reads pictures", where="image_processor", remedy="Pass it beside the model.")
    pixels = pipe.image_processor(images=[picture], return_tensors="pt").to(pipe.dtype)  # type: ignore[arg-type]
    if text is None:
        return pixels
    if pipe.tokenizer is None:
        raise InputError("there is nothing that reads texts", where="tokenizer", found=brief(None))
    return {**pipe.tokenizer(text, return_tensors="pt", **options), **pixels}  # type: ignore[arg-type]


def texts_of(pipe: WritingPipeline, sequences: Tensor) -> list[str]:
    """The texts of what was written."""
    reader = pipe.tokenizer if pipe.processor is None else pipe.processor.tokenizer
    if reader is None:
        raise InputError("nothing knows the tokens", where="tokenizer", remedy="Pass it beside the model.")
    return reader.batch_decode(sequences, skip_special_tokens=True)


TASKS: Final = (
    Task(
        name="image-to-text",
        pipeline=ImageToTextPipeline,
        models=(AutoModelForImageTextToText,),
        kind="multimodal",
    ),
)

__all__ = ["TASKS", "Caption", "ImageToTextPipeline"]
