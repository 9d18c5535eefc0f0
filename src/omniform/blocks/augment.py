"""SpecAugment (https://arxiv.org/abs/1904.08779): stretches of a spectrogram are blanked in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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

        The luck is numpy's, drawn in the reference's order, so that seeds mean the same: its draws leave torch's as
        they are, on which dropout stands.

        Args:
            lengths: how much of the axis is real, by row. Shape: [B].
            size: of the axis.

        Returns:
            Shape: [B, size], boolean.
        """
        blank = torch.zeros(lengths.shape[0], size, dtype=torch.bool)
        if self.length > size:
            return blank
        luck = float(np.random.rand(1)[0])
        if not self._count(size, size, luck):
            return blank
        for row, real in zip(blank, lengths.tolist(), strict=True):
            starts = np.arange(int(real) - self.length + 1)
            for start in np.random.choice(starts, self._count(int(real), size, luck), replace=False).tolist():
                row[start : start + self.length] = True
        return blank

    def _count(self, real: int, size: int, luck: float) -> int:
        """How many stretches there are of so much that is real."""
        wanted = max(int(self.share * real / self.length + luck), self.least)
        return min(wanted, size // self.length, max(real - self.length + 1, 0))


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
        blank = self.times(features_BFT.transpose(1, 2), attention_mask)
        if blank is not None:
            features_BFT = features_BFT.masked_fill(blank[:, None, :], 0)
        return self.bands(features_BFT.transpose(1, 2)).transpose(1, 2)

    def times(self, frames_BTF: Tensor, attention_mask: Tensor | None) -> Tensor | None:
        """Which frames are blanked. Shape: [B, T, F] and the mask's [B, T] to [B, T]; None for none at all."""
        if not self.time.share > 0:
            return None
        rows, frames = frames_BTF.shape[:2]
        real = torch.full((rows,), frames) if attention_mask is None else attention_mask.sum(-1).cpu()
        return self.time.draw(real, frames).to(frames_BTF.device)

    def bands(self, frames_BTF: Tensor) -> Tensor:
        """Frames with bands, or channels, set to zero. Shape: [B, T, F] in and out."""
        if not self.frequency.share > 0:
            return frames_BTF
        rows, bands = frames_BTF.shape[0], frames_BTF.shape[2]
        blank = self.frequency.draw(torch.full((rows,), bands), bands).to(frames_BTF.device)
        return frames_BTF.masked_fill(blank[:, None, :], 0)


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
