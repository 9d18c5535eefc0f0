"""Losses of detectors that predict a set (https://arxiv.org/abs/2005.12872): match, then compare what was matched.

Boxes are ``(centre x, centre y, width, height)`` as parts of the picture's size, except where corners are named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures.losses import Items, divided, two_counts
from omniform.core.errors import ConfigError, DependencyError, InputError, check_shape
from omniform.core.reader import ConfigReader

Target = Mapping[str, Tensor]
"""One picture's objects: ``class_labels`` [n], ``boxes`` [n, 4] and, for segmentation, ``masks`` [n, height, width]."""

Prediction = Mapping[str, Tensor]
"""A batch's ``logits`` [B, Q, classes + 1] and ``pred_boxes`` [B, Q, 4]."""

Pairs = tuple[Tensor, Tensor, Tensor]
"""Matched queries and objects: the picture, the query and the object's index in the batch, Shape: [M] each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLoss:
    """The loss of a predicted set against the objects that are there.

    Attributes:
        class_cost: weight of the class in the matching.
        bbox_cost: weight of the boxes' L1 distance in the matching.
        giou_cost: weight of the boxes' generalised overlap in the matching.
        bbox_weight: of the boxes' L1 distance in the loss; the class weighs 1.
        giou_weight: of the boxes' generalised overlap in the loss.
        mask_weight: of the masks' focal loss.
        dice_weight: of the masks' dice loss.
        no_object_weight: of queries without an object in the class loss.
    """

    class_cost: float
    bbox_cost: float
    giou_cost: float
    bbox_weight: float
    giou_weight: float
    mask_weight: float
    dice_weight: float
    no_object_weight: float

    @classmethod
    def read(cls, r: ConfigReader) -> SetLoss:
        """The fields under their usual names."""
        return cls(
            class_cost=r.number("class_cost", 1),
            bbox_cost=r.number("bbox_cost", 5),
            giou_cost=r.number("giou_cost", 2),
            bbox_weight=r.number("bbox_loss_coefficient", 5),
            giou_weight=r.number("giou_loss_coefficient", 2),
            mask_weight=r.number("mask_loss_coefficient", 1),
            dice_weight=r.number("dice_loss_coefficient", 1),
            no_object_weight=r.number("eos_coefficient", 0.1),
        )

    def __call__(
        self,
        predicted: Prediction,
        labels: Sequence[Target],
        *,
        pred_masks: Tensor | None = None,
        auxiliary: Sequence[Prediction] = (),
        items: Items = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts.

        Args:
            predicted: of the last decoder layer.
            labels: one per picture.
            pred_masks: Shape: [B, Q, h, w], for segmentation.
            auxiliary: of the earlier decoder layers, each matched anew.
            items: how many objects there are, and what all queries weigh (:meth:`counts`), where the means are over
                more than this batch.

        Returns:
            The weighted sum, and every part unweighted by name: ``loss_ce``, ``loss_bbox``, ``loss_giou``,
            ``loss_mask``, ``loss_dice``, and ``cardinality_error``, which is for logs alone and not in the sum.

        Raises:
            InputError: labels that do not fit the pictures.
        """
        pictures, _, scores = predicted["logits"].shape
        # A processor's labels hold more (sizes, areas, crowd marks) than a loss needs.
        names = ("class_labels", "boxes") if pred_masks is None else ("class_labels", "boxes", "masks")
        check_targets(labels, names, pictures, self.classes(scores))
        labels = [{name: target[name].to(predicted["logits"].device) for name in names} for target in labels]
        pairs = self.match(predicted, labels)
        objects, weight = two_counts(items, *self.counts(labels, predicted["logits"].shape[1]))
        parts = self._parts(predicted, labels, pairs, objects, weight)
        if pred_masks is not None:
            parts |= mask_losses(pred_masks, labels, pairs, objects)
        for i, earlier in enumerate(auxiliary):
            again = self._parts(earlier, labels, self.match(earlier, labels), objects, weight)
            parts |= {f"{name}_{i}": value for name, value in again.items()}
        weights = {
            "loss_ce": 1.0,
            "loss_bbox": self.bbox_weight,
            "loss_giou": self.giou_weight,
            "loss_mask": self.mask_weight,
            "loss_dice": self.dice_weight,
        }
        total = predicted["logits"].new_zeros((), dtype=torch.float32)
        for name, value in parts.items():
            total = total + value * weights.get(name.rstrip("_0123456789"), 0.0)
        return total, parts

    def match(self, predicted: Prediction, labels: Sequence[Target]) -> Pairs:
        """Give every object the query that predicts it most cheaply; see :class:`Matching`."""
        return self.matching(predicted, labels)

    @property
    def matching(self) -> Matching:
        """How objects and queries are matched."""
        return Matching(
            class_cost=self.class_cost, bbox_cost=self.bbox_cost, giou_cost=self.giou_cost, class_costs=softmax_costs
        )

    def classes(self, scores: int) -> int:
        """How many classes there are where a query has so many scores: the last one is "no object"."""
        return scores - 1

    def counts(self, labels: Sequence[Target], queries: int) -> tuple[int, float]:
        """How many objects there are, and what the queries of all pictures weigh: those without one count for less."""
        sizes = [len(target["class_labels"]) for target in labels]
        matched = sum(min(size, queries) for size in sizes)
        return sum(sizes), matched + (len(sizes) * queries - matched) * self.no_object_weight

    def _parts(
        self, predicted: Prediction, labels: Sequence[Target], pairs: Pairs, objects: Items, weights: Items
    ) -> dict[str, Tensor]:
        logits, boxes = predicted["logits"].float(), predicted["pred_boxes"].float()
        pictures, queries, places = pairs
        classes = matched_classes(pairs, labels, logits, self.classes(logits.shape[-1]))
        wanted = torch.cat([t["boxes"] for t in labels]).float()[places]
        number = _count(labels) if objects is None else objects
        counts = torch.tensor([float(len(t["class_labels"])) for t in labels], device=logits.device)
        return {
            "loss_ce": self.class_loss(logits, classes, number, weights),
            **box_losses(boxes[pictures, queries], wanted, number),
            "cardinality_error": (self.guessed(logits.detach()).sum(1).float() - counts).abs().mean(),
        }

    def class_loss(self, logits: Tensor, classes: Tensor, objects: Tensor | int, weights: Items) -> Tensor:
        """How far the scores of all queries are from their classes.

        Args:
            logits: Shape: [B, Q, scores].
            classes: Shape: [B, Q]; the number of classes stands for "no object".
            objects: how many objects there are.
            weights: what all queries weigh together, where that is not told by ``classes``.
        """
        weight = logits.new_ones(logits.shape[-1])
        weight[-1] = self.no_object_weight
        how = "mean" if weights is None else "sum"
        entropy = F.cross_entropy(logits.transpose(1, 2), classes, weight, reduction=how)
        return entropy if weights is None else entropy / torch.as_tensor(weights, device=entropy.device)

    def guessed(self, logits: Tensor) -> Tensor:
        """Which queries see an object. Shape: [B, Q, scores] to [B, Q]."""
        return logits.argmax(-1) != logits.shape[-1] - 1


ClassCosts = Callable[[Tensor], Tensor]
"""What it costs to give queries with these scores each of the classes. Shape: [N, scores] to [N, classes or more]."""


def softmax_costs(logits: Tensor) -> Tensor:
    """By how likely a class is among all and "no object"."""
    return -logits.softmax(-1)


@dataclass(frozen=True, slots=True)
class FocalCosts:
    """By the focal loss of a class against that of its absence (https://arxiv.org/abs/2010.04159, A.4)."""

    alpha: float = 0.25
    gamma: float = 2.0

    def __call__(self, logits: Tensor) -> Tensor:
        likely = logits.sigmoid()
        here = self.alpha * (1 - likely) ** self.gamma * -(likely + 1e-8).log()
        return here - (1 - self.alpha) * likely**self.gamma * -(1 - likely + 1e-8).log()


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """Gives every object the query that predicts it most cheaply, no query to two objects (Hungarian method).

    Attributes:
        class_cost: weight of the class.
        bbox_cost: weight of the boxes' L1 distance.
        giou_cost: weight of the boxes' generalised overlap.
        class_costs: what a class costs, by scores.
    """

    class_cost: float
    bbox_cost: float
    giou_cost: float
    class_costs: ClassCosts

    @torch.no_grad()
    def __call__(self, predicted: Prediction, labels: Sequence[Target]) -> Pairs:
        """The cheapest pairs.

        Raises:
            ConfigError: all costs are zero.
            DependencyError: scipy is not installed.
        """
        if not (self.class_cost or self.bbox_cost or self.giou_cost):
            raise ConfigError("matching needs a cost", expected="class_cost, bbox_cost or giou_cost above 0", found=0)
        logits, boxes = predicted["logits"].float(), predicted["pred_boxes"].float()
        wanted = torch.cat([t["boxes"] for t in labels]).float()
        classes = torch.cat([t["class_labels"] for t in labels])
        costs = (
            self.bbox_cost * torch.cdist(boxes.flatten(0, 1), wanted, p=1)
            + self.class_cost * self.class_costs(logits.flatten(0, 1))[:, classes]
            - self.giou_cost * generalised_iou(corners(boxes).flatten(0, 1)[:, None], corners(wanted)[None])
        )
        # A prediction that is not a number must not stop the training; it is matched when nothing else is left.
        worst = torch.finfo(costs.dtype).max
        costs = torch.nan_to_num(costs, nan=worst, posinf=worst, neginf=worst).view(*logits.shape[:2], -1).cpu()
        pictures, queries, objects, first = [], [], [], 0
        for i, target in enumerate(labels):
            count = len(target["boxes"])
            rows, columns = assigned(costs[i, :, first : first + count])
            pictures.append(torch.full_like(rows, i))
            queries.append(rows)
            objects.append(columns + first)
            first += count
        device = logits.device
        return torch.cat(pictures).to(device), torch.cat(queries).to(device), torch.cat(objects).to(device)


def matched_classes(pairs: Pairs, labels: Sequence[Target], logits: Tensor, no_object: int) -> Tensor:
    """What each query is to say, ``no_object`` where it was matched with nothing. Shape: [B, Q]."""
    pictures, queries, places = pairs
    classes = torch.full(logits.shape[:2], no_object, device=logits.device)
    classes[pictures, queries] = torch.cat([t["class_labels"] for t in labels])[places].long()
    return classes


def box_losses(found: Tensor, wanted: Tensor, number: Tensor | int) -> dict[str, Tensor]:
    """L1 distance and missing overlap of matched boxes, per object. Shape: [M, 4] both."""
    overlaps = generalised_iou(corners(found), corners(wanted))
    return {
        "loss_bbox": divided((found - wanted).abs().sum(), number),
        "loss_giou": divided((1 - overlaps).sum(), number),
    }


def mask_losses(pred_masks: Tensor, labels: Sequence[Target], pairs: Pairs, items: Items = None) -> dict[str, Tensor]:
    """Focal and dice loss of matched masks, the predicted ones enlarged to the size of the given ones.

    Args:
        pred_masks: Shape: [B, Q, h, w], scores.
        labels: each with ``masks`` [n, height, width]; smaller ones are padded to the largest of the batch.
    """
    pictures, queries, objects = pairs
    height, width = (max(t["masks"].shape[axis] for t in labels) for axis in (1, 2))
    padded = [F.pad(m, (0, width - m.shape[2], 0, height - m.shape[1])) for m in (t["masks"].float() for t in labels)]
    wanted = torch.cat(padded)[objects].flatten(1)
    found = pred_masks.float()[pictures, queries][:, None]
    found = F.interpolate(found, size=(height, width), mode="bilinear", align_corners=False).flatten(1)
    number = _count(labels) if items is None else items
    return {
        "loss_mask": divided(focal_loss(found, wanted).sum(), number),
        "loss_dice": divided(dice_loss(found, wanted).sum(), number),
    }


def focal_loss(scores: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Cross-entropy that counts easy places less (https://arxiv.org/abs/1708.02002). Shape: [M, N] twice, to [M]."""
    likely = scores.sigmoid()
    right = likely * targets + (1 - likely) * (1 - targets)
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    entropy = F.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    return (balance * (1 - right) ** gamma * entropy).mean(1)


def dice_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """One minus twice the overlap over the sum of both areas (https://arxiv.org/abs/1606.04797).

    One is added above and below, so that two empty masks agree. Shape: [M, N] twice, to [M].
    """
    likely = scores.sigmoid()
    return 1 - (2 * (likely * targets).sum(1) + 1) / (likely.sum(1) + targets.sum(1) + 1)


def corners(boxes: Tensor) -> Tensor:
    """Centre and size to left, top, right and bottom. Shape: [..., 4]."""
    centre, size = boxes.chunk(2, dim=-1)
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Overlap of boxes over their union, less the part of their common hull outside it (https://giou.stanford.edu).

    Args:
        a: Shape: [..., 4], corners.
        b: the same; the two are broadcast.

    Returns:
        Shape: [...], from -1 to 1.
    """
    hull = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    shared = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - shared
    return shared / union - (hull - union) / hull


def check_targets(labels: Sequence[Target], names: Sequence[str], pictures: int, classes: int) -> None:
    """Raise :class:`InputError` unless labels describe the objects of every picture.

    Args:
        names: what is needed of each picture's objects; see :data:`Target`.
        pictures: how many there are.
        classes: how many there are, "no object" left out.
    """
    count = len(labels) if isinstance(labels, Sequence) else f"a {type(labels).__name__}"
    if count != pictures:
        raise InputError(
            "one label per picture is needed", where="labels", expected=f"{pictures} in a list", found=count
        )
    for i, target in enumerate(labels):
        _check_target(target, names, classes, f"labels[{i}]")


def _check_target(target: Target, names: Sequence[str], classes: int, where: str) -> None:
    for name in names:
        if name not in target or not isinstance(target[name], Tensor):
            raise InputError(f"{name} must be a tensor", where=where, expected=list(names), found=sorted(target))
    count = len(target["class_labels"])
    for name in names:
        found = target[name].shape
        sizes = {"class_labels": (), "boxes": (4,), "masks": found[-2:]}
        check_shape(f"{name} has the wrong shape", found, (count, *sizes[name]), where=where)
    ids = target["class_labels"]
    if ids.is_floating_point() or (count and not 0 <= int(ids.min()) <= int(ids.max()) < classes):
        raise InputError("a class does not exist", where=where, expected=f"0 to {classes - 1}", found=ids.tolist())
    if not bool((target["boxes"][:, 2:] >= 0).all()):
        raise InputError("a box has a negative width or height", where=where, expected="(cx, cy, width, height)")


def intersection_over_union(a: Tensor, b: Tensor) -> Tensor:
    """Overlap of boxes over their union. Shape: [..., 4] (corners) both, to [...], from 0 to 1."""
    shared = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    return shared / (_area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - shared)


def _area(near: Tensor, far: Tensor) -> Tensor:
    return (far - near).clamp(min=0).prod(dim=-1)


def _count(labels: Sequence[Target]) -> int:
    return max(1, sum(len(t["class_labels"]) for t in labels))


def assigned(costs_QN: Tensor) -> tuple[Tensor, Tensor]:
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise DependencyError(
            "losses of detectors need scipy", where="labels", remedy="pip install 'omniform[train]'"
        ) from error
    rows, columns = linear_sum_assignment(costs_QN.numpy())
    return torch.as_tensor(rows, dtype=torch.int64), torch.as_tensor(columns, dtype=torch.int64)
