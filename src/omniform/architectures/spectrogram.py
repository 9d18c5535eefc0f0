"""Encoders that read spectrograms as pictures: patches that overlap, in time and in frequency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.vision import VisionEncoder
from omniform.blocks.patches import Patching, PatchStem, Size
from omniform.core.context import Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlappingPatching(Patching):
    """Patches whose places differ by less than their size.

    Attributes:
        stride: from one patch to the next, in bands and in frames.
    """

    stride: Size

    def grid_of(self, height: int, width: int) -> Size:
        """Rows and columns of patches; what is left over at the edges is cut off."""
        rows, columns = (
            (length - patch) // step + 1
            for length, patch, step in zip((height, width), self.patch_size, self.stride, strict=True)
        )
        return rows, columns


class OverlappingStem(PatchStem):
    """Cuts pictures into overlapping patches and projects each to a vector."""

    def __init__(self, patching: OverlappingPatching, dim: int) -> None:
        super().__init__(patching, dim)
        self.projection = nn.Conv2d(patching.channels, dim, kernel_size=patching.patch_size, stride=patching.stride)


class FirstTwo(nn.Module):
    """The mean of a class token and of one that learnt from a teacher."""

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Shape: [B, T, D] to [B, D]."""
        return (hidden_BTD[:, 0] + hidden_BTD[:, 1]) / 2


class NormedClasses(nn.Module):
    """A norm, and a projection onto the classes; without classes, the norm alone.

    Args:
        norm: of vectors.
        dense: onto the classes.
    """

    def __init__(self, norm: nn.Module, dense: nn.Module) -> None:
        super().__init__()
        self.layernorm = norm
        self.dense = dense

    def forward(self, vectors_BD: Tensor) -> Tensor:
        """Shape: [B, D] to [B, classes]."""
        scores: Tensor = self.dense(self.layernorm(vectors_BD))
        return scores


class SpectrogramEncoder(VisionEncoder):
    """A transformer over the patches of a spectrogram (AST, https://arxiv.org/abs/2104.01778)."""

    main_input = "input_values"

    def forward(  # type: ignore[override]
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> BaseModelOutput:
        """Hidden states of spectrograms, and one vector per spectrogram.

        Args:
            input_values: Shape: [B, frames, bands], of the model's own lengths; frames that no patch reaches may be
                missing, or too many.
            attention_mask: Shape: [B, T], 0 for tokens that nobody may look at.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: another number of frames or bands than the model was made for.
        """
        return super().forward(self.pictured(input_values), attention_mask=attention_mask, **given)

    def pictured(self, input_values: Tensor | None) -> Tensor:
        """Spectrograms as pictures of one channel and of the model's size. Shape: [B, 1, bands, frames]."""
        patching = self.patches.patching
        bands, frames = patching.image_size
        fits = input_values is not None and input_values.dim() == 3 and input_values.is_floating_point()
        lengths = None if not fits or input_values is None else (input_values.shape[2], input_values.shape[1])
        if input_values is None or lengths is None or not self._covers(lengths):
            raise InputError(
                "the spectrograms do not fit the model",
                where="input_values",
                expected=f"floating-point numbers of shape [batch, {frames}, {bands}]",
                found="none" if input_values is None else f"{input_values.dtype} of shape {list(input_values.shape)}",
                remedy="Make them with the checkpoint's own feature extractor, which pads to this length.",
            )
        pictures = input_values.transpose(1, 2)[:, None]
        # What no patch reaches changes nothing.
        return F.pad(pictures, (0, frames - lengths[1], 0, bands - lengths[0]))

    def _covers(self, lengths: Size) -> bool:
        patching = self.patches.patching
        wide = all(length >= patch for length, patch in zip(lengths, patching.patch_size, strict=True))
        return wide and patching.grid_of(*lengths) == patching.grid
