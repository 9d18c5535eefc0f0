"""Which class a video belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import cast

from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.config import ModelConfig
from omniform.core.errors import InputError, check_arguments
from omniform.hub.auto import AutoModelForVideoClassification
from omniform.inputs.images.base import ImageProcessingMixin
from omniform.inputs.media_access import MediaAccess, checked_access
from omniform.inputs.videos import BaseVideoProcessor, VideoProcessor
from omniform.inputs.videos.load import read_frames
from omniform.inputs.videos.sampling import even
from omniform.pipelines.base import Params, Pipeline
from omniform.pipelines.batching import Inputs
from omniform.pipelines.given import count, one_of, scores_of
from omniform.pipelines.image_classification import USUAL, LabelScore
from omniform.pipelines.registry import Task


class Function(StrEnum):
    """What scores are made of a model's numbers."""

    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"
    NONE = "none"


class VideoClassificationPipeline(Pipeline):
    """Tells which class a video belongs to: a list of :class:`LabelScore`, the likeliest first.

    A video is whatever :func:`~omniform.inputs.videos.load.load_video` reads. A video processor takes the frames at
    even distances from all of the video; an image processor, where the pipeline has no other, from its beginning.

    Options, for the pipeline or for a call:
        num_frames: how many frames to take; as many as the config says (``num_frames``).
        frame_sampling_rate: with an image processor, every how many-th frame to take (1).
        top_k: how many classes to tell (5).
        function_to_apply: ``"sigmoid"``, ``"softmax"`` or ``"none"``; as the config's ``problem_type`` has it.
        timeout: seconds that a download may take.
        media_access: which files and addresses may be read, and how many frames and pixels.
    """

    _load_tokenizer = _load_feature_extractor = _load_processor = False
    _load_image_processor = _load_video_processor = None

    window = 4

    def __call__(self, inputs: object = None, *args: object, **given: object) -> object:
        """Answer for one video or several, as :meth:`Pipeline.__call__` has it; ``videos`` is another name.

        Raises:
            InputError: there is no video, or it cannot be read.
        """
        inputs = given.pop("videos", None) if inputs is None else inputs
        if inputs is None:
            raise InputError("there is no video", where=self.task or type(self).__name__, expected="at least one")
        return super().__call__(inputs, *args, **given)  # type: ignore[arg-type]

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        before, after = ("num_frames", "frame_sampling_rate"), ("top_k", "function_to_apply")
        check_arguments(type(self).__name__, given, (*before, *after, "timeout", "media_access"))
        reading: Params = {name: count(given[name], name) for name in before if given.get(name) is not None}
        access = checked_access(given.get("media_access"))
        if given.get("timeout") is not None:
            access = replace(access, timeout=cast(float, given["timeout"]))
        if given.get("media_access") is not None or given.get("timeout") is not None:
            reading["access"] = access
        telling: Params = {}
        if given.get("top_k") is not None:
            telling["top_k"] = count(given["top_k"], "top_k")
        if given.get("function_to_apply") is not None:
            telling["function"] = one_of(Function, given["function_to_apply"], "function_to_apply")
        return reading, {}, telling

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The pixels of some frames of a video."""
        access = cast("MediaAccess | None", given.get("access"))
        frames = cast("int | None", given.get("num_frames", self.model.config.num_frames))
        if frames is None:
            raise InputError("nobody says how many frames to take", where="num_frames", expected="a number")
        if isinstance(self.video_processor, BaseVideoProcessor):
            more = {"media_access": access} if isinstance(self.video_processor, VideoProcessor) else {}
            options = {"num_frames": frames, "do_sample_frames": True, **more}
            return self.video_processor(input_, return_tensors="pt", **options).to(self.dtype)
        if not isinstance(self.image_processor, ImageProcessingMixin):
            raise InputError(
                "the pipeline has neither a video processor nor an image processor",
                where="video_processor",
                remedy="Pass one beside the model.",
            )
        chosen = even(frames, cast(int, given.get("frame_sampling_rate", 1)))
        pixels, _ = read_frames(input_, checked_access(access), "video", sample=chosen, channels="rgb")
        return self.image_processor(list(pixels), return_tensors="pt").to(self.dtype)

    def _forward(self, input_tensors: Inputs, **given: object) -> object:
        return Batch({"logits": self.model(**input_tensors)["logits"]})

    def postprocess(self, model_outputs: object, **given: object) -> list[LabelScore]:
        """The classes of one video, the likeliest first."""
        logits_C = scores_of(model_outputs, "BC")[0]  # type: ignore[arg-type]
        function = cast("Function | None", given.get("function"))
        return best_classes(logits_C, self.model.config, function, cast(int, given.get("top_k", USUAL)))


def best_classes(logits_C: Tensor, config: ModelConfig, function: Function | None, count: int) -> list[LabelScore]:
    """So many classes at most, the likeliest first.

    Args:
        logits_C: what a model says of each class. Shape: [C].
        config: its config: names of classes, and by ``problem_type`` what is done where nobody says.
        function: what is done with the numbers.
    """
    scores_C = _scores(logits_C, function or usual_function(config))
    best, places = scores_C.topk(min(count, len(scores_C)))
    names: Mapping[int, str] = config.common.id2label
    return [
        {"score": score, "label": names.get(place, f"LABEL_{place}")}
        for score, place in zip(best.tolist(), places.tolist(), strict=True)
    ]


def usual_function(config: ModelConfig) -> Function:
    """What is done with a model's numbers where nobody says, by the config's ``problem_type``."""
    problem = config.common.problem_type
    if problem == "regression":
        return Function.NONE
    return Function.SIGMOID if problem == "multi_label_classification" else Function.SOFTMAX


def _scores(logits_C: Tensor, function: Function) -> Tensor:
    if function is Function.NONE:
        return logits_C
    return logits_C.sigmoid() if function is Function.SIGMOID else logits_C.softmax(dim=-1)


TASKS = (
    Task(
        name="video-classification",
        pipeline=VideoClassificationPipeline,
        models=(AutoModelForVideoClassification,),
        kind="video",
        inferred=("video-classification",),
    ),
)

__all__ = ["TASKS", "VideoClassificationPipeline"]
