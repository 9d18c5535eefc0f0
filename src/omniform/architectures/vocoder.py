"""Vocoders: spectrograms to waves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.blocks.hifigan import HifiGan
from omniform.core.errors import InputError


class Vocoder(Model):
    """A net that makes samples of frames, and what frames are normed by before.

    Args:
        net: frames to samples.
        bands: numbers of each frame.
        normed: whether frames are normed.
    """

    main_input = "spectrogram"

    net: HifiGan
    bands: int
    normed: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        self.register_buffer("mean", torch.zeros(self.bands))
        self.register_buffer("scale", torch.ones(self.bands))
        self.mean: Tensor
        self.scale: Tensor

    def get_input_embeddings(self) -> nn.Module:
        return self.net.conv_pre

    def arrive(self, inputs: dict[str, object]) -> None:
        frames = inputs.get("spectrogram")
        fits = isinstance(frames, Tensor) and frames.dim() in (2, 3) and frames.shape[-1] == self.bands
        if not fits or not isinstance(frames, Tensor) or not frames.numel():
            raise InputError(
                "this is no spectrogram that the vocoder reads",
                where="spectrogram",
                expected=f"shape [frames, {self.bands}] or [batch, frames, {self.bands}]",
                found=f"shape {list(frames.shape)}" if isinstance(frames, Tensor) else type(frames).__name__,
            )

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Waves.

        Args:
            spectrogram: Shape: [B, T, bands], or of one [T, bands].

        Returns:
            Shape: [B, samples], or of one [samples]; between -1 and 1.

        Raises:
            InputError: other frames than those.
        """
        frames = (spectrogram - self.mean) / self.scale if self.normed else spectrogram
        single = frames.dim() == 2
        wave: Tensor = self.net((frames[None] if single else frames).transpose(1, 2))[:, 0]
        return wave[0] if single else wave
