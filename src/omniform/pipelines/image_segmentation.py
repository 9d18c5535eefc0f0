"""Which pixels of a picture belong to what: classes, objects, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypedDict, cast, runtime_checkable

import numpy as np
from torch import Tensor

from omniform.core.errors import InputError
from omniform.hub.auto import (
    AutoModelForImageSegmentation,
    AutoModelForInstanceSegmentation,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
)
from omniform.inputs.checks import fraction
from omniform.pipelines.base import Params
from omniform.pipelines.batching import Inputs
from omniform.pipelines.given import needed, one_of, tensor
from omniform.pipelines.registry import Task
from omniform.pipelines.seeing import Cell, Seeing, size_of

if TYPE_CHECKING:
    from PIL.Image import Image


class Subtask(StrEnum):
    """What is told apart: classes, objects, or both."""

    SEMANTIC = "semantic"
    INSTANCE = "instance"
    PANOPTIC = "panoptic"


class Segmented(TypedDict):
    """A segment: how likely it is (None of a class's pixels), its class, and its pixels: 255 in a picture of mode L."""

    score: float | None
    label: str
    mask: Image


class Segments(TypedDict):
    """What a processor tells of one picture: a map of ids, [H, W], and what each id is."""

    segmentation: Tensor
    segments_info: list[Mapping[str, object]]


@runtime_checkable
class Panoptic(Protocol):
    """A processor that tells classes and objects."""

    def post_process_panoptic_segmentation(
        self,
        outputs: object,
        *,
        threshold: float,
        mask_threshold: float,
        overlap_mask_area_threshold: float,
        target_sizes: object,
    ) -> Sequence[Segments]: ...


@runtime_checkable
class Instances(Protocol):
    """A processor that tells objects."""

    def post_process_instance_segmentation(
        self,
        outputs: object,
        *,
        threshold: float,
        mask_threshold: float,
        overlap_mask_area_threshold: float,
        target_sizes: object,
    ) -> Sequence[Segments]: ...


@runtime_checkable
class Semantic(Protocol):
    """A processor that tells the class of each pixel."""

    def post_process_semantic_segmentation(self, outputs: object, target_sizes: object, /) -> Sequence[Tensor]: ...


THRESHOLDS: Mapping[str, float] = {"threshold": 0.9, "mask_threshold": 0.5, "overlap_mask_area_threshold": 0.5}
"""The thresholds of the subtasks with objects, and what they are where nobody says."""


class ImageSegmentationPipeline(Seeing):
    """Tells which pixels belong to what: a list of :class:`Segmented`, masks of the picture's size.

    Options, for the pipeline or for a call, besides those of :class:`~omniform.pipelines.seeing.Seeing`:
        subtask: ``"semantic"``, ``"instance"`` or ``"panoptic"``; by default the last of them that the model does.
        threshold: how likely a segment must be to be told (0.9).
        mask_threshold: how likely a pixel must be to be counted as a segment's own (0.5).
        overlap_mask_area_threshold: the share of its own pixels that a segment must win (0.5).
    """

    columns = ("label", "score", "share", "xmin", "ymin", "xmax", "ymax")

    _load_tokenizer = None  # models that read the subtask as a text

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        before = self.reading(given, "subtask", *THRESHOLDS)
        after: Params = {
            name: fraction(name, cast(float, given[name])) for name in THRESHOLDS if given.get(name) is not None
        }
        if given.get("subtask") is not None:
            before["subtask"] = after["subtask"] = one_of(Subtask, given["subtask"], "subtask")
        return before, {}, after

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The pixels of a picture and its size, and the subtask in words for models that read it."""
        picture = self.picture(input_, given)
        inputs: Params = {**self.pixels(picture), "target_size": size_of(picture)}
        if "task_inputs" not in self.model.accepts():
            return inputs
        subtask = cast(Subtask, given.get("subtask", Subtask.PANOPTIC))
        length = self.model.config.get("task_seq_len")
        words = needed(self.tokenizer)(
            [f"the task is {subtask.value}"], padding="max_length", max_length=cast(int, length), return_tensors="pt"
        )
        return {**inputs, "task_inputs": words.tensor("input_ids")}

    def _forward(self, input_tensors: Inputs, **given: object) -> object:
        return self.look(input_tensors)

    def postprocess(self, model_outputs: object, **given: object) -> list[Segmented]:
        """The segments of one picture."""
        asked, processor = cast("Subtask | None", given.get("subtask")), self.image_processor
        sizes = tensor(model_outputs, "target_size")
        kept = {name: cast(float, given.get(name, usual)) for name, usual in THRESHOLDS.items()}
        if asked in (None, Subtask.PANOPTIC) and isinstance(processor, Panoptic):
            return self._listed(
                processor.post_process_panoptic_segmentation(model_outputs, **kept, target_sizes=sizes)[0]
            )
        if asked in (None, Subtask.INSTANCE) and isinstance(processor, Instances):
            return self._listed(
                processor.post_process_instance_segmentation(model_outputs, **kept, target_sizes=sizes)[0]
            )
        if asked in (None, Subtask.SEMANTIC) and isinstance(processor, Semantic):
            classes_HW = processor.post_process_semantic_segmentation(model_outputs, sizes)[0]
            present = classes_HW.unique().tolist()
            return [_segment(None, self.name_of(int(one)), classes_HW == one) for one in present]
        raise InputError(
            "the model does not do this",
            where="subtask",
            expected="one that its processor knows",
            found=f"{asked} of a {type(processor).__name__}",
        )

    def _listed(self, found: Segments) -> list[Segmented]:
        ids_HW = found["segmentation"]
        return [
            _segment(
                cast(float, one["score"]), self.name_of(cast(int, one["label_id"])), ids_HW == cast(int, one["id"])
            )
            for one in found["segments_info"]
        ]

    def draw(self, picture: Image, answer: object) -> Image:
        """The picture with coloured segments, and beneath it what each colour is."""
        from omniform.pipelines.drawing import draw_masks

        return draw_masks(picture, cast("list[Segmented]", answer), classes=self.classes)

    def rows(self, answer: object) -> list[Mapping[str, Cell]]:
        """A row for each segment: its share of the picture, and the box around it."""
        rows: list[Mapping[str, Cell]] = []
        for one in cast("list[Segmented]", answer):
            left, top, right, bottom = one["mask"].getbbox() or (0, 0, 0, 0)
            row: dict[str, Cell] = {"label": one["label"], "score": one["score"], "share": share_of(one["mask"])}
            rows.append({**row, "xmin": left, "ymin": top, "xmax": right, "ymax": bottom})
        return rows

    def plain(self, answer: object) -> object:
        """Masks as COCO's run lengths: columns one after the other, zeros first."""
        return [{**one, "mask": run_lengths(one["mask"])} for one in cast("list[Segmented]", answer)]


def _segment(score: float | None, label: str, mask_HW: Tensor) -> Segmented:
    from PIL import Image

    return {"score": score, "label": label, "mask": Image.fromarray(mask_HW.numpy().astype(np.uint8) * 255)}


def share_of(mask: Image) -> float:
    """How much of the picture a mask covers: 0 to 1."""
    return sum(mask.histogram()[1:]) / (mask.width * mask.height)


def run_lengths(mask: Image) -> dict[str, list[int]]:
    """A mask in COCO's uncompressed form: ``size`` (height, width) and the lengths of runs, zeros first."""
    flat = (np.asarray(mask) > 0).T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(edges).tolist()
    return {"size": [mask.height, mask.width], "counts": [0, *counts] if flat[0] else counts}


TASKS = (
    Task(
        name="image-segmentation",
        pipeline=ImageSegmentationPipeline,
        models=(
            AutoModelForImageSegmentation,
            AutoModelForSemanticSegmentation,
            AutoModelForInstanceSegmentation,
            AutoModelForUniversalSegmentation,
        ),
        kind="image",
        inferred=(
            "image-segmentation",
            "semantic-segmentation",
            "instance-segmentation",
            "universal-segmentation",
        ),
    ),
)

__all__ = ["TASKS", "ImageSegmentationPipeline", "Segmented", "Subtask"]
