"""Which class a picture belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict, cast

import numpy as np
from torch import Tensor

from omniform.hub.auto import AutoModelForImageClassification
from omniform.pipelines.base import Params
from omniform.pipelines.batching import Inputs
from omniform.pipelines.given import count, one_of, scores_of
from omniform.pipelines.registry import Task
from omniform.pipelines.seeing import Cell, Seeing
from omniform.pipelines.text_classification import ClassificationFunction, class_scores, function_for

if TYPE_CHECKING:
    from PIL.Image import Image

USUAL = 5
"""So many classes are told where nobody says."""


class LabelScore(TypedDict):
    """A class, and how likely it is: from 0 to 1, but for a regression, whose number is given as it is."""

    label: str
    score: float


class ImageClassificationPipeline(Seeing):
    """Tells which class a picture belongs to: a list of :class:`LabelScore`, the likeliest first.

    Options, for the pipeline or for a call, besides those of :class:`~omniform.pipelines.seeing.Seeing`:
        top_k: how many classes to tell (5).
        function_to_apply: ``"sigmoid"``, ``"softmax"``, ``"none"``, or ``"default"``: as the config's ``problem_type``
            and number of labels have it.
    """

    columns = ("label", "score")

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        before = self.reading(given, "top_k", "function_to_apply")
        after: Params = {}
        if given.get("top_k") is not None:
            after["top_k"] = count(given["top_k"], "top_k")
        if given.get("function_to_apply") is not None:
            function = one_of(ClassificationFunction, given["function_to_apply"], "function_to_apply")
            after["function_to_apply"] = function
        return before, {}, after

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The pixels of a picture; arrays go to the processor as they are, whatever their scale."""
        if isinstance(input_, (np.ndarray, Tensor)):
            return self.pixels(input_)
        return self.pixels(self.picture(input_, given))

    def _forward(self, input_tensors: Inputs, **given: object) -> object:
        return self.look(input_tensors)

    def postprocess(self, model_outputs: object, **given: object) -> list[LabelScore]:
        """The classes of one picture, the likeliest first."""
        function = cast("ClassificationFunction | None", given.get("function_to_apply"))
        if function in (None, ClassificationFunction.DEFAULT):
            function = function_for(self.model.config)
        logits_C = scores_of(model_outputs, "BC")[0]  # type: ignore[arg-type]
        scores = class_scores(logits_C, function).tolist()
        found: list[LabelScore] = [{"label": self.name_of(at), "score": score} for at, score in enumerate(scores)]
        found.sort(key=_score, reverse=True)
        return found[: cast(int, given.get("top_k", USUAL))]

    def draw(self, picture: Image, answer: object) -> Image:
        """The picture, and beneath it a bar for each class."""
        from omniform.pipelines.drawing import draw_scores

        return draw_scores(picture, cast("list[LabelScore]", answer), classes=self.classes)

    def rows(self, answer: object) -> list[Mapping[str, Cell]]:
        """A row for each class."""
        return [{"label": one["label"], "score": one["score"]} for one in cast("list[LabelScore]", answer)]


def _score(found: LabelScore) -> float:
    return found["score"]


TASKS = (
    Task(
        name="image-classification",
        pipeline=ImageClassificationPipeline,
        models=(AutoModelForImageClassification,),
        kind="image",
        inferred=("image-classification",),
    ),
)

__all__ = ["TASKS", "ImageClassificationPipeline", "LabelScore"]
