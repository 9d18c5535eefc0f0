"""From detectors' raw outputs to boxes in pixels of the pictures; and what all readers of outputs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Protocol, TypeAlias, TypedDict, cast

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.inputs.checks import check_flag, fraction

TargetSizes: TypeAlias = "Sequence[tuple[int, int]] | Tensor"
"""The size ``(height, width)`` of each picture of the batch, or a tensor ``[N, 2]`` of them."""


class DetectionOutput(Protocol):
    """What a detection model returns: ``logits [N, Q, classes]`` and ``pred_boxes [N, Q, 4]`` (centre, extent).

    Models that learn with a softmax have one more class, "no object", at the end.
    """

    @property
    def logits(self) -> Tensor | None: ...

    @property
    def pred_boxes(self) -> Tensor | None: ...


class Detections(TypedDict):
    """The objects found in one picture.

    ``scores [K]``, ``labels [K]`` and ``boxes [K, 4]`` as ``(left, top, right, bottom)``.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor


def object_detection(
    outputs: DetectionOutput, *, threshold: float = 0.5, target_sizes: TargetSizes | None = None
) -> list[Detections]:
    """The objects that are likelier than ``threshold``, each by its likeliest class other than "no object".

    Args:
        outputs: the model's.
        threshold: a probability.
        target_sizes: the pictures' sizes; boxes are in their pixels, and without them in fractions.

    Returns:
        For each picture its objects, in the order of the queries.

    Raises:
        InputError: the outputs lack boxes, or the number of sizes is not that of the pictures.
    """
    logits, boxes = _detected(outputs)
    threshold = fraction("threshold", threshold)
    scores, labels = logits.softmax(-1)[..., :-1].max(-1)
    return _kept(scores, labels, _corners(boxes, target_sizes), threshold)


def best_detections(
    outputs: DetectionOutput, *, threshold: float = 0.5, target_sizes: TargetSizes | None = None, top_k: int = 100
) -> list[Detections]:
    """The objects of models that learn each class for itself (a sigmoid): the best pairs of query and class.

    Args:
        outputs, threshold, target_sizes: as for :func:`object_detection`.
        top_k: how many pairs are looked at in each picture.

    Returns:
        For each picture its objects, best first. One box may appear with several classes.

    Raises:
        InputError: as for :func:`object_detection`; or ``top_k`` is no number.
    """
    logits, boxes = _detected(outputs)
    threshold = fraction("threshold", threshold)
    if isinstance(top_k, bool) or not isinstance(top_k, Integral) or top_k < 1:
        raise InputError(
            "this is no number of boxes", where="top_k", expected="a whole number >= 1", found=brief(top_k)
        )
    return _best(logits.sigmoid(), _corners(boxes, target_sizes), threshold, int(top_k))


def query_detections(
    outputs: DetectionOutput,
    *,
    threshold: float = 0.5,
    target_sizes: TargetSizes | None = None,
    use_focal_loss: bool = True,
) -> list[Detections]:
    """RT-DETR's: as :func:`best_detections` with as many pairs as queries; or with a softmax.

    Args:
        outputs, threshold, target_sizes: as for :func:`object_detection`.
        use_focal_loss: whether the model learnt each class for itself; else as :func:`object_detection`.

    Raises:
        InputError: as for :func:`object_detection`.
    """
    check_flag("use_focal_loss", use_focal_loss)
    if not use_focal_loss:
        return object_detection(outputs, threshold=threshold, target_sizes=target_sizes)
    return best_detections(
        outputs, threshold=threshold, target_sizes=target_sizes, top_k=max(_detected(outputs)[0].shape[1], 1)
    )


def _best(scores: Tensor, corners: Tensor, threshold: float, most: int) -> list[Detections]:
    classes = scores.shape[-1]
    best, places = scores.flatten(1).topk(min(most, scores[0].numel()), dim=1)
    boxes = corners.gather(1, places.div(classes, rounding_mode="floor").unsqueeze(-1).expand(-1, -1, 4))
    return _kept(best, places % classes, boxes, threshold)


def _kept(scores: Tensor, labels: Tensor, boxes: Tensor, threshold: float) -> list[Detections]:
    found: list[Detections] = []
    for score, label, box in zip(scores, labels, boxes, strict=True):
        keep = score > threshold
        found.append({"scores": score[keep], "labels": label[keep], "boxes": box[keep]})
    return found


def _corners(boxes: Tensor, target_sizes: TargetSizes | None) -> Tensor:
    sizes = sizes_of(target_sizes, len(boxes))
    x, y, w, h = boxes.unbind(-1)
    corners = torch.stack([x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h], dim=-1)
    if sizes is None:
        return corners
    scale = torch.tensor([[width, height, width, height] for height, width in sizes], dtype=torch.float32)
    return corners * scale.to(boxes.device)[:, None]


def _detected(outputs: DetectionOutput) -> tuple[Tensor, Tensor]:
    return outputs_of(lambda: (outputs.logits, outputs.pred_boxes), ("logits", 3), ("pred_boxes", 3))


def outputs_of(
    read: Callable[[], tuple[Tensor | None, Tensor | None]], first: tuple[str, int], second: tuple[str, int]
) -> tuple[Tensor, Tensor]:
    """Two of a model's outputs.

    Args:
        read: takes them.
        first, second: what they are called, and how many dimensions they have.

    Raises:
        InputError: the object has none such.
    """
    try:
        values = read()
    except Exception as error:  # an object of any class
        raise InputError(
            "these are no outputs of a model", where="outputs", expected=f"{first[0]} and {second[0]}"
        ) from error
    for value, (name, dimensions) in zip(values, (first, second), strict=True):
        if not isinstance(value, Tensor):
            raise InputError(f"the model's outputs have no {name}", where="outputs")
        if value.ndim != dimensions:
            raise InputError(
                f"the model's {name} have another shape",
                where="outputs",
                expected=f"{dimensions} dimensions",
                found=list(value.shape),
            )
    one, other = cast("tuple[Tensor, Tensor]", values)
    if len(one) != len(other):
        raise InputError(
            "the model's outputs are of batches of different sizes", where="outputs", found=f"{len(one)}, {len(other)}"
        )
    return one, other


def sizes_of(sizes: object, count: int, where: str = "target_sizes") -> list[tuple[int, int]] | None:
    """The sizes of a batch's pictures, as pairs; None for None.

    Args:
        sizes: a list of pairs of whole numbers, an array, or a tensor.
        count: how many pictures there are.

    Raises:
        InputError: they are none, or of another number.
    """
    if sizes is None:
        return None
    try:
        # A tensor or an array, or a list of pairs of anything that is a whole number.
        listed = [tuple(_edge(edge) for edge in size) for size in sizes]  # type: ignore[attr-defined]
    except Exception:  # objects of any class
        listed = []
    pairs = [(size[0], size[1]) for size in listed if len(size) == 2 and min(size) > 0]
    if len(pairs) != count or len(listed) != count:
        raise InputError(
            "there must be one target size (height, width) for each picture",
            where=where,
            expected=f"{count} pairs of lengths in pixels",
            found=brief(sizes),
        )
    return pairs


def _edge(value: object) -> int:
    number = value.item() if isinstance(value, Tensor) else value
    if isinstance(number, (bool, str)) or int(number) != number:  # type: ignore[call-overload]
        raise TypeError
    return int(number)  # type: ignore[call-overload, no-any-return]
