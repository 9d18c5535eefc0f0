"""Normalizing flows over time, as VITS has them (https://arxiv.org/abs/2106.06103): maps that can be gone backwards.

Speech is made by going backwards, from noise to what is wanted; forwards only those go that change a voice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.convolutions import SoundConv1d
from omniform.blocks.weight_norm import NormedConv1d

LEAST = 1e-3
"""The least width and height of a bin, of the whole, and the least slope between bins."""


def spline_backwards(y: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, bound: float) -> Tensor:
    """Where a rational-quadratic spline has the value ``y`` (https://arxiv.org/abs/1906.04032, equations 6 to 8).

    The spline rises from ``(-bound, -bound)`` to ``(bound, bound)`` through K bins; beyond, nothing changes.

    Args:
        y: Shape: [...].
        widths: of the bins, before the softmax. Shape: [..., K].
        heights: likewise.
        slopes: between the bins, before the softplus. Shape: [..., K - 1].
        bound: where it begins and ends.

    Returns:
        Shape: [...].
    """
    left, lower = _edges(widths, bound), _edges(heights, bound)
    slope = F.pad(LEAST + F.softplus(slopes), (1, 1), value=1.0)
    value = y.clamp(-bound, bound)
    # The very last edge belongs to the last bin.
    number = (value[..., None] >= lower[..., :-1]).sum(-1, keepdim=True).sub(1).clamp(min=0)

    x0, x1 = _of_bin(left, number)
    y0, y1 = _of_bin(lower, number)
    d0, d1 = _of_bin(slope, number)
    steep, above = (y1 - y0) / (x1 - x0), value - y0
    bent = d0 + d1 - 2 * steep
    a = (y1 - y0) * (steep - d0) + above * bent
    b = (y1 - y0) * d0 - above * bent
    c = -steep * above
    # Rounding may make it less than nothing where the curve is flat.
    root = 2 * c / (-b - torch.sqrt((b * b - 4 * a * c).clamp(min=0)))
    inside = (y >= -bound) & (y <= bound)
    return torch.where(inside, root * (x1 - x0) + x0, y)


def _of_bin(edges: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """What stands at the beginning and at the end of a bin. Shape: [..., K + 1] and [..., 1] to [...] each."""
    return edges.gather(-1, number)[..., 0], edges.gather(-1, number + 1)[..., 0]


def _edges(sizes: Tensor, bound: float) -> Tensor:
    """Where bins begin and end. Shape: [..., K] to [..., K + 1]."""
    shares = LEAST + (1 - LEAST * sizes.shape[-1]) * torch.softmax(sizes, -1)
    inner = 2 * bound * torch.cumsum(shares, -1)[..., :-1] - bound
    return F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


class WaveNet(nn.Module):
    """Gated convolutions, each dilated more than the one before (https://arxiv.org/abs/1609.03499).

    Args:
        channels: read and written.
        layers: how many there are.
        kernel: steps that each output looks at; odd.
        rate: how much farther each layer looks than the one before.
        dropout: on the gated outputs, in training.
        voice: width of a speaker's vector; 0 for none.
    """

    def __init__(self, channels: int, layers: int, *, kernel: int, rate: int, dropout: float, voice: int) -> None:
        super().__init__()
        self.channels, self.dropout = channels, dropout
        self.cond_layer = NormedConv1d(voice, 2 * channels * layers) if voice else None
        self.in_layers = nn.ModuleList(
            [
                NormedConv1d(channels, 2 * channels, kernel, dilation=rate**i, padding=(kernel - 1) * rate**i // 2)
                for i in range(layers)
            ]
        )
        self.res_skip_layers = nn.ModuleList(
            [NormedConv1d(channels, channels if i == layers - 1 else 2 * channels) for i in range(layers)]
        )

    def forward(self, x_BCT: Tensor, real_B1T: Tensor, voice_BV1: Tensor | None = None) -> Tensor:
        """Shape: [B, C, T] in and out; ``real_B1T`` is 1 for real steps."""
        told = None if voice_BV1 is None or self.cond_layer is None else self.cond_layer(voice_BV1)
        heard: Tensor | None = None
        for number, (gates, out) in enumerate(zip(self.in_layers, self.res_skip_layers, strict=True)):
            both = gates(x_BCT)
            if told is not None:
                both = both + told.narrow(1, 2 * self.channels * number, 2 * self.channels)
            level, gate = both.chunk(2, dim=1)
            more = out(F.dropout(torch.tanh(level) * torch.sigmoid(gate), self.dropout, self.training))
            if more.shape[1] > self.channels:
                x_BCT, more = (x_BCT + more[:, : self.channels]) * real_B1T, more[:, self.channels :]
            heard = more if heard is None else heard + more
        return torch.zeros_like(x_BCT) if heard is None else heard * real_B1T


class Coupling(nn.Module):
    """One half of the channels moves the other.

    Args:
        channels: of what flows; even.
        hidden: of the network between.
        wavenet: that network.
    """

    def __init__(self, channels: int, hidden: int, wavenet: WaveNet) -> None:
        super().__init__()
        self.width = channels // 2
        self.conv_pre = SoundConv1d(self.width, hidden, 1)
        self.wavenet = wavenet
        self.conv_post = SoundConv1d(hidden, self.width, 1)

    def forward(
        self, x_BCT: Tensor, real_B1T: Tensor, voice_BV1: Tensor | None = None, *, reverse: bool = False
    ) -> Tensor:
        """Shape: [B, C, T] in and out."""
        first, second = x_BCT.chunk(2, dim=1)
        moved = self.wavenet(self.conv_pre(first) * real_B1T, real_B1T, voice_BV1)
        moved = self.conv_post(moved) * real_B1T
        second = (second - moved) * real_B1T if reverse else moved + second * real_B1T
        return torch.cat((first, second), dim=1)


class CouplingFlow(nn.Module):
    """Couplings one after another, the channels turned round between.

    Args:
        flows: the couplings.
    """

    def __init__(self, flows: Iterable[Coupling]) -> None:
        super().__init__()
        self.flows = nn.ModuleList(flows)

    def forward(
        self, x_BCT: Tensor, real_B1T: Tensor, voice_BV1: Tensor | None = None, *, reverse: bool = False
    ) -> Tensor:
        """Shape: [B, C, T] in and out; backwards makes speech of a text's, forwards takes a voice off."""
        for flow in reversed(self.flows) if reverse else self.flows:
            if reverse:
                x_BCT = flow(x_BCT.flip(1), real_B1T, voice_BV1, reverse=True)
            else:
                x_BCT = flow(x_BCT, real_B1T, voice_BV1).flip(1)
        return x_BCT


class DepthSeparable(nn.Module):
    """Convolutions channel by channel, each dilated more than the one before, and others across channels.

    Args:
        channels: read and written.
        kernel: steps that each output looks at, and how much farther each layer looks; odd.
        layers: how many there are.
        dropout: in training.
    """

    def __init__(self, channels: int, kernel: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.convs_dilated = nn.ModuleList(
            [
                SoundConv1d(
                    channels,
                    channels,
                    kernel,
                    groups=channels,
                    dilation=kernel**i,
                    padding=(kernel - 1) * kernel**i // 2,
                )
                for i in range(layers)
            ]
        )
        self.convs_pointwise = nn.ModuleList([SoundConv1d(channels, channels, 1) for _ in range(layers)])
        self.norms_1 = nn.ModuleList([nn.LayerNorm(channels) for _ in range(layers)])
        self.norms_2 = nn.ModuleList([nn.LayerNorm(channels) for _ in range(layers)])

    def forward(self, x_BCT: Tensor, real_B1T: Tensor, told_BCT: Tensor | None = None) -> Tensor:
        """Shape: [B, C, T] in and out; ``told_BCT`` is added at the beginning."""
        if told_BCT is not None:
            x_BCT = x_BCT + told_BCT
        parts = zip(self.convs_dilated, self.norms_1, self.convs_pointwise, self.norms_2, strict=True)
        for wide, first, across, second in parts:
            seen = F.gelu(first(wide(x_BCT * real_B1T).transpose(1, 2)).transpose(1, 2))
            seen = F.gelu(second(across(seen).transpose(1, 2)).transpose(1, 2))
            x_BCT = x_BCT + F.dropout(seen, self.dropout, self.training)
        return x_BCT * real_B1T


class Affine(nn.Module):
    """A factor and a summand for each channel.

    Args:
        channels: how many there are.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.translate = nn.Parameter(torch.empty(channels, 1))
        self.log_scale = nn.Parameter(torch.empty(channels, 1))

    def reset(self, std: float) -> None:
        """Nothing is changed to begin with."""
        self.translate.zero_()
        self.log_scale.zero_()

    def forward(self, y_BCT: Tensor, real_B1T: Tensor, told_BCT: Tensor) -> Tensor:
        """Backwards. Shape: [B, C, T] in and out."""
        return (y_BCT - self.translate) * torch.exp(-self.log_scale) * real_B1T


class SplineFlow(nn.Module):
    """One half of the channels says by which spline the other is bent.

    Args:
        channels: of what flows; even.
        hidden: of the network between.
        network: that network.
        bins: of the splines.
        bound: where they begin and end.
    """

    def __init__(self, channels: int, hidden: int, network: DepthSeparable, *, bins: int, bound: float) -> None:
        super().__init__()
        self.width, self.bins, self.bound = channels // 2, bins, bound
        self.conv_pre = SoundConv1d(self.width, hidden, 1)
        self.conv_dds = network
        self.conv_proj = SoundConv1d(hidden, self.width * (3 * bins - 1), 1)

    def forward(self, y_BCT: Tensor, real_B1T: Tensor, told_BCT: Tensor) -> Tensor:
        """Backwards. Shape: [B, C, T] in and out."""
        first, second = y_BCT.chunk(2, dim=1)
        said = self.conv_proj(self.conv_dds(self.conv_pre(first), real_B1T, told_BCT)) * real_B1T
        said = said.unflatten(1, (self.width, -1)).transpose(2, 3)  # [B, C/2, T, 3 * bins - 1]
        sizes, slopes = said[..., : 2 * self.bins] / math.sqrt(self.conv_pre.out_channels), said[..., 2 * self.bins :]
        bent = spline_backwards(second, sizes[..., : self.bins], sizes[..., self.bins :], slopes, self.bound)
        return torch.cat((first, bent), dim=1) * real_B1T


def backwards(flows: nn.ModuleList, y_BCT: Tensor, real_B1T: Tensor, told_BCT: Tensor) -> Tensor:
    """From noise to durations; the second flow, which turns nothing that is read, is left out.

    Returns:
        Shape: [B, C, T].
    """
    order = cast("list[Callable[..., Tensor]]", list(flows))
    for flow in [*order[:1:-1], order[0]]:
        y_BCT = flow(y_BCT.flip(1), real_B1T, told_BCT)
    return y_BCT
