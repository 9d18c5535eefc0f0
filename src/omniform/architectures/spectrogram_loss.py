"""How far speech is from what was to be said: frames, their end, and whether the text was read in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_LEFT_OUT = -100.0
_ENDS_WEIGH = 5.0
"""How much more a frame counts at which speech ends, since there is one of them."""


def spectrogram_loss(before_BTM: Tensor, after_BTM: Tensor, ends_BT: Tensor, labels_BTM: Tensor) -> Tensor:
    """Mean differences of the frames before and after the last net, and the cross-entropy of ends.

    Args:
        before_BTM: Shape: [B, T, bands].
        after_BTM: likewise.
        ends_BT: scores of an end at each frame. Shape: [B, T].
        labels_BTM: what was to be said, ``-100`` where nothing is. Shape: [B, T, bands].

    Returns:
        Shape: [].
    """
    said = labels_BTM != _LEFT_OUT
    count = said.sum()
    wrong = torch.where(said, (after_BTM - labels_BTM).abs() + (before_BTM - labels_BTM).abs(), 0).sum() / count
    spoken = said[..., 0]
    last = F.pad(~spoken[:, 1:], (0, 1), value=True).to(ends_BT.dtype)
    weigh = torch.full((), _ENDS_WEIGH, dtype=ends_BT.dtype, device=ends_BT.device)
    missed = F.binary_cross_entropy_with_logits(ends_BT, last, reduction="none", pos_weight=weigh)
    return wrong + torch.where(spoken, missed, 0).sum() / spoken.sum()


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

    def __call__(self, weights: Sequence[Tensor], read_BS: Tensor | None, spoken_BT: Tensor) -> Tensor:
        """The cost.

        Args:
            weights: of each layer's cross-attention. Shape: [B, H, T, S].
            read_BS: 1 for real tokens; None where all are.
            spoken_BT: True for real steps.

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
        return self.scale * total / (counts.sum() * looks.shape[1])
