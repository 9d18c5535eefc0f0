"""``visual-question-answering``: questions about pictures, to models that choose an answer or write one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypedDict, cast

from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.core.errors import InputError, brief, check_arguments
from omniform.hub.auto import AutoModelForImageTextToText, AutoModelForVisualQuestionAnswering
from omniform.inputs.images.load import ImageSource, load_image
from omniform.inputs.media_access import MediaAccess
from omniform.pipelines.base import Params, Pipeline
from omniform.pipelines.batching import BatchSize, Inputs
from omniform.pipelines.given import scores_of
from omniform.pipelines.image_to_text import looked_at, texts_of
from omniform.pipelines.registry import Task
from omniform.pipelines.running import Failure, Run
from omniform.pipelines.seen_and_heard import access_of, after
from omniform.pipelines.writing import WritingPipeline, Written

MOST = 5


class Reply(TypedDict, total=False):
    """An answer, and how likely it is where the model chooses among answers."""

    score: float
    answer: str


class VisualQuestionAnsweringPipeline(WritingPipeline):
    """Answers questions about pictures: a list of :class:`Reply`, the likeliest first.

    Models with classes of answers weigh each by itself (a sigmoid); others write. Options, for the pipeline or a call:
        top_k: how many answers are told, 5; where the model writes, one for each sequence.
        padding, truncation: of the question.
        timeout, media_access: how pictures are read.
        generate_kwargs: settings of ``generate``, which may also be given by name.
    """

    _load_processor = None
    _load_image_processor = None

    def __init__(self, model: Model, *args: object, **kwargs: object) -> None:
        self.writes = isinstance(model, nn.Module) and model.can_generate()
        # Those that choose are no writers, and are made as any other pipeline.
        begin = super().__init__ if self.writes else super(WritingPipeline, self).__init__
        begin(model, *args, **kwargs)  # type: ignore[arg-type]
        self.check_model_type(AutoModelForVisualQuestionAnswering)

    def _sanitize_parameters(  # type: ignore[override]
        self,
        top_k: int | None = None,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        timeout: float | None = None,
        media_access: MediaAccess | None = None,
        generate_kwargs: Mapping[str, object] | None = None,
        **writing: object,
    ) -> tuple[Params, Params, Params]:
        if top_k is not None and not (self.writes or (isinstance(top_k, int) and top_k > 0)):
            raise InputError("no number of answers", where="top_k", expected="1 or more", found=brief(top_k))
        access = access_of(media_access, timeout)
        reading: Params = {"padding": padding, "truncation": truncation, "media_access": access}
        if self.writes and top_k is not None:
            writing["top_k"] = top_k
        if not self.writes and writing:
            check_arguments(type(self).__name__, writing, ("top_k", "padding", "truncation", "timeout", "media_access"))
        telling: Params = {} if top_k is None or self.writes else {"top_k": top_k}
        return (
            {name: value for name, value in reading.items() if value is not None},
            {**writing, **(generate_kwargs or {})},
            telling,
        )

    def __call__(self, image: object = None, question: object = None, **given: object) -> object:  # type: ignore[override]
        """Answer a question about a picture, or several.

        Args:
            image: a picture, or several; a mapping ``{"image": ..., "question": ...}``, or several of them.
            question: a question for all pictures, or several for each.
            given: parameters.

        Returns:
            A list of :class:`Reply`; a list of such lists for several pictures or questions.
        """
        if question is None:
            return super().__call__(image, **given)  # type: ignore[arg-type]
        pictures = list(image) if isinstance(image, (list, tuple)) else [image]
        questions = list(question) if isinstance(question, (list, tuple)) else [question]
        asked = [{"image": one, "question": text} for one in pictures for text in questions]
        many = isinstance(image, (list, tuple)) or isinstance(question, (list, tuple))
        return super().__call__(asked if many else asked[0], **given)  # type: ignore[arg-type]

    def preprocess(  # type: ignore[override]
        self, inputs: object, media_access: MediaAccess | None = None, **options: object
    ) -> Inputs:
        """The model's inputs of a picture and a question."""
        if not isinstance(inputs, Mapping) or not isinstance(inputs.get("question"), str) or "image" not in inputs:
            raise InputError(
                "this is no question about a picture",
                where="inputs",
                expected="{'image': ..., 'question': 'what is it?'}",
                found=brief(inputs),
            )
        picture = load_image(cast(ImageSource, inputs["image"]), media_access=media_access)
        return looked_at(self, picture, cast(str, inputs["question"]), **options)

    def compute(self, chunks: Sequence[Inputs], size: BatchSize, run: Run) -> list[object | Failure]:
        """Answers that are written are written side by side; those that are chosen come of batches of like inputs."""
        return super().compute(chunks, size, run) if self.writes else Pipeline.compute(self, chunks, size, run)

    def _forward(self, input_tensors: Inputs, **generate_kwargs: object) -> object:
        if self.writes:
            return super()._forward(input_tensors, **generate_kwargs)
        known = self.model.accepts()
        return {"logits": scores_of(self.model(**{n: v for n, v in input_tensors.items() if n in known}), "BC")}

    def prompt_of(self, inputs: Inputs) -> dict[str, object]:
        return dict(inputs)

    def outcome(self, inputs: Inputs, written: Written) -> object:
        return {"sequences": written.sequences.cpu(), "input_ids": inputs.get("input_ids")}

    def postprocess(self, model_outputs: Mapping[str, object], top_k: int = MOST) -> list[Reply]:  # type: ignore[override]
        """The answers."""
        if self.writes:
            texts = texts_of(self, cast(Tensor, model_outputs["sequences"]))
            ids = model_outputs["input_ids"]
            asked = texts_of(self, ids)[0] if isinstance(ids, Tensor) else ""
            return [{"answer": after(text, asked).strip()} for text in texts]
        odds = cast(Tensor, model_outputs["logits"])[0].float().sigmoid()
        scores, places = odds.topk(min(top_k, odds.shape[0]))
        names = self.model.config.common.id2label
        return [
            {"score": score, "answer": names.get(place, f"LABEL_{place}")}
            for score, place in zip(scores.tolist(), places.tolist(), strict=True)
        ]


TASKS: Final = (
    Task(
        name="visual-question-answering",
        pipeline=VisualQuestionAnsweringPipeline,
        models=(AutoModelForVisualQuestionAnswering, AutoModelForImageTextToText),
        kind="multimodal",
        aliases=("vqa",),
        inferred=("visual-question-answering",),
    ),
)

__all__ = ["TASKS", "Reply", "VisualQuestionAnsweringPipeline"]
