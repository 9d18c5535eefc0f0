"""Semantic segmentation: a class for every place of a picture, and the losses of that.

Heads score a map that is coarser than the picture; a loss first enlarges the scores to the size of its labels. What the
families differ in is how they make the scores (:meth:`SemanticSegmenter.answer` does the rest).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures.labels import Classes, Targets, check_each
from omniform.architectures.losses import Items, divided
from omniform.architectures.model import Model
from omniform.core.errors import InputError
from omniform.core.host import is_readable
from omniform.core.outputs import ClassifierOutput, Noted
from omniform.core.reader import ConfigReader

ANY_INDEX = -(2**31)
"""The least number that a class which is left out may have."""


def read_ignored(r: ConfigReader, name: str = "semantic_loss_ignore_index") -> int:
    """Which label leaves a place out of the loss."""
    return r.integer(name, 255, least=ANY_INDEX)


def enlarged(scores_BCHW: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """A map of scores at another size, bilinearly. Shape: [B, C, h, w] to [B, C, H, W]."""
    if tuple(scores_BCHW.shape[-2:]) == tuple(size):
        return scores_BCHW
    return F.interpolate(scores_BCHW, size=tuple(size), mode="bilinear", align_corners=False)


@dataclass(frozen=True, slots=True)
class Foreground(Targets):
    """For every pixel, how much it is of the one class: 0 to 1; negative numbers leave one out.

    Attributes:
        ignored: another number that leaves one out.
    """

    ignored: int

    def check(self, name: str, labels: Tensor, inputs: Mapping[str, object]) -> None:
        if labels.dim() < 2:
            raise InputError("labels are maps", where=name, expected="[B, height, width]", found=f"{labels.dim()} axes")
        if is_readable(labels) and labels.numel():
            values = labels.detach().float().numpy()
            check_each(name, labels, (values != self.ignored) & ~(values <= 1), f"0, 1, or {self.ignored} to leave out")


class PixelLoss(ABC):
    """How far maps of scores are from the labels of pixels."""

    @abstractmethod
    def targets(self) -> Targets:
        """What labels may be."""

    @abstractmethod
    def count(self, labels_BHW: Tensor) -> Tensor | int:
        """Over how many pixels a batch's loss is the mean."""

    @abstractmethod
    def of(self, logits_BCHW: Tensor, labels_BHW: Tensor, items: Items) -> Tensor:
        """The loss of scores that have been enlarged to the labels' size."""

    def __call__(
        self, logits_BCHW: Tensor, labels_BHW: Tensor, items: Items = None, *, auxiliary: Tensor | None = None
    ) -> Tensor:
        """The loss of a map of scores.

        Args:
            logits_BCHW: Shape: [B, C, h, w].
            labels_BHW: Shape: [B, H, W].
            items: how many pixels count in all batches of a step, if not those of this one.
            auxiliary: the scores of a second head, Shape: [B, C, h', w']; they count for :meth:`weight`.

        Raises:
            InputError: there is not one map of labels per picture.
        """
        if labels_BHW.dim() != 3 or labels_BHW.shape[0] != logits_BCHW.shape[0]:
            raise InputError(
                "labels do not match the pictures",
                where="labels",
                expected=f"shape [{logits_BCHW.shape[0]}, height, width]",
                found=f"shape {list(labels_BHW.shape)}",
            )
        labels_BHW = labels_BHW.to(logits_BCHW.device)
        loss = self.of(enlarged(logits_BCHW.float(), labels_BHW.shape[-2:]), labels_BHW, items)
        if auxiliary is None:
            return loss
        return loss + self.weight * self.of(enlarged(auxiliary.float(), labels_BHW.shape[-2:]), labels_BHW, items)

    @property
    def weight(self) -> float:
        """Of a second head's loss."""
        return 0.0


@dataclass(frozen=True, slots=True)
class SemanticLoss(PixelLoss):
    """Mean cross-entropy of pixels.

    Attributes:
        classes: how many there are; at least two.
        ignored: the label that leaves a pixel out.
        auxiliary_weight: what a second head's loss counts for.
    """

    classes: int
    ignored: int = 255
    auxiliary_weight: float = 0.4

    def targets(self) -> Targets:
        if self.classes < 2:
            raise InputError(
                "a loss over pixels compares two classes or more",
                where="config.json: num_labels",
                expected="at least 2",
                found=self.classes,
            )
        return Classes(self.classes, self.ignored)

    @property
    def weight(self) -> float:
        return self.auxiliary_weight

    def count(self, labels_BHW: Tensor) -> Tensor | int:
        return (labels_BHW != self.ignored).sum()

    def of(self, logits_BCHW: Tensor, labels_BHW: Tensor, items: Items) -> Tensor:
        how = "mean" if items is None else "sum"
        loss = F.cross_entropy(logits_BCHW, labels_BHW, ignore_index=self.ignored, reduction=how)
        return loss if items is None else divided(loss, items)


@dataclass(frozen=True, slots=True)
class ForegroundLoss(PixelLoss):
    """Mean binary cross-entropy of one class against all else; pixels left out count as places without a loss.

    Attributes:
        ignored: the label that leaves a pixel out, as negative ones do.
    """

    ignored: int = 255

    def targets(self) -> Targets:
        return Foreground(self.ignored)

    def count(self, labels_BHW: Tensor) -> Tensor | int:
        return labels_BHW.numel()

    def of(self, logits_BCHW: Tensor, labels_BHW: Tensor, items: Items) -> Tensor:
        counts = ((labels_BHW >= 0) & (labels_BHW != self.ignored)).float()
        losses = F.binary_cross_entropy_with_logits(logits_BCHW[:, 0], labels_BHW.float(), reduction="none") * counts
        return losses.mean() if items is None else divided(losses.sum(), items)


class SemanticSegmenter(Model):
    """Base of the heads that give every place of a picture a class.

    Args:
        loss: against the classes of all pixels.
    """

    main_input = "pixel_values"

    loss: PixelLoss

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": PixelTargets(self.loss)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        labels = inputs.get("labels")
        return self.loss.count(labels) if isinstance(labels, Tensor) else None

    def answer(
        self,
        logits_BCHW: Tensor,
        labels: Tensor | None,
        noted: Noted,
        *,
        auxiliary: Tensor | None = None,
        items: Items = None,
    ) -> ClassifierOutput:
        """The scores and, where there are labels, their loss.

        Args:
            logits_BCHW: Shape: [B, C, h, w].
            labels: Shape: [B, H, W], or None.
            noted: hidden states and attentions of what stands below.
            auxiliary: a second head's scores, which only the loss reads. Shape: [B, C, h', w'].
            items: how many pixels count in all batches of a step, if not those of this one.
        """
        loss = None if labels is None else self.loss(logits_BCHW, labels, items, auxiliary=auxiliary)
        return ClassifierOutput(loss=loss, logits=logits_BCHW, **noted)


@dataclass(frozen=True, slots=True)
class PixelTargets(Targets):
    """What a loss says that its labels may be, asked when there are some."""

    loss: PixelLoss

    def check(self, name: str, labels: Tensor, inputs: Mapping[str, object]) -> None:
        self.loss.targets().check(name, labels, inputs)
