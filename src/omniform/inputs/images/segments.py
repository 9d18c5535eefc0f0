"""From the raw outputs of models that segment to maps of classes or of segments, in pixels of the pictures.

Models with queries give each query a class and a mask; there is one more class, "no object", at the end. Their outputs
have one of two pairs of names (``logits`` and ``pred_masks``, ``class_queries_logits`` and ``masks_queries_logits``),
so what is here takes the two tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.checks import fraction
from omniform.inputs.images.ops import alone
from omniform.inputs.images.postprocess import TargetSizes, outputs_of, sizes_of
from omniform.inputs.media_access import MAX_PIXELS


class SemanticOutput(Protocol):
    """What a model that names every pixel returns: ``logits [N, classes, h, w]``."""

    @property
    def logits(self) -> Tensor | None: ...


class SegmentationOutput(Protocol):
    """What DETR returns: ``logits [N, Q, classes + 1]`` and ``pred_masks [N, Q, h, w]``."""

    @property
    def logits(self) -> Tensor | None: ...

    @property
    def pred_masks(self) -> Tensor | None: ...


class MaskOutput(Protocol):
    """What MaskFormer returns: ``class_queries_logits [N, Q, classes + 1]``, ``masks_queries_logits [N, Q, h, w]``."""

    @property
    def class_queries_logits(self) -> Tensor | None: ...

    @property
    def masks_queries_logits(self) -> Tensor | None: ...


class Segment(TypedDict):
    """One segment: its number in the map, its class, whether it stands for several instances, and its score."""

    id: int
    label_id: int
    was_fused: bool
    score: float


class Segmentation(TypedDict):
    """One picture's segments. ``segmentation [H, W]`` holds their ids (0 for none; -1 everywhere where nothing was
    found), or is the list of run lengths of each id in COCO's form, or ``[K, H, W]``, a mask for each."""

    segmentation: Tensor | list[list[int]]
    segments_info: list[Segment]


Enlarger: TypeAlias = Callable[[Tensor, tuple[int, int]], Tensor]
"""Brings maps ``[C, h, w]`` to a size."""


@dataclass(frozen=True, slots=True)
class Queries:
    """What the queries of a batch found.

    Attributes:
        logits: of classes. Shape: [N, Q, classes + 1].
        masks: their logits. Shape: [N, Q, h, w].
    """

    logits: Tensor
    masks: Tensor


def by_pred_masks(outputs: SegmentationOutput) -> Queries:
    """DETR's queries.

    Raises:
        InputError: the outputs have none.
    """
    return Queries(*outputs_of(lambda: (outputs.logits, outputs.pred_masks), ("logits", 3), ("pred_masks", 4)))


def by_queries(outputs: MaskOutput, size: tuple[int, int] | None = None) -> Queries:
    """MaskFormer's queries.

    Args:
        size: what masks are brought to before anything else (Mask2Former's).

    Raises:
        InputError: the outputs have none.
    """
    logits, masks = outputs_of(
        lambda: (outputs.class_queries_logits, outputs.masks_queries_logits),
        ("class_queries_logits", 3),
        ("masks_queries_logits", 4),
    )
    if size is not None:
        masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
    return Queries(logits, masks)


def semantic_maps(outputs: SemanticOutput, *, target_sizes: TargetSizes | None = None) -> list[Batch]:
    """The class of each pixel, from logits for each pixel.

    Args:
        outputs: the model's.
        target_sizes: the pictures' sizes, to which the logits are brought; without them they keep the model's.

    Returns:
        For each picture ``segmentation [H, W]`` and ``segmentation_scores [classes, H, W]``.

    Raises:
        InputError: the outputs have no logits, or the number of sizes is not that of the pictures.
    """
    logits, _ = outputs_of(lambda: (outputs.logits, outputs.logits), ("logits", 4), ("logits", 4))
    return _maps(logits, target_sizes, bilinear)


def query_maps(
    queries: Queries, *, target_sizes: TargetSizes | None = None, resize: Enlarger | None = None, null: bool = True
) -> list[Batch]:
    """The class of each pixel, from queries: each class's score is the sum over all queries.

    Args:
        queries: the model's.
        target_sizes: the pictures' sizes, to which the maps are brought; without them they keep the model's.
        resize: how.
        null: whether the last class is "no object", and is left out.

    Returns:
        For each picture ``segmentation [H, W]`` and ``segmentation_scores [classes, H, W]``.

    Raises:
        InputError: the number of sizes is not that of the pictures.
    """
    classes = queries.logits.softmax(dim=-1)
    scores = torch.einsum("nqc,nqhw->nchw", classes[..., :-1] if null else classes, queries.masks.sigmoid())
    return _maps(scores, target_sizes, resize or bilinear)


def _maps(scores: Tensor, target_sizes: TargetSizes | None, resize: Enlarger) -> list[Batch]:
    sizes = sizes_of(target_sizes, len(scores))
    maps = []
    for number, score in enumerate(scores):
        if sizes is not None:
            score = resize(score, sizes[number])
        maps.append(Batch({"segmentation": score.argmax(dim=0), "segmentation_scores": score}))
    return maps


def segments(
    queries: Queries,
    *,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    fuse: frozenset[int] = frozenset(),
    target_sizes: TargetSizes | None = None,
    resize: Enlarger | None = None,
) -> list[Segmentation]:
    """The segments of each picture: every pixel goes to the query whose mask, weighed by its score, is strongest.

    Args:
        queries: the model's.
        threshold: the least probability of a query's class.
        mask_threshold: the weighed probability from which a pixel counts as the query's own.
        overlap_mask_area_threshold: the least share of its own pixels that a segment must win.
        fuse: classes whose instances become one segment (sky, grass).
        target_sizes: the pictures' sizes, to which the maps are brought; without them they keep the model's.
        resize: how.

    Raises:
        InputError: a threshold is none, or the number of sizes is not that of the pictures.
    """
    threshold, mask_threshold = fraction("threshold", threshold), fraction("mask_threshold", mask_threshold)
    share = fraction("overlap_mask_area_threshold", overlap_mask_area_threshold)
    sizes = sizes_of(target_sizes, len(queries.logits))
    scores, labels = queries.logits.softmax(dim=-1).max(-1)
    keep = labels.ne(queries.logits.shape[-1] - 1) & (scores > threshold)
    results: list[Segmentation] = []
    for number, kept in enumerate(keep):
        probs = queries.masks[number].sigmoid()[kept]
        size = None if sizes is None else sizes[number]
        results.append(
            assigned(
                probs, scores[number][kept], labels[number][kept], mask_threshold, share, fuse, size, resize or bilinear
            )
        )
    return results


def assigned(
    masks: Tensor,
    scores: Tensor,
    labels: Tensor,
    mask_threshold: float,
    least_share: float,
    fuse: frozenset[int],
    size: tuple[int, int] | None,
    resize: Enlarger,
) -> Segmentation:
    """One picture's segments, from the masks that are left: see :func:`segments`.

    Args:
        masks: ``[K, h, w]``; ``scores`` and ``labels``: ``[K]``.
        size: what the masks are brought to.
    """
    if not len(masks):
        height, width = masks.shape[1:] if size is None else size
        check_map(height, width)
        return {"segmentation": torch.zeros(height, width) - 1, "segments_info": []}
    if size is not None:
        masks = resize(masks, size)
    return _assign(masks * scores.view(-1, 1, 1), scores, labels, mask_threshold, least_share, fuse)


def instances(
    queries: Queries, *, threshold: float = 0.5, target_sizes: TargetSizes | None = None, binary: bool = False
) -> list[Segmentation]:
    """The instances of each picture, as MaskFormer counts them: the best pairs of query and class, later ones on top.

    Args:
        queries: the model's.
        threshold: the least score: of the class, times the mean of the mask where it is.
        target_sizes: the pictures' sizes, to which the masks are brought; without them they keep the model's.
        binary: give a mask for each instance, not one map.

    Raises:
        InputError: the threshold is none, or the number of sizes is not that of the pictures.
    """
    threshold = fraction("threshold", threshold)
    sizes = sizes_of(target_sizes, len(queries.logits))
    results: list[Segmentation] = []
    for number, (logits, masks) in enumerate(zip(queries.logits, queries.masks, strict=True)):
        best, labels, chosen = best_pairs(logits, masks)
        inside = (chosen > 0).to(torch.float32)
        flat = inside.flatten(1)
        scores = best * ((chosen.sigmoid().flatten(1) * flat).sum(1) / (flat.sum(1) + 1e-6))
        if sizes is not None:
            check_map(*sizes[number])
            inside = F.interpolate(inside[None], size=sizes[number], mode="nearest")[0]
        results.append(_listed(inside, scores, labels, threshold, binary))
    return results


def best_pairs(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest pairs of query and class of one picture, as many as there are queries.

    Args:
        logits: ``[Q, classes + 1]``.
        masks: ``[Q, h, w]``.

    Returns:
        Probabilities ``[Q]``, classes ``[Q]`` and masks ``[Q, h, w]``.
    """
    chances = logits.softmax(dim=-1)[:, :-1]
    # In the order in which topk leaves them, which is the reference's order of instances.
    best, places = chances.flatten().topk(len(logits), sorted=False)
    classes = chances.shape[-1]
    return best, places % classes, masks[places.div(classes, rounding_mode="floor")]


def _listed(masks: Tensor, scores: Tensor, labels: Tensor, threshold: float, binary: bool) -> Segmentation:
    ids = torch.zeros(masks.shape[1:]) - 1
    listed: list[Segment] = []
    kept: list[Tensor] = []
    for mask, score, label in zip(masks, scores.tolist(), labels.tolist(), strict=True):
        if not bool(mask.any()) or score < threshold:
            continue
        ids[(mask == 1).to(ids.device)] = len(kept)
        listed.append({"id": len(kept), "label_id": label, "was_fused": False, "score": round(score, 6)})
        kept.append(mask)
    return {"segmentation": torch.stack(kept) if binary and kept else ids, "segments_info": listed}


def with_run_lengths(found: Segmentation) -> Segmentation:
    """The same with COCO's run lengths in place of the map.

    For each id they are ``[start, length, start, length, ...]``, starts counted from 1 in row-major order, as the
    reference counts them.
    """
    ids = found["segmentation"]
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


def bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps ``[C, h, w]`` in another size, between neighbours in a straight line."""
    check_map(*size)
    return F.interpolate(alone(maps), size=size, mode="bilinear", align_corners=False)[0]


def smoothed(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """As :func:`bilinear`, with a filter against aliases where maps shrink (OneFormer)."""
    check_map(*size)
    return F.interpolate(alone(maps), size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def check_map(height: int, width: int, where: str = "target_sizes") -> None:
    """Refuse a map of more pixels than are held.

    Raises:
        InputError: it has more.
    """
    if height * width > MAX_PIXELS:
        raise InputError(
            "the map would be too large",
            where=where,
            expected=f"at most {MAX_PIXELS:,} pixels",
            found=(height, width),
        )
