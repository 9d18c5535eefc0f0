"""The loss of a detector whose classes are phrases of a text (Grounding DINO, https://arxiv.org/abs/2303.05499)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures.detection import (
    FocalCosts,
    Pairs,
    Prediction,
    Target,
    assigned,
    box_losses,
    check_targets,
    corners,
    generalised_iou,
)
from omniform.architectures.losses import Items, divided
from omniform.core.reader import ConfigReader

CLASS_WEIGHT = 2.0


def phrases_of(input_ids: Tensor, longest: int, ends: Sequence[int]) -> tuple[Tensor, ...]:
    """The words of each row's phrases, as ones among zeros. Shape: [phrases, longest] for each row.

    Args:
        input_ids: Shape: [B, T].
        ends: tokens that part phrases, and are in none.
    """
    parts = torch.isin(input_ids, torch.tensor(ends, device=input_ids.device))
    numbers = parts.cumsum(1) * ~parts
    found = []
    for row in numbers:
        own = row.unique()
        marks = (row[None] == own[own > 0][:, None]).long()
        found.append(F.pad(marks, (0, longest - marks.shape[1])))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhraseLoss:
    """Matches objects with queries by how likely their phrase's words are, and where their boxes lie.

    Attributes:
        class_cost, bbox_cost, giou_cost: weights of what a match costs.
        bbox_weight, giou_weight: of the losses of boxes.
        alpha: weight of a word that is there against those that are not.
    """

    class_cost: float
    bbox_cost: float
    giou_cost: float
    bbox_weight: float
    giou_weight: float
    alpha: float

    @classmethod
    def read(cls, r: ConfigReader) -> PhraseLoss:
        """The fields under their usual names."""
        return cls(
            class_cost=r.number("class_cost", 1.0),
            bbox_cost=r.number("bbox_cost", 5.0),
            giou_cost=r.number("giou_cost", 2.0),
            bbox_weight=r.number("bbox_loss_coefficient", 5.0),
            giou_weight=r.number("giou_loss_coefficient", 2.0),
            alpha=r.number("focal_alpha", 0.25),
        )

    def __call__(
        self,
        predicted: Prediction,
        labels: Sequence[Target],
        phrases: Sequence[Tensor],
        real_BT: Tensor,
        *,
        auxiliary: Sequence[Prediction] = (),
        proposed: Prediction | None = None,
        items: Items = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and every part unweighted by name.

        Args:
            predicted: of the last decoder layer.
            labels: one per picture.
            phrases: see :func:`phrases_of`.
            real_BT: which words are no padding, filled up to the longest text.
            auxiliary: of the earlier decoder layers, each matched anew.
            proposed: of the queries before the decoder, likewise.
            items: how many objects there are, where the mean is over more than this batch.

        Raises:
            InputError: labels that do not fit the pictures or their phrases.
        """
        names, device = ("class_labels", "boxes"), predicted["logits"].device
        check_targets(labels, names, len(phrases), max((len(own) for own in phrases), default=0))
        for target, own in zip(labels, phrases, strict=True):
            check_targets([target], names, 1, len(own))
        labels = [{name: target[name].to(device) for name in names} for target in labels]
        wanted = torch.cat([own[t["class_labels"]] for own, t in zip(phrases, labels, strict=True)]).float()
        objects: Tensor | int = max(1, sum(len(t["boxes"]) for t in labels)) if items is None else items
        parts = self._parts(predicted, labels, wanted, real_BT, objects)
        for i, earlier in enumerate(auxiliary):
            again = self._parts(earlier, labels, wanted, real_BT, objects)
            parts |= {f"{name}_{i}": value for name, value in again.items()}
        if proposed is not None:
            again = self._parts(proposed, labels, wanted, real_BT, objects)
            parts |= {f"{name}_enc": value for name, value in again.items()}
        weights = {"loss_ce": CLASS_WEIGHT, "loss_bbox": self.bbox_weight, "loss_giou": self.giou_weight}
        total = predicted["logits"].new_zeros((), dtype=torch.float32)
        for name, value in parts.items():
            total = total + value * weights.get("_".join(name.split("_")[:2]), 0.0)
        return total, parts

    def _parts(
        self, predicted: Prediction, labels: Sequence[Target], wanted: Tensor, real_BT: Tensor, objects: Tensor | int
    ) -> dict[str, Tensor]:
        logits, boxes = predicted["logits"].float(), predicted["pred_boxes"].float()
        pictures, queries, places = self._match(logits, boxes, labels, wanted)
        words = torch.zeros_like(logits)
        words[pictures, queries] = wanted[places]
        real = real_BT[:, None].expand_as(logits)
        # What is like no word at all has no score to learn from.
        scores = logits.masked_fill(~real, 0.0)
        likely = scores.sigmoid()
        right = likely * words + (1 - likely) * (1 - words)
        balance = self.alpha * words + (1 - self.alpha) * (1 - words) if self.alpha >= 0 else 1.0
        entropy = F.binary_cross_entropy_with_logits(scores, words, reduction="none")
        there = torch.cat([t["boxes"] for t in labels]).float()[places]
        counts = torch.tensor([float(len(t["class_labels"])) for t in labels], device=logits.device)
        return {
            "loss_ce": divided((balance * (1 - right) ** 2 * entropy * real).sum(), objects),
            **box_losses(boxes[pictures, queries], there, objects),
            "cardinality_error": ((logits.detach() > 0).any(-1).sum(1).float() - counts).abs().mean(),
        }

    @torch.no_grad()
    def _match(self, logits: Tensor, boxes: Tensor, labels: Sequence[Target], wanted: Tensor) -> Pairs:
        shares = wanted / wanted.sum(-1, keepdim=True)
        there = torch.cat([t["boxes"] for t in labels]).float()
        costs = (
            self.bbox_cost * torch.cdist(boxes.flatten(0, 1), there, p=1)
            + self.class_cost * (FocalCosts()(logits.flatten(0, 1)) @ shares.t())
            - self.giou_cost * generalised_iou(corners(boxes).flatten(0, 1)[:, None], corners(there)[None])
        )
        worst = torch.finfo(costs.dtype).max
        costs = torch.nan_to_num(costs, nan=worst, posinf=worst, neginf=worst).view(*logits.shape[:2], -1).cpu()
        return pairs_of(costs, [len(t["boxes"]) for t in labels], logits.device)


def pairs_of(costs_BQN: Tensor, counts: Sequence[int], device: torch.device) -> Pairs:
    """The cheapest pairs of queries and each picture's own objects; see :class:`Matching`."""
    pictures, queries, objects, first = [], [], [], 0
    for number, count in enumerate(counts):
        rows, columns = assigned(costs_BQN[number, :, first : first + count])
        pictures.append(torch.full_like(rows, number))
        queries.append(rows)
        objects.append(columns + first)
        first += count
    return torch.cat(pictures).to(device), torch.cat(queries).to(device), torch.cat(objects).to(device)
