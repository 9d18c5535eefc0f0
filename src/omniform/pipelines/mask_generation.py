"""Masks of everything that a picture shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NotRequired, Protocol, TypedDict, cast, runtime_checkable

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief
from omniform.hub.auto import AutoModelForMaskGeneration
from omniform.inputs.images.automatic_masks import Crops, RunLengths
from omniform.pipelines.base import Params
from omniform.pipelines.batching import BatchSize, Inputs
from omniform.pipelines.registry import Task
from omniform.pipelines.running import Failure, Run
from omniform.pipelines.seeing import Cell, Seeing, size_of

if TYPE_CHECKING:
    from PIL.Image import Image


class Found(TypedDict):
    """All masks, the best first: of true and false, [H, W] each, and how much each is expected to overlap with the
    right one; if asked for, the masks as lengths of runs and the boxes around them."""

    masks: list[Tensor]
    scores: Tensor
    rle_mask: NotRequired[list[RunLengths]]
    bounding_boxes: NotRequired[Tensor]


@runtime_checkable
class Cuts(Protocol):
    """A processor that cuts pictures, points into them, and keeps good masks."""

    @property
    def size(self) -> Mapping[str, int] | None: ...

    def generate_crop_boxes(
        self, image: object, target: int, layers: int, overlap: float, points: int, downscale: float, /
    ) -> Crops: ...

    def post_process_masks(self, masks: Tensor, sizes: object, **options: object) -> list[Tensor]: ...

    def filter_masks(
        self, masks: Tensor, scores: Tensor, size: Sequence[int], crop: Tensor, /, *thresholds: float
    ) -> tuple[list[RunLengths], Tensor, Tensor]: ...

    def post_process_for_mask_generation(
        self, masks: Sequence[RunLengths], scores: Tensor, boxes: Tensor, threshold: float, /
    ) -> tuple[list[Tensor], Tensor, list[RunLengths], Tensor]: ...


@runtime_checkable
class Embeds(Protocol):
    """A model that looks at a picture once, however often it is asked about it."""

    def get_image_embeddings(self, pixel_values: Tensor, /) -> Tensor | list[Tensor]: ...


CUTTING: Mapping[str, float] = {
    "crops_n_layers": 0,
    "crop_overlap_ratio": 512 / 1500,
    "points_per_crop": 32,
    "crop_n_points_downscale_factor": 1,
}
"""How a picture is cut and pointed into; see :func:`~omniform.inputs.images.automatic_masks.crops_of`."""

KEEPING: Mapping[str, float] = {
    "pred_iou_thresh": 0.88,
    "stability_score_thresh": 0.95,
    "mask_threshold": 0,
    "stability_score_offset": 1,
}
"""Which masks are kept."""

AREAS = ("max_hole_area", "max_sprinkle_area")
TELLING = ("output_rle_mask", "output_bboxes_mask")


class MaskGenerationPipeline(Seeing):
    """Finds everything that can be cut out of a picture: a :class:`Found`.

    Options, for the pipeline or for a call, besides those of :class:`~omniform.pipelines.seeing.Seeing`:
        points_per_batch: how many points the model is asked about at once (64); None for all of them.
        crops_n_layers: how often the picture is cut into four times as many crops (0).
        crop_overlap_ratio: how much of the shorter edge neighbours share in the first layer (512 / 1500).
        points_per_crop: points below one another in a crop, and beside one another (32).
        crop_n_points_downscale_factor: by how much there are fewer of them from layer to layer (1).
        pred_iou_thresh: how good a mask must be by the model's own word (0.88).
        stability_score_thresh: which part of a mask must stay where its threshold moves (0.95).
        stability_score_offset: by how much it is moved (1).
        mask_threshold: pixels of higher scores are inside (0).
        max_hole_area, max_sprinkle_area: nothing, as in the ecosystem.
        crops_nms_thresh: the overlap of boxes from which on the lesser mask is left out (0.7).
        output_rle_mask: tell the masks as lengths of runs too.
        output_bboxes_mask: tell the boxes around them.
    """

    columns = ("score", "share", "xmin", "ymin", "xmax", "ymax")

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        names = ("points_per_batch", *CUTTING, *KEEPING, *AREAS, *TELLING, "crops_nms_thresh")
        before = self.reading(given, *names)
        if "points_per_batch" in given:
            before["points_per_batch"] = _batch(given["points_per_batch"])
        before |= {name: _number(name, given[name]) for name in CUTTING if given.get(name) is not None}
        during: Params = {name: _number(name, given[name]) for name in KEEPING if given.get(name) is not None}
        after: Params = {name: given[name] is True for name in TELLING if given.get(name) is not None}
        if given.get("crops_nms_thresh") is not None:
            after["crops_nms_thresh"] = _number("crops_nms_thresh", given["crops_nms_thresh"])
        return before, during, after

    @property
    def cutter(self) -> Cuts:
        """The processor.

        Raises:
            InputError: it cuts no pictures.
        """
        if not isinstance(self.image_processor, Cuts):
            raise InputError(
                "this processor cuts no pictures",
                where="generate_crop_boxes",
                found=type(self.image_processor).__name__,
            )
        return self.image_processor

    def compute(self, chunks: Sequence[Inputs], size: BatchSize, run: Run) -> list[object | Failure]:
        """What the model makes of each picture; its points are what goes through it together."""
        return super().compute(chunks, 1, run)

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The pixels of a picture and its crops, and the points in each."""
        picture, how = self.picture(input_, given), {**CUTTING, **given}
        size = self.cutter.size or {}
        target = size.get("longest_edge", size.get("height"))
        if target is None:
            raise InputError("nobody knows how large the model's pictures are", where="size", found=brief(size))
        crops = self.cutter.generate_crop_boxes(
            picture,
            target,
            int(cast(float, how["crops_n_layers"])),
            cast(float, how["crop_overlap_ratio"]),
            int(cast(float, how["points_per_crop"])),
            cast(float, how["crop_n_points_downscale_factor"]),
        )
        assert callable(self.image_processor)
        read = self.image_processor(images=crops.pictures, return_tensors="pt").to(self.dtype)
        count = crops.points.shape[1]
        batch = cast("int | None", given.get("points_per_batch", 64))
        return {
            **read,
            "points": crops.points.to(self.dtype),
            "labels": crops.labels,
            "boxes": crops.boxes,
            "full_size": size_of(picture),
            "points_per_batch": torch.tensor(count if batch is None else batch),
        }

    def _forward(self, input_tensors: Inputs, **given: object) -> object:
        inputs = cast("Mapping[str, Tensor]", input_tensors)
        if not isinstance(self.model, Embeds):
            raise InputError("this model cuts nothing out", where="model", found=type(self.model).__name__)
        keeping = [cast(float, given.get(name, usual)) for name, usual in KEEPING.items()]
        runs: list[RunLengths] = []
        scores, boxes = [], []
        points, each = inputs["points"], int(inputs["points_per_batch"])
        for crop in range(len(inputs["pixel_values"])):
            seen = self.model.get_image_embeddings(inputs["pixel_values"][crop : crop + 1])
            told = {n: inputs[n][crop : crop + 1].tolist() for n in SIZES if n in inputs}
            for start in range(0, points.shape[1], each):
                part = (slice(None), slice(start, start + each), slice(crop, crop + 1))
                out = self.model(input_points=points[part], input_labels=inputs["labels"][part], image_embeddings=seen)
                masks, sizes = cast(Tensor, out["pred_masks"]), told["original_sizes"]
                more = {name: size for name, size in told.items() if name != "original_sizes"}
                whole = self.cutter.post_process_masks(masks, sizes, mask_threshold=keeping[2], binarize=False, **more)
                kept = self.cutter.filter_masks(
                    whole[0],
                    cast(Tensor, out["iou_scores"])[0],
                    inputs["full_size"][0].tolist(),
                    inputs["boxes"][crop],
                    *keeping,
                )
                runs += kept[0]
                scores.append(kept[1])
                boxes.append(kept[2])
        return Batch({"runs": runs, "scores": torch.cat(scores), "boxes": torch.cat(boxes)})

    def postprocess(self, model_outputs: object, **given: object) -> Found:
        """The masks that no better one covers."""
        out = cast(Batch, model_outputs)
        threshold = cast(float, given.get("crops_nms_thresh", 0.7))
        masks, scores, runs, boxes = self.cutter.post_process_for_mask_generation(
            cast("list[RunLengths]", out["runs"]), cast(Tensor, out["scores"]), cast(Tensor, out["boxes"]), threshold
        )
        found: Found = {"masks": masks, "scores": scores}
        if given.get("output_rle_mask"):
            found["rle_mask"] = runs
        if given.get("output_bboxes_mask"):
            found["bounding_boxes"] = boxes
        return found

    def draw(self, picture: Image, answer: object) -> Image:
        """The picture with a colour for each mask, and beneath it how good each is."""
        from PIL import Image as Pictures

        from omniform.pipelines.drawing import draw_masks

        found = cast(Found, answer)
        named = [
            {"score": score, "label": f"mask {number + 1}", "mask": Pictures.fromarray(mask.cpu().numpy())}
            for number, (mask, score) in enumerate(zip(found["masks"], found["scores"].tolist(), strict=True))
        ]
        return draw_masks(picture, named)

    def rows(self, answer: object) -> list[Mapping[str, Cell]]:
        """A row for each mask: its share of the picture, and the box around it."""
        found, rows = cast(Found, answer), []
        for mask, score in zip(found["masks"], found["scores"].tolist(), strict=True):
            below, beside = mask.any(1).nonzero().flatten().tolist(), mask.any(0).nonzero().flatten().tolist()
            box = (beside[0], below[0], beside[-1] + 1, below[-1] + 1) if below else (0, 0, 0, 0)
            edges = zip(self.columns[2:], box, strict=True)
            rows.append({"score": score, "share": mask.float().mean().item(), **dict(edges)})
        return cast("list[Mapping[str, Cell]]", rows)

    def plain(self, answer: object) -> object:
        """Masks as COCO's run lengths: columns one after the other, zeros first."""
        from omniform.inputs.images.automatic_masks import run_lengths

        found = cast(Found, answer)
        pairs = zip(found["masks"], found["scores"].tolist(), strict=True)
        return [{"score": score, "mask": run_lengths(mask)} for mask, score in pairs]


SIZES = ("original_sizes", "reshaped_input_sizes")


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError("no number", where=name, found=brief(value))
    return value


def _batch(value: object) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError(
            "no number of points", where="points_per_batch", expected="1 or more, or None for all", found=brief(value)
        )
    return value


TASKS = (
    Task(
        name="mask-generation",
        pipeline=MaskGenerationPipeline,
        models=(AutoModelForMaskGeneration,),
        kind="multimodal",
        inferred=("mask-generation",),
    ),
)

__all__ = ["TASKS", "Found", "MaskGenerationPipeline"]
