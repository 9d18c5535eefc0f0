"""ECAPA-TDNN (https://arxiv.org/abs/2005.07143): one vector that says whose voice a spectrogram is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed


def mirrored(inside: int, outside: int, kernel: int = 1, dilation: int = 1) -> nn.Conv1d:
    """A convolution that loses no step: a sound is mirrored at its ends."""
    return nn.Conv1d(inside, outside, kernel, dilation=dilation, padding="same", padding_mode="reflect")


class TimeDelay(nn.Module):
    """A convolution and a ReLU.

    Args:
        inside: channels that it reads.
        outside: channels that it gives.
        kernel: steps that each output looks at.
        dilation: how far these stand apart.
    """

    def __init__(self, inside: int, outside: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = mirrored(inside, outside, kernel, dilation)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] to [B, C', T]."""
        return F.relu(self.conv(x_BCT))


class Res2Net(nn.Module):
    """Parts of the channels one after another, each with what the one before became (https://arxiv.org/abs/1904.01169).

    Args:
        channels: read and given.
        parts: how many.
        kernel: of their convolutions.
        dilation: likewise.
    """

    def __init__(self, channels: int, parts: int, kernel: int, dilation: int) -> None:
        super().__init__()
        own = channels // parts
        self.blocks = nn.ModuleList(TimeDelay(own, own, kernel, dilation) for _ in range(parts - 1))
        self.parts = parts

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] in and out."""
        first, *others = x_BCT.chunk(self.parts, dim=1)
        made = [first]
        for number, (part, block) in enumerate(zip(others, self.blocks, strict=True)):
            made.append(block(part if number == 0 else part + made[-1]))
        return torch.cat(made, dim=1)


class Excitation(nn.Module):
    """Channels weighed by what their means say (https://arxiv.org/abs/1709.01507).

    Args:
        channels: read and given.
        narrow: channels between.
    """

    def __init__(self, channels: int, narrow: int) -> None:
        super().__init__()
        self.conv1 = mirrored(channels, narrow)
        self.conv2 = mirrored(narrow, channels)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] in and out."""
        share: Tensor = self.conv2(F.relu(self.conv1(x_BCT.mean(dim=2, keepdim=True))))
        return x_BCT * share.sigmoid()


class ExcitedRes2Net(Composed):
    """Both, between convolutions of each step.

    Args:
        tdnn1: before.
        res2net_block: looks around.
        tdnn2: after.
        se_block: weighs channels.
    """

    tdnn1: TimeDelay
    res2net_block: Res2Net
    tdnn2: TimeDelay
    se_block: Excitation

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] in and out."""
        seen: Tensor = self.se_block(self.tdnn2(self.res2net_block(self.tdnn1(x_BCT))))
        return seen + x_BCT


class StatisticsPooling(nn.Module):
    """Mean and deviation of each channel over time, steps being weighed by what is learned.

    Args:
        channels: read; twice as many are given.
        narrow: channels between.
    """

    def __init__(self, channels: int, narrow: int) -> None:
        super().__init__()
        self.tdnn = TimeDelay(3 * channels, narrow)
        self.conv = mirrored(narrow, channels)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] to [B, 2 * C, 1]."""
        every = torch.full_like(x_BCT[:, :1], 1 / x_BCT.shape[-1])
        read = torch.cat((x_BCT, *(one.expand_as(x_BCT) for one in _statistics(x_BCT, every))), dim=1)
        shares = self.conv(torch.tanh(self.tdnn(read))).softmax(-1)
        return torch.cat(_statistics(x_BCT, shares), dim=1)


def _statistics(x_BCT: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over time, by shares. Shape: [B, C, 1] each."""
    mean = (shares * x_BCT).sum(-1, keepdim=True)
    return mean, (shares * (x_BCT - mean).square()).sum(-1, keepdim=True).clamp(1e-12).sqrt()


@dataclass(frozen=True, slots=True, kw_only=True)
class EcapaSpec:
    """The sizes of one.

    Attributes:
        bands: of the spectrogram.
        channels: of each block, and last of what all give together.
        kernels, dilations: of their convolutions.
        attended: channels by which steps are weighed.
        parts: of a block's channels.
        excited: channels by which channels are weighed.
        out: width of the vector.
    """

    bands: int
    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    dilations: tuple[int, ...]
    attended: int
    parts: int
    excited: int
    out: int


class Ecapa(nn.Module):
    """A spectrogram to a vector.

    Args:
        spec: its sizes.
    """

    def __init__(self, spec: EcapaSpec) -> None:
        super().__init__()
        first, *middle, last = zip(spec.channels, spec.kernels, spec.dilations, strict=True)
        self.blocks = nn.ModuleList([TimeDelay(spec.bands, *first)])
        for width, kernel, dilation in middle:
            self.blocks.append(
                ExcitedRes2Net(
                    tdnn1=TimeDelay(width, width),
                    res2net_block=Res2Net(width, spec.parts, kernel, dilation),
                    tdnn2=TimeDelay(width, width),
                    se_block=Excitation(width, spec.excited),
                )
            )
        width = last[0]
        self.mfa = TimeDelay(width, *last)
        self.asp = StatisticsPooling(width, spec.attended)
        self.fc = mirrored(2 * width, spec.out)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Shape: [B, T, bands] to [B, out]."""
        x, made = x_BTC.transpose(1, 2), list[Tensor]()
        for block in self.blocks:
            x = block(x)
            made.append(x)
        out: Tensor = self.fc(self.asp(self.mfa(torch.cat(made[1:] or made, dim=1))))
        return out.squeeze(-1)


def check_sizes(channels: Sequence[int], kernels: Sequence[int], dilations: Sequence[int], parts: int) -> str | None:
    """What is wrong with some sizes; None for nothing."""
    if not len(channels) == len(kernels) == len(dilations) >= 3:
        return "enc_channels, enc_kernel_sizes and enc_dilations of one length, at least 3"
    if len({*channels[:-1]}) > 1 or sum(channels[1:-1]) != channels[-1]:
        return "enc_channels that are alike but for the last, which is the sum of all between it and the first"
    return None if channels[0] % parts == 0 else f"enc_channels that enc_res2net_scale, {parts}, divides"
