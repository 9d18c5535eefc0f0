"""Processors of detectors that find what is asked for: what OWL-ViT, OWLv2 and Grounding DINO found, read back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, TypedDict

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.inputs.checks import fraction
from omniform.inputs.images.detr import DetectingImageProcessor
from omniform.inputs.images.postprocess import DetectionOutput, Detections, TargetSizes, outputs_of, sizes_of
from omniform.inputs.images.processor import ImageProcessor


class GuidedOutput(Protocol):
    """What a search by pictures returns: ``logits [N, patches, 1]`` and ``target_pred_boxes [N, patches, 4]``."""

    @property
    def logits(self) -> Tensor | None: ...

    @property
    def target_pred_boxes(self) -> Tensor | None: ...


class Alike(TypedDict):
    """What was found in one picture: ``scores [K]``, the best 1, and ``boxes [K, 4]``; ``labels`` is None."""

    scores: Tensor
    labels: None
    boxes: Tensor


class OwlViTImageProcessor(ImageProcessor):
    """OWL-ViT's: pictures squeezed to a square."""

    TO_SQUARE: ClassVar[bool] = False
    """Whether boxes are parts of the square that a picture was filled up to."""

    def post_process_object_detection(
        self, outputs: DetectionOutput, threshold: float = 0.1, target_sizes: TargetSizes | None = None
    ) -> list[Detections]:
        """Patches that are likelier than ``threshold`` to show a query, each with its likeliest.

        Args:
            outputs: the model's.
            threshold: a probability.
            target_sizes: the pictures' sizes; boxes are in their pixels, and without them in fractions.

        Raises:
            InputError: the outputs lack boxes, or the number of sizes is not that of the pictures.
        """
        return likeliest(outputs, threshold, target_sizes, square=self.TO_SQUARE)

    def post_process_image_guided_detection(
        self,
        outputs: GuidedOutput,
        threshold: float = 0.0,
        nms_threshold: float = 0.3,
        target_sizes: TargetSizes | None = None,
    ) -> list[Alike]:
        """Patches that look like what another picture shows; of those that overlap, the best.

        Args:
            outputs: the model's.
            threshold: a probability below which nothing is found.
            nms_threshold: overlap, over both together, from which on the worse of two boxes is left out; 1: none is.
            target_sizes: as for :meth:`post_process_object_detection`.

        Returns:
            For each picture in which anything was found at all.

        Raises:
            InputError: as there.
        """
        read = (lambda: (outputs.logits, outputs.target_pred_boxes), ("logits", 3), ("target_pred_boxes", 3))
        logits, boxes = outputs_of(*read)
        threshold, apart = fraction("threshold", threshold), fraction("nms_threshold", nms_threshold)
        scores, corners = logits.amax(-1).sigmoid(), corners_of(boxes)
        if apart < 1.0:
            scores = torch.stack([suppressed(*pair, apart) for pair in zip(scores, corners, strict=True)])
        corners = scaled(corners, target_sizes, square=self.TO_SQUARE)
        found: list[Alike] = []
        for score, box in zip(scores, corners, strict=True):
            if not bool(score.any()):
                continue
            score = score.where(score >= threshold, 0.0)
            best = score.max() + 1e-6
            shown = ((score - best * 0.1) / (best * 0.9)).clamp(0.0, 1.0)
            found.append({"scores": shown[shown > 0], "labels": None, "boxes": box[shown > 0]})
        return found


class Owlv2ImageProcessor(OwlViTImageProcessor):
    """OWLv2's: pictures filled up to a square below or at the right, blurred as they are made smaller."""

    TO_SQUARE: ClassVar[bool] = True


class GroundingDinoImageProcessor(DetectingImageProcessor):
    """Grounding DINO's: as DETR's."""

    def post_process_object_detection(
        self, outputs: DetectionOutput, threshold: float = 0.1, target_sizes: TargetSizes | None = None
    ) -> list[Detections]:
        """Queries that are likelier than ``threshold`` to show a word; see :func:`likeliest`."""
        return likeliest(outputs, threshold, target_sizes)


def likeliest(
    outputs: DetectionOutput, threshold: float, target_sizes: TargetSizes | None, *, square: bool = False
) -> list[Detections]:
    """Boxes whose best score, on a scale of its own, is above ``threshold``, each with what it is best at.

    Args:
        outputs: the model's.
        threshold: a probability.
        target_sizes: the pictures' sizes; boxes are in their pixels, and without them in fractions.
        square: whether boxes are parts of the square that a picture was filled up to.

    Raises:
        InputError: the outputs lack boxes, or the number of sizes is not that of the pictures.
    """
    logits, boxes = outputs_of(lambda: (outputs.logits, outputs.pred_boxes), ("logits", 3), ("pred_boxes", 3))
    threshold = fraction("threshold", threshold)
    best, labels = logits.max(-1)
    found: list[Detections] = []
    corners = scaled(corners_of(boxes), target_sizes, square=square)
    for score, label, box in zip(best.sigmoid(), labels, corners, strict=True):
        keep = score > threshold
        found.append({"scores": score[keep], "labels": label[keep], "boxes": box[keep]})
    return found


def scaled(corners_BN4: Tensor, target_sizes: TargetSizes | None, *, square: bool = False) -> Tensor:
    """Corners in pixels; see :func:`likeliest`. Shape: [B, N, 4] in and out."""
    sizes = sizes_of(target_sizes, len(corners_BN4))
    if sizes is None:
        return corners_BN4
    if square:
        sizes = [(max(size), max(size)) for size in sizes]
    scale = torch.tensor([[width, height, width, height] for height, width in sizes])
    return corners_BN4 * scale.to(corners_BN4.device)[:, None]


def corners_of(boxes: Tensor) -> Tensor:
    """Boxes by centre and extent as left, top, right and bottom. Shape: [..., 4] in and out."""
    x, y, w, h = boxes.unbind(-1)
    return torch.stack([x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h], dim=-1)


def suppressed(scores_N: Tensor, corners_N4: Tensor, apart: float) -> Tensor:
    """Scores, 0 for boxes that overlap with a better one by more than ``apart``. Shape: [N]."""
    scores_N = scores_N.clone()
    areas = (corners_N4[:, 2:] - corners_N4[:, :2]).prod(-1)
    order: Sequence[int] = (-scores_N).argsort().tolist()
    for i in order:
        if not bool(scores_N[i]):
            continue
        low = torch.maximum(corners_N4[i, :2], corners_N4[:, :2])
        high = torch.minimum(corners_N4[i, 2:], corners_N4[:, 2:])
        shared = (high - low).clamp(min=0).prod(-1)
        over = shared / (areas[i] + areas - shared)
        over[i] = -1.0
        scores_N[over > apart] = 0.0
    return scores_N


def labelled(found: Sequence[Detections], text_labels: Sequence[Sequence[str]] | None) -> list[dict[str, object]]:
    """What was found, with the texts that it was found by.

    Args:
        text_labels: the queries of each picture.

    Raises:
        InputError: not one list for each picture.
    """
    if text_labels is None:
        return [{**one, "text_labels": None} for one in found]
    if len(text_labels) != len(found):
        raise InputError(
            "there must be one list of texts for each picture",
            where="text_labels",
            expected=len(found),
            found=len(text_labels),
        )
    pairs = zip(found, text_labels, strict=True)
    return [{**one, "text_labels": [texts[i] for i in one["labels"].tolist()]} for one, texts in pairs]
