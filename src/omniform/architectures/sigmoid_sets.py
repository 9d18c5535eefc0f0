"""Set losses of detectors that score every class by itself: none of them is "no object"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures.detection import (
    FocalCosts,
    Matching,
    Pairs,
    Prediction,
    SetLoss,
    Target,
    box_losses,
    check_targets,
    corners,
    intersection_over_union,
    matched_classes,
    softmax_costs,
)
from omniform.architectures.losses import Items, divided
from omniform.core.reader import ConfigReader

PARTS = ("class_labels", "boxes")


@dataclass(frozen=True, slots=True, kw_only=True)
class FocalSetLoss(SetLoss):
    """The same with the focal loss of every class (Deformable DETR, Conditional DETR).

    Attributes:
        alpha: weight of a class that is there against those that are not.
    """

    alpha: float

    @classmethod
    def read(cls, r: ConfigReader, class_cost: float = 1) -> Self:
        """The fields under their usual names; ``class_cost``: its default."""
        return cls(
            class_cost=r.number("class_cost", class_cost),
            bbox_cost=r.number("bbox_cost", 5),
            giou_cost=r.number("giou_cost", 2),
            bbox_weight=r.number("bbox_loss_coefficient", 5),
            giou_weight=r.number("giou_loss_coefficient", 2),
            mask_weight=r.number("mask_loss_coefficient", 1),
            dice_weight=r.number("dice_loss_coefficient", 1),
            no_object_weight=0.0,
            alpha=r.number("focal_alpha", 0.25),
        )

    @classmethod
    def of(cls, other: FocalSetLoss) -> Self:
        """The same weights, matched as this class does."""
        return cls(**{f.name: getattr(other, f.name) for f in fields(FocalSetLoss)})

    @property
    def matching(self) -> Matching:
        return Matching(
            class_cost=self.class_cost, bbox_cost=self.bbox_cost, giou_cost=self.giou_cost, class_costs=FocalCosts()
        )

    def classes(self, scores: int) -> int:
        return scores

    def counts(self, labels: Sequence[Target], queries: int) -> tuple[int, float]:
        """How many objects there are; all losses are per object."""
        count = sum(len(target["class_labels"]) for target in labels)
        return count, float(count)

    def class_loss(self, logits: Tensor, classes: Tensor, objects: Tensor | int, weights: Items) -> Tensor:
        wanted = F.one_hot(classes, logits.shape[-1] + 1)[..., :-1].to(logits.dtype)
        likely = logits.sigmoid()
        right = likely * wanted + (1 - likely) * (1 - wanted)
        balance = self.alpha * wanted + (1 - self.alpha) * (1 - wanted) if self.alpha >= 0 else 1.0
        entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return divided((balance * (1 - right) ** 2 * entropy).sum(), objects)

    def guessed(self, logits: Tensor) -> Tensor:
        return (logits > 0).any(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftmaxMatchedSetLoss(FocalSetLoss):
    """The same, matched by how likely a class is among all (Conditional DETR with outlines)."""

    @property
    def matching(self) -> Matching:
        return Matching(
            class_cost=self.class_cost, bbox_cost=self.bbox_cost, giou_cost=self.giou_cost, class_costs=softmax_costs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Noisy:
    """Predictions of queries that began as noisy copies of the objects themselves.

    Attributes:
        layers: of each decoder layer.
        pairs: which of the queries are to find which object.
        groups: how often each object was copied.
    """

    layers: Sequence[Prediction]
    pairs: Pairs
    groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VarifocalSetLoss:
    """The loss of RT-DETR: a class's score is to tell how well the box fits (https://arxiv.org/abs/2008.13367).

    Attributes:
        matching: how objects and queries are matched.
        alpha: weight of classes that are not there.
        gamma: how much less those count that are scored low already.
        class_weight: of the classes in the sum.
        bbox_weight: of the boxes' L1 distance.
        giou_weight: of the boxes' generalised overlap.
    """

    matching: Matching
    alpha: float
    gamma: float
    class_weight: float
    bbox_weight: float
    giou_weight: float

    @classmethod
    def read(cls, r: ConfigReader) -> VarifocalSetLoss:
        """The fields under their usual names."""
        r.inert("eos_coefficient")  # the reference reads it, and weighs nothing with it
        focal = FocalCosts(r.number("matcher_alpha", 0.25), r.number("matcher_gamma", 2.0))
        return cls(
            matching=Matching(
                class_cost=r.number("matcher_class_cost", 2.0),
                bbox_cost=r.number("matcher_bbox_cost", 5.0),
                giou_cost=r.number("matcher_giou_cost", 2.0),
                class_costs=focal if r.flag("use_focal_loss", True) else softmax_costs,
            ),
            alpha=r.number("focal_loss_alpha", 0.75),
            gamma=r.number("focal_loss_gamma", 2.0),
            class_weight=r.number("weight_loss_vfl", 1.0),
            bbox_weight=r.number("weight_loss_bbox", 5.0),
            giou_weight=r.number("weight_loss_giou", 2.0),
        )

    def __call__(
        self,
        predicted: Prediction,
        labels: Sequence[Target],
        *,
        auxiliary: Sequence[Prediction] = (),
        noisy: Noisy | None = None,
        items: Items = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts.

        Args:
            predicted: of the last decoder layer.
            labels: one per picture.
            auxiliary: of the earlier decoder layers and of the encoder, each matched anew.
            noisy: of queries that are matched already.
            items: how many objects there are, where the mean is over more than this batch.

        Returns:
            The sum, and every part by name, weighted: ``loss_vfl``, ``loss_bbox``, ``loss_giou``, and the same of the
            others with ``_aux_0`` or ``_dn_0`` and so on behind it.

        Raises:
            InputError: labels that do not fit the pictures.
        """
        pictures, _, classes = predicted["logits"].shape
        check_targets(labels, PARTS, pictures, classes)
        labels = on_device(labels, predicted["logits"].device)
        number: Tensor | int = max(1, sum(len(t["boxes"]) for t in labels)) if items is None else items
        parts = self._parts(predicted, labels, self.matching(predicted, labels), number)
        for i, layer in enumerate(auxiliary):
            again = self._parts(layer, labels, self.matching(layer, labels), number)
            parts |= {f"{name}_aux_{i}": value for name, value in again.items()}
        for i, layer in enumerate(noisy.layers if noisy is not None else ()):
            assert noisy is not None
            again = self._parts(layer, labels, noisy.pairs, number * noisy.groups)
            parts |= {f"{name}_dn_{i}": value for name, value in again.items()}
        return torch.stack([*parts.values()]).sum(), parts

    def _parts(
        self, predicted: Prediction, labels: Sequence[Target], pairs: Pairs, number: Tensor | int
    ) -> dict[str, Tensor]:
        logits, boxes = predicted["logits"].float(), predicted["pred_boxes"].float()
        pictures, queries, places = pairs
        found, wanted = boxes[pictures, queries], torch.cat([t["boxes"] for t in labels]).float()[places]
        fits = intersection_over_union(corners(found.detach()), corners(wanted))
        classes = matched_classes(pairs, labels, logits, logits.shape[-1])
        there = F.one_hot(classes, logits.shape[-1] + 1)[..., :-1].to(logits.dtype)
        score = logits.new_zeros(classes.shape)
        score[pictures, queries] = fits
        target = score[..., None] * there
        weight = self.alpha * logits.detach().sigmoid() ** self.gamma * (1 - there) + target
        entropy = F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")
        whole = box_losses(found, wanted, number)
        return {
            "loss_vfl": divided(entropy, number) * self.class_weight,
            "loss_bbox": whole["loss_bbox"] * self.bbox_weight,
            "loss_giou": whole["loss_giou"] * self.giou_weight,
        }


def on_device(labels: Sequence[Target], device: torch.device) -> list[Target]:
    """What these losses need of labels, where the predictions lie."""
    return [{name: target[name].to(device) for name in PARTS} for target in labels]
