"""Which objects a picture shows, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypedDict, cast, runtime_checkable

from torch import Tensor

from omniform.core.errors import InputError
from omniform.hub.auto import AutoModelForObjectDetection
from omniform.inputs.checks import fraction
from omniform.pipelines.base import Params
from omniform.pipelines.batching import Inputs
from omniform.pipelines.given import tensor
from omniform.pipelines.registry import Task
from omniform.pipelines.seeing import Cell, Seeing, size_of

if TYPE_CHECKING:
    from PIL.Image import Image


class Box(TypedDict):
    """A box in pixels of the picture."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int


class Detected(TypedDict):
    """An object: how likely it is, its class, its box."""

    score: float
    label: str
    box: Box


@runtime_checkable
class Finds(Protocol):
    """A processor that turns a model's outputs into objects."""

    def post_process_object_detection(
        self, outputs: object, threshold: float, target_sizes: Tensor, /
    ) -> Sequence[Mapping[str, Tensor]]: ...


class ObjectDetectionPipeline(Seeing):
    """Finds objects: a list of :class:`Detected` for a picture, boxes in its pixels.

    Options, for the pipeline or for a call, besides those of :class:`~omniform.pipelines.seeing.Seeing`:
        threshold: how likely an object must be to be told (0.5).
    """

    columns = ("label", "score", "xmin", "ymin", "xmax", "ymax")

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        before = self.reading(given, "threshold")
        after: Params = {}
        if given.get("threshold") is not None:
            after["threshold"] = fraction("threshold", cast(float, given["threshold"]))
        return before, {}, after

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The pixels of a picture, and its size."""
        picture = self.picture(input_, given)
        return {**self.pixels(picture), "target_size": size_of(picture)}

    def _forward(self, input_tensors: Inputs, **given: object) -> object:
        return self.look(input_tensors)

    def postprocess(self, model_outputs: object, **given: object) -> list[Detected]:
        """The objects of one picture, in the model's order."""
        if not isinstance(self.image_processor, Finds):
            raise InputError(
                "this processor finds no objects",
                where="post_process_object_detection",
                found=type(self.image_processor).__name__,
            )
        threshold = cast(float, given.get("threshold", 0.5))
        sizes = tensor(model_outputs, "target_size")
        found = self.image_processor.post_process_object_detection(model_outputs, threshold, sizes)[0]
        entries = zip(found["scores"].tolist(), found["labels"].tolist(), found["boxes"], strict=True)
        return [{"score": score, "label": self.name_of(label), "box": box_of(box)} for score, label, box in entries]

    def draw(self, picture: Image, answer: object) -> Image:
        """The picture with a labelled box around each object."""
        from omniform.pipelines.drawing import draw_boxes

        return draw_boxes(picture, cast("list[Detected]", answer), classes=self.classes)

    def rows(self, answer: object) -> list[Mapping[str, Cell]]:
        """A row for each object."""
        return [
            {"label": one["label"], "score": one["score"], **cast("Mapping[str, Cell]", one["box"])}
            for one in cast("list[Detected]", answer)
        ]


def box_of(corners: Tensor) -> Box:
    """Corners as a box in whole pixels. Shape: [4]."""
    left, top, right, bottom = corners.int().tolist()
    return {"xmin": left, "ymin": top, "xmax": right, "ymax": bottom}


TASKS = (
    Task(
        name="object-detection",
        pipeline=ObjectDetectionPipeline,
        models=(AutoModelForObjectDetection,),
        kind="image",
        inferred=("object-detection",),
    ),
)

__all__ = ["TASKS", "Box", "Detected", "ObjectDetectionPipeline"]
