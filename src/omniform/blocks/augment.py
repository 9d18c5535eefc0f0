"""SpecAugment (https://arxiv.org/abs/1904.08779): stretches of a spectrogram are blanked in training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omniform.core.reader import ConfigReader


@dataclass(frozen=True, slots=True)
class Spans:
    """Stretches along one axis.

    Attributes:
        share: about which part of the axis is blanked, less where stretches overlap.
        length: of one stretch.
        least: how many stretches there are at least.
    """

    share: float
    length: int
    least: int

    def draw(self, lengths: Tensor, size: int) -> Tensor:
        """Where to blank.

        Args:
            lengths: how much of the axis is real, by row. Shape: [B].
            size: of the axis.

        Returns:
            Shape: [B, size], boolean.
        """
        blank = torch.zeros(lengths.shape[0], size, dtype=torch.bool)
        luck = torch.rand(()).item()
        for row, real in zip(blank, lengths.tolist(), strict=True):
            starts = int(real) - self.length + 1
            count = min(
                max(int(self.share * real / self.length + luck), self.least), size // self.length, max(starts, 0)
            )
            for start in torch.randperm(max(starts, 0))[:count].tolist():
                row[start : start + self.length] = True
        return blank


@dataclass(frozen=True, slots=True)
class SpecAugment:
    """Blanks stretches of time and of frequency."""

    time: Spans
    frequency: Spans

    def __call__(self, features_BFT: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Features with stretches set to zero.

        Args:
            features_BFT: Shape: [B, F, T].
            attention_mask: Shape: [B, T], 1 for real frames.

        Returns:
            Shape: [B, F, T], a new tensor.
        """
        rows, bands, frames = features_BFT.shape
        real = torch.full((rows,), frames) if attention_mask is None else attention_mask.sum(-1).cpu()
        if self.time.share > 0:
            blank = self.time.draw(real, frames).to(features_BFT.device)
            features_BFT = features_BFT.masked_fill(blank[:, None, :], 0)
        if self.frequency.share > 0:
            blank = self.frequency.draw(torch.full((rows,), bands), bands).to(features_BFT.device)
            features_BFT = features_BFT.masked_fill(blank[:, :, None], 0)
        return features_BFT


def read_spec_augment(r: ConfigReader, default: bool) -> SpecAugment | None:
    """The settings of a config, or None where it says ``apply_spec_augment: false``."""
    augment = SpecAugment(
        time=Spans(
            r.probability("mask_time_prob", 0.05),
            r.integer("mask_time_length", 10),
            r.integer("mask_time_min_masks", 2, least=0),
        ),
        frequency=Spans(
            r.probability("mask_feature_prob", 0.0),
            r.integer("mask_feature_length", 10),
            r.integer("mask_feature_min_masks", 0, least=0),
        ),
    )
    return augment if r.flag("apply_spec_augment", default) else None
