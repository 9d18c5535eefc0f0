"""Which class a sound belongs to."""

from __future__ import annotations

from typing import cast

from omniform.core.batch import Batch
from omniform.core.errors import check_arguments
from omniform.hub.auto import AutoModelForAudioClassification
from omniform.pipelines.base import Params
from omniform.pipelines.batching import Inputs
from omniform.pipelines.given import count, one_of, scores_of
from omniform.pipelines.hearing import READING, Hearing
from omniform.pipelines.image_classification import LabelScore
from omniform.pipelines.registry import Task
from omniform.pipelines.video_classification import Function, best_classes


class AudioClassificationPipeline(Hearing):
    """Tells which class a sound belongs to: a list of :class:`LabelScore`, the likeliest first.

    Options, for the pipeline or for a call, besides those of :class:`~omniform.pipelines.hearing.Hearing`:
        top_k: how many classes to tell; all of them where nobody says.
        function_to_apply: ``"sigmoid"``, ``"softmax"`` or ``"none"``; as the config's ``problem_type`` has it.
    """

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        check_arguments(type(self).__name__, given, (*READING, "top_k", "function_to_apply"))
        after: Params = {}
        if "top_k" in given:
            top = given["top_k"]
            after["top_k"] = None if top is None else count(top, "top_k")
        if given.get("function_to_apply") is not None:
            after["function"] = one_of(Function, given["function_to_apply"], "function_to_apply")
        return self.reading(given), {}, after

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The features of a sound."""
        return self.features(self.wave(input_, given))

    def _forward(self, input_tensors: Inputs, **given: object) -> object:
        return Batch({"logits": self.model(**input_tensors)["logits"]})

    def postprocess(self, model_outputs: object, **given: object) -> list[LabelScore]:
        """The classes of one sound, the likeliest first."""
        logits_C = scores_of(model_outputs, "BC")[0]  # type: ignore[arg-type]
        top = cast("int | None", given.get("top_k"))
        function = cast("Function | None", given.get("function"))
        return best_classes(logits_C, self.model.config, function, len(logits_C) if top is None else top)


TASKS = (
    Task(
        name="audio-classification",
        pipeline=AudioClassificationPipeline,
        models=(AutoModelForAudioClassification,),
        kind="audio",
        inferred=("audio-classification",),
    ),
)

__all__ = ["TASKS", "AudioClassificationPipeline"]
