"""How far speech is from what was to be said: frames, their end, and whether the text was read in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures.losses import Items, divided

_LEFT_OUT = -100.0
_ENDS_WEIGH = 5.0
"""How much more a frame counts at which speech ends, since there is one of them."""


def spectrogram_counts(labels_BTM: Tensor) -> tuple[Tensor, Tensor]:
    """How many numbers are to be said, and how many frames. Shape: [] each."""
    said = labels_BTM != _LEFT_OUT
    return said.sum(), said[..., 0].sum()


def spectrogram_loss(
    before_BTM: Tensor, after_BTM: Tensor, ends_BT: Tensor, labels_BTM: Tensor, numbers: Items, frames: Items
) -> Tensor:
    """Mean differences of the frames before and after the last net, and the cross-entropy of ends.

    Args:
        before_BTM: Shape: [B, T, bands].
        after_BTM: likewise.
        ends_BT: scores of an end at each frame. Shape: [B, T].
        labels_BTM: what was to be said, ``-100`` where nothing is. Shape: [B, T, bands].
        numbers: what the sum of the differences is divided by, if not the batch's own numbers.
        frames: likewise the entropies' sum.

    Returns:
        Shape: [].
    """
    said = labels_BTM != _LEFT_OUT
    wrong = torch.where(said, (after_BTM - labels_BTM).abs() + (before_BTM - labels_BTM).abs(), 0).sum()
    spoken = said[..., 0]
    last = F.pad(~spoken[:, 1:], (0, 1), value=True).to(ends_BT.dtype)
    weigh = torch.full((), _ENDS_WEIGH, dtype=ends_BT.dtype, device=ends_BT.device)
    missed = F.binary_cross_entropy_with_logits(ends_BT, last, reduction="none", pos_weight=weigh)
    missed = torch.where(spoken, missed, 0).sum()
    said_here, spoken_here = spectrogram_counts(labels_BTM)
    return _mean(wrong, numbers, said_here) + _mean(missed, frames, spoken_here)


def _mean(total: Tensor, items: Items, here: Tensor) -> Tensor:
    return total / here if items is None else divided(total, items)


@dataclass(frozen=True, slots=True)
class GuidedAttention:
    """Cross-attention costs more the farther it is from the diagonal (https://arxiv.org/abs/1710.08969, equation 3).

    Attributes:
        heads: how many heads of each layer are looked at; -1 for all but the last, as the first implementation has it.
        sigma: how far from the diagonal costs little.
        scale: factor on the mean cost.
    """

    heads: int
    sigma: float
    scale: float

    def count(self, read_BS: Tensor, spoken_BT: Tensor) -> Tensor:
        """How many pairs of a step and a token are looked at. Shape: []."""
        return ((read_BS == 1).sum(-1) * spoken_BT.sum(-1)).sum()

    def __call__(
        self, weights: Sequence[Tensor], read_BS: Tensor | None, spoken_BT: Tensor, places: Items = None
    ) -> Tensor:
        """The cost.

        Args:
            weights: of each layer's cross-attention. Shape: [B, H, T, S].
            read_BS: 1 for real tokens; None where all are.
            spoken_BT: True for real steps.
            places: what the sum is divided by, if not the batch's own pairs; see :meth:`count`.

        Returns:
            Shape: [].
        """
        looks = torch.cat([layer[:, : self.heads] for layer in weights], dim=1)
        if read_BS is None:
            read_BS = looks.new_ones(looks.shape[0], looks.shape[3])
        read = read_BS == 1
        steps, tokens = spoken_BT.sum(-1, keepdim=True), read.sum(-1, keepdim=True)
        step = torch.arange(spoken_BT.shape[1], device=looks.device)
        token = torch.arange(read.shape[1], device=looks.device)
        far = (token / tokens)[:, None] - (step / steps)[..., None]
        costs = 1.0 - torch.exp(-far.square() / (2 * self.sigma**2))
        costs = torch.where((step < steps)[..., None] & (token < tokens)[:, None], costs, 0)
        counts = (spoken_BT[..., None] & read[:, None])[:, None]
        total = torch.where(counts, costs[:, None] * looks, 0).sum()
        return self.scale * _mean(total, places, counts.sum()) / looks.shape[1]
