"""What models of waves are made of: convolutions from samples to frames, places by convolution, adapters.

Sources: wav2vec 2.0 (https://arxiv.org/abs/2006.11477), data2vec (https://arxiv.org/abs/2202.03555), adapters of
languages (MMS, https://arxiv.org/abs/2305.13516).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.augment import SpecAugment
from omniform.blocks.composed import Composed
from omniform.blocks.layers import PreNorm
from omniform.blocks.mlp import activation
from omniform.blocks.poolers import OptionalPart
from omniform.blocks.weight_norm import NormedConv1d
from omniform.core.context import StepContext
from omniform.core.errors import InputError, brief

Count = TypeVar("Count", int, Tensor)
"""A length, or one for each row."""


def steps_of(length: Count, kernel: int, stride: int) -> Count:
    """How many steps a convolution without padding makes of so many."""
    made: Count = (length - kernel) // stride + 1
    return made


def steps_for_one(convs: Sequence[nn.Conv1d]) -> int:
    """How many steps there must be, at the least, for convolutions one after another to make one."""
    needed = 1
    for conv in reversed(convs):
        needed = max(1, (needed - 1) * conv.stride[0] + conv.kernel_size[0] - 2 * int(conv.padding[0]))
    return needed


class EvenLinear(nn.Linear):
    """A projection that begins evenly spread, as torch's own do."""

    def reset(self, std: float) -> None:
        """Within one over the root of the inputs."""
        reach = self.in_features**-0.5
        nn.init.uniform_(self.weight, -reach, reach)
        nn.init.uniform_(self.bias, -reach, reach)


class StemLayer(Composed):
    """A convolution and an activation.

    Args:
        conv: without padding.
        act: name of the activation.
    """

    conv: nn.Conv1d
    act: str

    def __post_init__(self) -> None:
        self._act = activation(self.act)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] to [B, C', T']."""
        return self._act(self.normed(self.conv(x_BCT)))

    def normed(self, x_BCT: Tensor) -> Tensor:
        """What the activation is given. Shape: [B, C, T] in and out."""
        return x_BCT

    def extra_repr(self) -> str:
        return f"act={self.act}"


class GroupNormedLayer(StemLayer):
    """One whose channels are normed over time, each for itself."""

    layer_norm: nn.GroupNorm

    def normed(self, x_BCT: Tensor) -> Tensor:
        normed: Tensor = self.layer_norm(x_BCT)
        return normed


class LayerNormedLayer(StemLayer):
    """One whose steps are normed over channels, each for itself."""

    layer_norm: nn.LayerNorm

    def normed(self, x_BCT: Tensor) -> Tensor:
        normed: Tensor = self.layer_norm(x_BCT.transpose(1, 2)).transpose(1, 2)
        return normed


class WaveStem(nn.Module):
    """Samples to frames, by convolutions.

    Args:
        conv_layers: one after another; the first reads one channel.
    """

    def __init__(self, conv_layers: Sequence[StemLayer]) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList(conv_layers)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Kernel and stride of every convolution."""
        convs = [layer.conv for layer in self.conv_layers if isinstance(layer, StemLayer)]
        return [(conv.kernel_size[0], conv.stride[0]) for conv in convs]

    @property
    def channels(self) -> int:
        """Width of a frame."""
        last = self.conv_layers[-1]
        assert isinstance(last, StemLayer)
        return last.conv.out_channels

    @property
    def least(self) -> int:
        """How many samples one frame is made of."""
        return self.samples_of(1)

    def samples_of(self, frames: int) -> int:
        """How many samples so many frames are made of."""
        for kernel, stride in reversed(self.shapes):
            frames = (frames - 1) * stride + kernel
        return frames

    def frames_of(self, samples: Count) -> Count:
        """How many frames come of so many samples."""
        for kernel, stride in self.shapes:
            samples = steps_of(samples, kernel, stride)
        return samples

    def forward(self, wave_BS: Tensor) -> Tensor:
        """Shape: [B, samples] to [B, T, C]."""
        first = self.conv_layers[0]
        assert isinstance(first, StemLayer)
        x_BCT = wave_BS[:, None].to(first.conv.weight.dtype)
        for layer in self.conv_layers:
            x_BCT = layer(x_BCT)
        return x_BCT.transpose(1, 2)


class FeatureProjection(Composed):
    """Frames to the width of the layers.

    Args:
        layer_norm: applied to the frames; None for nothing.
        dropout: on what comes out, in training.
    """

    layer_norm: nn.LayerNorm | None
    projection: nn.Linear | nn.Identity
    dropout: float = 0.0

    def forward(self, frames_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """What the layers read, and the normed frames. Shape: [B, T, C] to [B, T, D] and [B, T, C]."""
        normed = frames_BTC if self.layer_norm is None else self.layer_norm(frames_BTC)
        return F.dropout(self.projection(normed), self.dropout, self.training), normed


class PlaceConv1d(NormedConv1d):
    """A convolution that tells places; its bias begins at zero."""

    def reset(self, std: float) -> None:
        nn.init.zeros_(self.bias)


class ConvPositions(Composed):
    """Where frames stand, told from their neighbours by a convolution in groups.

    Args:
        conv: as many steps out as in, or one more where its kernel is even; that one is cut off.
        act: name of the activation.
    """

    conv: NormedConv1d | nn.Conv1d
    act: str

    def __post_init__(self) -> None:
        self._act = activation(self.act)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """What is added to each frame. Shape: [B, T, D] in and out."""
        found = self.conv(self.read(x_BTD.transpose(1, 2)))
        return self._act(found[..., : x_BTD.shape[1]]).transpose(1, 2)

    def read(self, x_BDT: Tensor) -> Tensor:
        """What the convolution reads. Shape: [B, D, T] in and out."""
        return x_BDT

    def extra_repr(self) -> str:
        return f"act={self.act}"


class SpecMask(OptionalPart):
    """What stands for frames that are hidden: SpecAugment's in training, or those that the caller names.

    Recognisers that were never trained here lack it (wav2vec2-base-960h).

    Args:
        dim: width of a frame.
        augment: which are hidden in training; None to hide none ever.
        whole: whether padding is hidden too, as though it were sound (HuBERT).
    """

    def __init__(self, dim: int, augment: SpecAugment | None, *, whole: bool = False) -> None:
        super().__init__()
        self.augment = augment
        self.whole = whole
        self.embed = nn.Parameter(torch.empty(dim))

    def reset(self, std: float) -> None:
        """Evenly from 0 to 1."""
        nn.init.uniform_(self.embed)

    def forward(self, x_BTD: Tensor, real_BT: Tensor | None, hidden_BT: Tensor | None) -> Tensor:
        """Frames, some of them hidden.

        Args:
            x_BTD: Shape: [B, T, D].
            real_BT: Shape: [B, T], True for frames of sound; None where all are.
            hidden_BT: Shape: [B, T], True for frames to hide; None: which, is drawn in training.

        Returns:
            Shape: [B, T, D].
        """
        if self.augment is None:
            return x_BTD
        if hidden_BT is None and self.training:
            hidden_BT = self.augment.times(x_BTD, None if self.whole else real_BT)
        if hidden_BT is not None:
            x_BTD = torch.where(hidden_BT.bool()[..., None], self.embed.to(x_BTD.dtype), x_BTD)
        return self.augment.bands(x_BTD) if self.training else x_BTD


class GatedStep(Composed):
    """A convolution that gates itself and makes fewer steps."""

    conv: nn.Conv1d

    def forward(self, x_BDT: Tensor) -> Tensor:
        """Shape: [B, D, T] to [B, D, T']."""
        return F.glu(self.conv(x_BDT), dim=1)


class ConvAdapter(Composed):
    """Fewer frames, of another width if need be, behind the layers.

    Args:
        proj: to that width; None where it is the same.
        proj_layer_norm: applied to that.
        layers: each makes fewer steps.
        layerdrop: probability of leaving out one of them in training.
        stride: of each.
    """

    proj: nn.Linear | None
    proj_layer_norm: nn.LayerNorm | None
    layers: nn.ModuleList
    layerdrop: float
    stride: int

    def frames_of(self, frames: Count) -> Count:
        """How many frames are left of so many."""
        for _ in self.layers:
            frames = steps_of(frames, 1, self.stride)
        return frames

    @property
    def least(self) -> int:
        """How many frames one is made of."""
        return steps_for_one([layer.conv for layer in self.layers if isinstance(layer, GatedStep)])

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shape: [B, T, D] to [B, T', D']."""
        if self.proj is not None and self.proj_layer_norm is not None:
            x_BTD = self.proj_layer_norm(self.proj(x_BTD))
        x_BDT = x_BTD.transpose(1, 2)
        for layer in self.layers:
            # The reference's luck here is numpy's, and so is ours: equal seeds leave out the same.
            if not self.training or np.random.random() > self.layerdrop:
                x_BDT = layer(x_BDT)
        return x_BDT.transpose(1, 2)


class Bottleneck(Composed):
    """A small feed-forward of its own norm, one for each language (MMS)."""

    norm: nn.LayerNorm
    linear_1: nn.Linear
    linear_2: nn.Linear

    @classmethod
    def of(cls, dim: int, inner: int) -> Bottleneck:
        """One of such widths."""
        return cls(norm=nn.LayerNorm(dim), linear_1=nn.Linear(dim, inner), linear_2=nn.Linear(inner, dim))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """What it adds. Shape: [B, T, D] in and out."""
        out: Tensor = self.linear_2(F.relu(self.linear_1(self.norm(x_BTD))))
        return out


class AdaptedPreNorm(PreNorm):
    """A pre-norm layer with a bottleneck behind it."""

    adapter_layer: Bottleneck

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = super().forward(x_BTD, ctx)
        adapted: Tensor = x_BTD + self.adapter_layer(x_BTD)
        return adapted


def check_wave(wave: object, stem: WaveStem) -> Tensor:
    """The samples, if they are such that there is a frame of them.

    Raises:
        InputError: they are not.
    """
    if not isinstance(wave, Tensor) or wave.dim() != 2 or not wave.is_floating_point():
        raise InputError(
            "these are no samples of sounds",
            where="input_values",
            expected="floating-point numbers of shape [batch, samples]",
            found=f"{wave.dtype} of shape {list(wave.shape)}" if isinstance(wave, Tensor) else brief(wave),
            remedy="The checkpoint's feature extractor makes them.",
        )
    least = stem.least
    if len(wave) == 1 and isinstance(stem.conv_layers[0], GroupNormedLayer):
        least = max(least, sum(stem.shapes[0]))  # the norm over time needs two steps
    if wave.shape[1] < least:
        raise InputError(
            "the sound is too short for one frame",
            where="input_values",
            expected=f"{least} samples or more",
            found=wave.shape[1],
        )
    return wave
