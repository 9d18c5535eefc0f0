"""Noisy copies of the objects as further queries in training: the decoder learns to bring them back.

Source: Zhang et al. 2022, "DINO" (https://arxiv.org/abs/2203.03605), 3.3. Half of the copies are so far off that
they are to say that there is nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.detection import Pairs, Target, corners


@dataclass(frozen=True, slots=True)
class Copies:
    """Noisy copies of a batch's objects.

    Attributes:
        classes: Shape: [B, N]; the number of classes stands for padding.
        boxes: before their sigmoid, Shape: [B, N, 4].
        allowed: which of all queries see which, copies first, Shape: [1, 1, N + Q, N + Q].
        positives: which of a picture's copies are to find their object, one tensor per picture.
        groups: how many groups of copies there are, which do not see one another.
        split: how many queries are copies, and how many are not.
    """

    classes: Tensor
    boxes: Tensor
    allowed: Tensor
    positives: tuple[Tensor, ...]
    groups: int
    split: tuple[int, int]

    def told(self) -> dict[str, object]:
        """What outputs tell of them, by the ecosystem's names."""
        return {"dn_positive_idx": self.positives, "dn_num_group": self.groups, "dn_num_split": list(self.split)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Denoising:
    """How objects are copied.

    Attributes:
        queries: about how many copies of a kind there are.
        label_noise: twice the part of copies whose class is drawn anew.
        box_noise: how far corners move, in halves of the box's sides; far copies move once more as far at least.
        classes: how many there are.
    """

    queries: int
    label_noise: float
    box_noise: float
    classes: int

    def __call__(self, labels: Sequence[Target], device: torch.device, queries: int) -> Copies | None:
        """Copies of the objects of a batch.

        Args:
            queries: how many other queries there are.

        Returns:
            None where no picture has an object.
        """
        counts = [len(target["class_labels"]) for target in labels]
        most = max(counts, default=0)
        if most == 0:
            return None
        groups = max(1, self.queries // most)
        ids = torch.full((len(labels), most), self.classes, dtype=torch.int32, device=device)
        boxes = torch.zeros(len(labels), most, 4, device=device)
        for i, target in enumerate(labels):
            ids[i, : counts[i]] = target["class_labels"].to(device, torch.int32)
            boxes[i, : counts[i]] = target["boxes"].to(device, torch.float32)
        # A group: the objects, to be found again, and then the same, to be rejected.
        real = (ids != self.classes).tile(1, 2 * groups)
        far = (torch.arange(2 * most, device=device) >= most).float().tile(groups)[None, :, None]
        ids, boxes = self._other_classes(ids.tile(1, 2 * groups), real), boxes.tile(1, 2 * groups, 1)
        copies = ids.shape[1]
        starts = [group * 2 * most for group in range(groups)]
        positives = tuple(
            torch.tensor([s + j for s in starts for j in range(n)], dtype=torch.int64, device=device) for n in counts
        )
        return Copies(
            classes=ids,
            boxes=self._moved(boxes, far),
            allowed=_visible(copies, queries, 2 * most, device),
            positives=positives,
            groups=groups,
            split=(copies, queries),
        )

    def _other_classes(self, ids: Tensor, real: Tensor) -> Tensor:
        if self.label_noise <= 0:
            return ids
        drawn = torch.rand(ids.shape, device=ids.device) < self.label_noise * 0.5
        others = torch.randint(0, self.classes, ids.shape, dtype=ids.dtype, device=ids.device)
        return torch.where(drawn & real, others, ids)

    def _moved(self, boxes: Tensor, far: Tensor) -> Tensor:
        if self.box_noise <= 0:
            return boxes  # as they are, though sigmoids follow: so the reference has it
        reach = boxes[..., 2:].tile(1, 1, 2) * 0.5 * self.box_noise
        sign = torch.randint(0, 2, boxes.shape, dtype=boxes.dtype, device=boxes.device) * 2.0 - 1.0
        moved = corners(boxes) + (torch.rand_like(boxes) + far) * sign * reach
        near, beyond = moved.clamp(0, 1).chunk(2, dim=-1)
        return inverse_sigmoid(torch.cat(((near + beyond) / 2, beyond - near), dim=-1))


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """What the sigmoid makes ``x`` of, from 0 to 1; what is nearer to either than ``eps`` counts as so near."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def _visible(copies: int, queries: int, group: int, device: torch.device) -> Tensor:
    """Copies see their own group and all plain queries; plain queries see one another."""
    group_of = torch.arange(copies + queries, device=device) // group
    plain = torch.arange(copies + queries, device=device) >= copies
    return (plain[None] | (~plain[:, None] & (group_of[:, None] == group_of[None])))[None, None]


def copied_pairs(told: Mapping[str, object], labels: Sequence[Target]) -> tuple[Pairs, int]:
    """Which copy is to find which object, and how often each object was copied, from what outputs tell of them."""
    positives, groups = cast(Sequence[Tensor], told["dn_positive_idx"]), cast(int, told["dn_num_group"])
    counts = [len(target["class_labels"]) for target in labels]
    firsts = accumulate(counts, initial=0)
    pictures = [torch.full_like(places, i) for i, places in enumerate(positives)]
    device = positives[0].device
    objects = [
        torch.arange(first, first + n, device=device).tile(groups) for first, n in zip(firsts, counts, strict=False)
    ]
    return (torch.cat(pictures), torch.cat([*positives]), torch.cat(objects)), groups
