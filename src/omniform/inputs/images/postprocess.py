"""From DETR's raw outputs to boxes in pixels, and to maps of classes or segments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, TypedDict, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief
from omniform.inputs.checks import fraction
from omniform.inputs.media_access import MAX_PIXELS

TargetSizes: TypeAlias = "Sequence[tuple[int, int]] | Tensor"
"""The size ``(height, width)`` of each picture of the batch, or a tensor ``[N, 2]`` of them."""


class DetectionOutput(Protocol):
    """What a detection model returns: ``logits [N, Q, classes + 1]`` and ``pred_boxes [N, Q, 4]`` (centre, extent)."""

    @property
    def logits(self) -> Tensor | None: ...

    @property
    def pred_boxes(self) -> Tensor | None: ...


class SegmentationOutput(Protocol):
    """What a segmentation model returns: ``logits [N, Q, classes + 1]`` and ``pred_masks [N, Q, h, w]``."""

    @property
    def logits(self) -> Tensor | None: ...

    @property
    def pred_masks(self) -> Tensor | None: ...


class Detections(TypedDict):
    """The objects found in one picture, in the order of the queries.

    ``scores [K]``, ``labels [K]`` and ``boxes [K, 4]`` as ``(left, top, right, bottom)``.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor


class Segment(TypedDict):
    """One segment: its number in the map, its class, whether it stands for several instances, and its score."""

    id: int
    label_id: int
    was_fused: bool
    score: float


class Segmentation(TypedDict):
    """One picture's segments. ``segmentation [H, W]`` holds their ids (0 for none; -1 everywhere where nothing was
    found), or is the list of run lengths of each id in COCO's form."""

    segmentation: Tensor | list[list[int]]
    segments_info: list[Segment]


def object_detection(
    outputs: DetectionOutput, *, threshold: float = 0.5, target_sizes: TargetSizes | None = None
) -> list[Detections]:
    """The objects that are likelier than ``threshold``, each by its likeliest class other than "no object".

    Args:
        outputs: the model's.
        threshold: a probability.
        target_sizes: the pictures' sizes; boxes are in their pixels, and without them in fractions.

    Raises:
        InputError: the outputs lack boxes, or the number of sizes is not that of the pictures.
    """
    logits, boxes = _fields(lambda: (outputs.logits, outputs.pred_boxes), "pred_boxes", 3)
    threshold = fraction("threshold", threshold)
    sizes = _sizes(target_sizes, len(logits))
    scores, labels = logits.softmax(-1)[..., :-1].max(-1)
    x, y, w, h = boxes.unbind(-1)
    corners = torch.stack([x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h], dim=-1)
    if sizes is not None:
        scale = torch.tensor([[width, height, width, height] for height, width in sizes], dtype=torch.float32)
        corners = corners * scale.to(boxes.device)[:, None]
    found: list[Detections] = []
    for score, label, box in zip(scores, labels, corners, strict=True):
        keep = score > threshold
        found.append({"scores": score[keep], "labels": label[keep], "boxes": box[keep]})
    return found


def semantic_segmentation(outputs: SegmentationOutput, *, target_sizes: TargetSizes | None = None) -> list[Batch]:
    """The class of each pixel.

    Args:
        outputs: the model's.
        target_sizes: the pictures' sizes, to which the maps are brought; without them they keep the model's.

    Returns:
        For each picture ``segmentation [H, W]`` and ``segmentation_scores [classes, H, W]``.

    Raises:
        InputError: the outputs lack masks, or the number of sizes is not that of the pictures.
    """
    logits, masks = _fields(lambda: (outputs.logits, outputs.pred_masks), "pred_masks", 4)
    sizes = _sizes(target_sizes, len(logits))
    classes = logits.softmax(dim=-1)[..., :-1]
    scores = torch.einsum("nqc,nqhw->nchw", classes, masks.sigmoid())
    maps = []
    for number, score in enumerate(scores):
        if sizes is not None:
            score = _to_size(score, sizes[number])
        maps.append(Batch({"segmentation": score.argmax(dim=0), "segmentation_scores": score}))
    return maps


def segments(
    outputs: SegmentationOutput,
    *,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    fuse: frozenset[int] = frozenset(),
    target_sizes: TargetSizes | None = None,
) -> list[Segmentation]:
    """The segments of each picture: every pixel goes to the query whose mask, weighed by its score, is strongest.

    Args:
        outputs: the model's.
        threshold: the least probability of a query's class.
        mask_threshold: the weighed probability from which a pixel counts as the query's own.
        overlap_mask_area_threshold: the least share of its own pixels that a segment must win.
        fuse: classes whose instances become one segment (sky, grass).
        target_sizes: the pictures' sizes, to which the maps are brought; without them they keep the model's.

    Raises:
        InputError: the outputs lack masks, or the number of sizes is not that of the pictures.
    """
    logits, masks = _fields(lambda: (outputs.logits, outputs.pred_masks), "pred_masks", 4)
    threshold, mask_threshold = fraction("threshold", threshold), fraction("mask_threshold", mask_threshold)
    overlap_mask_area_threshold = fraction("overlap_mask_area_threshold", overlap_mask_area_threshold)
    sizes = _sizes(target_sizes, len(logits))
    scores, labels = logits.softmax(dim=-1).max(-1)
    keep = labels.ne(logits.shape[-1] - 1) & (scores > threshold)
    results: list[Segmentation] = []
    for number, kept in enumerate(keep):
        probs = masks[number].sigmoid()[kept]
        size = None if sizes is None else sizes[number]
        if not len(probs):
            height, width = probs.shape[1:] if size is None else size
            results.append({"segmentation": torch.zeros(height, width) - 1, "segments_info": []})
            continue
        if size is not None:
            probs = _to_size(probs, size)
        probs = probs * scores[number][kept].view(-1, 1, 1)
        results.append(
            _assign(
                probs, scores[number][kept], labels[number][kept], mask_threshold, overlap_mask_area_threshold, fuse
            )
        )
    return results


def with_run_lengths(found: Segmentation) -> Segmentation:
    """The same with COCO's run lengths in place of the map: for each id, ``[start, length, start, length, ...]``,
    starts counted from 1 in row-major order, as the reference counts them. A map of nothing stays a map."""
    ids = found["segmentation"]
    if not found["segments_info"] and isinstance(ids, Tensor) and ids.is_floating_point():
        return found
    assert isinstance(ids, Tensor)
    return {
        "segmentation": [_run_lengths((ids == one).flatten()) for one in sorted(set(ids.flatten().tolist()))],
        "segments_info": found["segments_info"],
    }


def _assign(
    probs: Tensor, scores: Tensor, labels: Tensor, mask_threshold: float, least_share: float, fuse: frozenset[int]
) -> Segmentation:
    winner = probs.argmax(0)
    ids = torch.zeros(winner.shape, dtype=torch.int32, device=probs.device)
    listed: list[Segment] = []
    fused: dict[int, int] = {}
    current = 0
    for query, (score, label) in enumerate(zip(scores.tolist(), labels.tolist(), strict=True)):
        won = winner == query
        area, own = int(won.sum()), int((probs[query] >= mask_threshold).sum())
        # The reference divides in float32, and so decides the boundary cases.
        if not area or not own or not float(torch.tensor(area) / torch.tensor(own)) > least_share:
            continue
        if label in fused:
            current = fused[label]
        else:
            current += 1
        ids[won] = current
        listed.append({"id": current, "label_id": label, "was_fused": label in fuse, "score": round(score, 6)})
        if label in fuse:
            fused[label] = current
    return {"segmentation": ids, "segments_info": listed}


def _run_lengths(mask: Tensor) -> list[int]:
    edge = torch.zeros(1, dtype=mask.dtype, device=mask.device)
    framed = torch.cat([edge, mask, edge])
    changes = (framed[1:] != framed[:-1]).nonzero().flatten() + 1
    changes[1::2] -= changes[::2]
    return changes.tolist()


def _to_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(
            "the map would be too large", where="target_sizes", expected=f"at most {MAX_PIXELS:,} pixels", found=size
        )
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def _fields(read: Callable[[], tuple[Tensor | None, Tensor | None]], name: str, rank: int) -> tuple[Tensor, Tensor]:
    """A model's logits and its other output of that name, which has so many dimensions."""
    try:
        logits, other = read()
    except Exception as error:  # an object of any class
        raise InputError("these are no outputs of a model", where="outputs", expected=f"logits and {name}") from error
    for value, what, dimensions in ((logits, "logits", 3), (other, name, rank)):
        if not isinstance(value, Tensor):
            raise InputError(f"the model's outputs have no {what}", where="outputs")
        if value.ndim != dimensions:
            raise InputError(
                f"the model's {what} have another shape",
                where="outputs",
                expected=f"{dimensions} dimensions",
                found=list(value.shape),
            )
    return cast("tuple[Tensor, Tensor]", (logits, other))


def _sizes(sizes: object, count: int) -> list[tuple[int, int]] | None:
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
            where="target_sizes",
            expected=f"{count} pairs of lengths in pixels",
            found=brief(sizes),
        )
    return pairs


def _edge(value: object) -> int:
    number = value.item() if isinstance(value, Tensor) else value
    if isinstance(number, (bool, str)) or int(number) != number:  # type: ignore[call-overload]
        raise TypeError
    return int(number)  # type: ignore[call-overload, no-any-return]
