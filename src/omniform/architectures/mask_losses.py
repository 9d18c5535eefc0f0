"""Losses of models that predict a set of masks: match masks to objects, then compare what was matched.

Sources: MaskFormer (https://arxiv.org/abs/2107.06278), section 3.2; Mask2Former (https://arxiv.org/abs/2112.01527),
section 3.3, for points in the place of whole masks; PointRend (https://arxiv.org/abs/1912.08193), section 3.1, for
where these points lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.detection import assigned, dice_loss, focal_loss
from omniform.architectures.losses import Items, divided, two_counts
from omniform.core.errors import ConfigError, InputError, brief, check_shape
from omniform.core.host import bounds_of
from omniform.core.reader import ConfigReader

MaskPrediction = dict[str, Tensor]
"""A batch's ``class_queries_logits`` [B, Q, classes + 1] and ``masks_queries_logits`` [B, Q, h, w]."""

PerPicture = Sequence[Tensor] | Tensor
"""One tensor per picture, in a list or, where all have as many objects, in one tensor."""

Pairs = list[tuple[Tensor, Tensor]]
"""For each picture, the queries that were matched and their objects. Shape: [M] each."""


class Comparison(Protocol):
    """How a mask is compared with another."""

    def costs(self, found_QHW: Tensor, wanted_NHW: Tensor) -> tuple[Tensor, Tensor]:
        """How far every predicted mask is from every object's: entropy and dice. Shape: [Q, N] both."""
        ...

    def losses(self, found_MHW: Tensor, wanted_MHW: Tensor) -> tuple[Tensor, Tensor]:
        """How far each mask is from its object's: entropy and dice. Shape: [M] both."""
        ...


@dataclass(frozen=True, slots=True)
class WholeMasks:
    """Every pixel counts; the entropy counts easy pixels less (focal loss).

    Attributes:
        alpha: weight of the pixels inside of objects.
        gamma: how much less easy ones count.
    """

    alpha: float = 0.25
    gamma: float = 2.0

    def costs(self, found_QHW: Tensor, wanted_NHW: Tensor) -> tuple[Tensor, Tensor]:
        wanted = F.interpolate(wanted_NHW[:, None], size=found_QHW.shape[-2:], mode="nearest")[:, 0].flatten(1)
        scores = found_QHW.flatten(1)
        likely = scores.sigmoid()
        inside = self.alpha * (1 - likely) ** self.gamma * F.softplus(-scores)
        outside = (1 - self.alpha) * likely**self.gamma * F.softplus(scores)
        return _entropies(inside, outside, wanted), _dices(likely, wanted)

    def losses(self, found_MHW: Tensor, wanted_MHW: Tensor) -> tuple[Tensor, Tensor]:
        size = wanted_MHW.shape[-2:]
        found = F.interpolate(found_MHW[:, None], size=size, mode="bilinear", align_corners=False).flatten(1)
        wanted = wanted_MHW.flatten(1)
        return focal_loss(found, wanted, alpha=self.alpha, gamma=self.gamma), dice_loss(found, wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledPoints:
    """Points count that are drawn at random; in the loss most of them where a mask is least sure of itself.

    Attributes:
        points: how many are compared.
        oversampling: how many times as many are drawn, of which the least sure stay.
        importance: which part of the points are such.
    """

    points: int
    oversampling: float
    importance: float

    @classmethod
    def read(cls, r: ConfigReader) -> SampledPoints:
        """The fields under their usual names."""
        made = cls(
            points=r.integer("train_num_points", 12544),
            oversampling=r.number("oversample_ratio", 3.0),
            importance=r.number("importance_sample_ratio", 0.75),
        )
        if not 0 <= made.importance <= 1:
            raise r.fail("importance_sample_ratio", "a number between 0 and 1", made.importance)
        if made.unsure > made.drawn:
            raise r.fail("oversample_ratio", f"{made.importance} (importance_sample_ratio) or more", made.oversampling)
        return made

    @property
    def drawn(self) -> int:
        """Among how many points the least sure are looked for."""
        return int(self.points * self.oversampling)

    @property
    def unsure(self) -> int:
        """How many of them stay."""
        return int(self.importance * self.points)

    def costs(self, found_QHW: Tensor, wanted_NHW: Tensor) -> tuple[Tensor, Tensor]:
        # The same points for all masks of a picture.
        places = torch.rand(1, self.points, 2, device=found_QHW.device)
        scores, wanted = read_at(found_QHW, places), read_at(wanted_NHW, places)
        inside, outside = F.softplus(-scores), F.softplus(scores)
        return _entropies(inside, outside, wanted), _dices(scores.sigmoid(), wanted)

    def losses(self, found_MHW: Tensor, wanted_MHW: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            places = self.places(found_MHW)
            wanted = read_at(wanted_MHW, places)
        scores = read_at(found_MHW, places)
        entropy = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none").mean(1)
        return entropy, dice_loss(scores, wanted)

    def places(self, scores_MHW: Tensor) -> Tensor:
        """Where masks are compared with their objects: x and y as parts of their size. Shape: [M, points, 2]."""
        masks, device = len(scores_MHW), scores_MHW.device
        candidates = torch.rand(masks, self.drawn, 2, device=device)
        doubt = -read_at(scores_MHW, candidates).abs()
        least_sure = doubt.topk(self.unsure, dim=1).indices
        places = candidates.gather(1, least_sure[..., None].expand(-1, -1, 2))
        if self.unsure == self.points:
            return places
        return torch.cat((places, torch.rand(masks, self.points - self.unsure, 2, device=device)), dim=1)


def read_at(maps_MHW: Tensor, places: Tensor) -> Tensor:
    """Values between pixels, the four around each place blended; outside of a map there are zeros.

    Args:
        maps_MHW: Shape: [M, H, W].
        places: x and y as parts of the maps' size, Shape: [M, P, 2], or [1, P, 2] for the same in all.

    Returns:
        Shape: [M, P].
    """
    grid = 2 * places[:, :, None] - 1
    if len(places) == 1:  # all maps at once, as so many channels of one
        return F.grid_sample(maps_MHW[None], grid, align_corners=False)[0, :, :, 0]
    return F.grid_sample(maps_MHW[:, None], grid, align_corners=False)[:, 0, :, 0]


class MaskSetLoss(nn.Module):
    """The loss of a predicted set of masks against the objects that are there.

    Args:
        classes: how many there are.
        comparison: how masks are compared.
        class_cost: weight of the class in the matching; entropy and dice weigh there what they weigh in the loss.
        class_weight: weight of the class in the loss.
        mask_weight: of the masks' entropy.
        dice_weight: of their dice loss.
        no_object_weight: of queries without an object in the class loss.

    Raises:
        ConfigError: all weights are zero.
    """

    empty_weight: Tensor

    def __init__(
        self,
        classes: int,
        comparison: Comparison,
        *,
        class_cost: float,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        no_object_weight: float,
    ) -> None:
        super().__init__()
        if not (class_cost or mask_weight or dice_weight):
            raise ConfigError("matching needs a cost", expected="a weight of masks, dice or classes above 0", found=0)
        self.comparison = comparison
        self.class_cost = class_cost
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.no_object_weight = no_object_weight
        # Checkpoints hold it: what each class counts, and "no object" behind them.
        self.register_buffer("empty_weight", torch.empty(classes + 1))
        self.reset(0.0)

    def reset(self, std: float) -> None:
        """All classes count alike, "no object" less."""
        nn.init.ones_(self.empty_weight)
        nn.init.constant_(self.empty_weight[-1:], self.no_object_weight)

    def forward(
        self,
        predictions: Sequence[MaskPrediction],
        masks: PerPicture,
        classes: PerPicture,
        items: Items = None,
    ) -> Tensor:
        """The weighted sum over all predictions.

        Args:
            predictions: of the last layer, and then of the earlier ones from the first on, each matched anew.
            masks: of each picture, Shape: [n, height, width].
            classes: of each picture, Shape: [n].
            items: how many objects there are, and what all queries weigh (:meth:`counts`), where the means are over
                more than this batch.

        Returns:
            Shape: [].

        Raises:
            InputError: not one entry per picture.
            DependencyError: scipy is not installed.
        """
        device = predictions[0]["masks_queries_logits"].device
        pictures, queries = predictions[0]["class_queries_logits"].shape[:2]
        check_labels(masks, classes, pictures)
        wanted = [one.to(device, torch.float32) for one in masks]
        named = [one.to(device).long() for one in classes]
        objects, weight = two_counts(items, *self.counts(named, queries))
        total = torch.zeros((), device=device)
        for prediction in predictions:
            total = total + self._one(prediction, wanted, named, objects, weight)
        return total

    def _one(
        self,
        prediction: MaskPrediction,
        masks: Sequence[Tensor],
        classes: Sequence[Tensor],
        objects: Items,
        weight: Items,
    ) -> Tensor:
        scores, found = prediction["class_queries_logits"].float(), prediction["masks_queries_logits"].float()
        pairs = self.match(scores, found, masks, classes)
        entropy, dice = self._masks(found, masks, pairs)
        number = sum(map(len, classes)) if objects is None else objects
        masked = self.mask_weight * divided(entropy.sum(), number) + self.dice_weight * divided(dice.sum(), number)
        return masked + self.class_weight * self._classes(scores, classes, pairs, weight)

    @torch.no_grad()
    def match(
        self, scores_BQC: Tensor, found_BQHW: Tensor, masks: Sequence[Tensor], classes: Sequence[Tensor]
    ) -> Pairs:
        """Give every object the query that predicts it most cheaply, no query to two objects (Hungarian method).

        Raises:
            DependencyError: scipy is not installed.
        """
        pairs: Pairs = []
        for likely, found, wanted, named in zip(scores_BQC.softmax(-1), found_BQHW, masks, classes, strict=True):
            entropy, dice = self.comparison.costs(found, wanted)
            costs = self.mask_weight * entropy - self.class_cost * likely[:, named] + self.dice_weight * dice
            # A prediction that is not a number must not stop the training; it is matched when nothing else is left.
            worst = torch.finfo(costs.dtype).max
            rows, columns = assigned(torch.nan_to_num(costs, nan=worst, posinf=worst, neginf=worst).cpu())
            pairs.append((rows.to(costs.device), columns.to(costs.device)))
        return pairs

    def _masks(self, found_BQHW: Tensor, masks: Sequence[Tensor], pairs: Pairs) -> tuple[Tensor, Tensor]:
        # Smaller pictures' masks are padded to the largest of the batch.
        height, width = (max(one.shape[axis] for one in masks) for axis in (1, 2))
        wanted = [
            F.pad(one[objects], (0, width - one.shape[2], 0, height - one.shape[1]))
            for one, (_, objects) in zip(masks, pairs, strict=True)
        ]
        found = [one[queries] for one, (queries, _) in zip(found_BQHW, pairs, strict=True)]
        return self.comparison.losses(torch.cat(found), torch.cat(wanted))

    def _classes(self, scores_BQC: Tensor, classes: Sequence[Tensor], pairs: Pairs, weight: Items) -> Tensor:
        right = torch.full(scores_BQC.shape[:2], scores_BQC.shape[-1] - 1, device=scores_BQC.device)
        for row, named, (queries, objects) in zip(right, classes, pairs, strict=True):
            row[queries] = named[objects]
        how = "mean" if weight is None else "sum"
        entropy = F.cross_entropy(scores_BQC.transpose(1, 2), right, self.empty_weight.float(), reduction=how)
        return entropy if weight is None else divided(entropy, weight)

    def counts(self, classes: Iterable[Tensor], queries: int) -> tuple[int, float]:
        """How many objects there are, and what the queries of all pictures weigh: those without one count for less."""
        sizes = [len(one) for one in classes]
        matched = sum(min(size, queries) for size in sizes)
        return sum(sizes), matched + (len(sizes) * queries - matched) * self.no_object_weight

    def extra_repr(self) -> str:
        return f"comparison={self.comparison}, masks={self.mask_weight}, dice={self.dice_weight}"


def check_labels(masks: object, classes: object, pictures: int) -> list[Tensor]:
    """Check that there are masks and classes of the objects of every picture.

    Returns:
        The classes of each picture.

    Raises:
        InputError: there are not.
    """
    drawn, named = _each("mask_labels", masks, pictures), _each("class_labels", classes, pictures)
    for i, (mask, one) in enumerate(zip(drawn, named, strict=True)):
        check_shape("classes are a row", one.shape, (one.numel(),), where=f"class_labels[{i}]")
        wanted = (len(one), *mask.shape[-2:])
        check_shape("there is not one mask per object", mask.shape, wanted, where=f"mask_labels[{i}]")
    return named


def _each(name: str, given: object, pictures: int) -> list[Tensor]:
    several = isinstance(given, (list, tuple, Tensor))
    if not isinstance(given, (list, tuple, Tensor)) or len(given) != pictures:
        found = len(given) if several else brief(given)  # type: ignore[arg-type] # one of those
        raise InputError("one entry per picture is needed", where=name, expected=pictures, found=found)
    for i, one in enumerate(given):
        if not isinstance(one, Tensor):
            raise InputError("tensors are needed", where=f"{name}[{i}]", expected="a tensor", found=brief(one))
    return list(given)


def arrive_labels(inputs: Mapping[str, object], classes: int) -> None:
    """Look at the objects of a call before anything is computed.

    Args:
        inputs: by name.
        classes: how many there are, "no object" left out.

    Raises:
        InputError: classes that do not exist, or objects that do not fit the pictures.
    """
    masks, named, pixels = (inputs.get(name) for name in ("mask_labels", "class_labels", "pixel_values"))
    if masks is None or named is None or not isinstance(pixels, Tensor):
        return
    found = check_labels(masks, named, len(pixels))
    for i, one in enumerate(found):
        low, high = bounds_of(one)
        if one.is_floating_point() or not 0 <= low <= high < classes:
            expected = f"whole numbers from 0 to {classes - 1}"
            raise InputError("a class does not exist", where=f"class_labels[{i}]", expected=expected, found=brief(one))


def _entropies(inside_QP: Tensor, outside_QP: Tensor, wanted_NP: Tensor) -> Tensor:
    """Mean entropy of every mask against every object, where a pixel costs so much inside of it and so much outside."""
    return ((inside_QP - outside_QP) @ wanted_NP.T + outside_QP.sum(1, keepdim=True)) / inside_QP.shape[1]


def _dices(likely_QP: Tensor, wanted_NP: Tensor) -> Tensor:
    """Dice loss of every mask against every object."""
    return 1 - (2 * likely_QP @ wanted_NP.T + 1) / (likely_QP.sum(1)[:, None] + wanted_NP.sum(1) + 1)
