"""BigVGAN (https://arxiv.org/abs/2206.04658): HiFi-GAN whose activations are at twice the rate, then filtered."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.snake import SnakeBeta
from omniform.core.host import kept_unless_traced

TAPS = 12
"""Steps that the filters look at."""


@kept_unless_traced(4)
def lowpass(cutoff: float, width: float, taps: int) -> Tensor:
    """A windowed sinc (Kaiser's window) that lets low frequencies pass. Shape: [1, 1, taps].

    Args:
        cutoff: in periods a step.
        width: half of the band between what passes and what does not.
        taps: its length.
    """
    half = taps // 2
    attenuation = 2.285 * (half - 1) * math.pi * 4 * width + 7.95
    beta = 0.0
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation >= 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21.0)
    window = torch.kaiser_window(taps, beta=beta, periodic=False, dtype=torch.float32)
    steps = torch.arange(-half, half) + 0.5 if taps % 2 == 0 else torch.arange(taps) - half
    found = 2 * cutoff * window * torch.sinc(2 * cutoff * steps)
    return (found / found.sum()).view(1, 1, taps)


class Doubled(nn.Module):
    """A snake at twice the rate: what it makes too high is filtered out again.

    Args:
        channels: read and given.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = SnakeBeta(channels)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] in and out."""
        channels = x_BCT.shape[1]
        taps = lowpass(0.25, 0.3, TAPS).to(x_BCT).expand(channels, -1, -1)
        beyond = TAPS // 2 - 1
        wide = F.pad(x_BCT, (beyond, beyond), mode="replicate")
        wide = 2 * F.conv_transpose1d(wide, taps, stride=2, groups=channels)
        cut = 2 * beyond + (TAPS - 2) // 2
        wide = self.act(wide[..., cut : wide.shape[-1] - cut])
        wide = F.pad(wide, (TAPS // 2 - 1, TAPS // 2), mode="replicate")
        return F.conv1d(wide, taps, stride=2, groups=channels)


class DoubledBlock(nn.Module):
    """A residual block: pairs of convolutions, the first of each dilated, each behind a snake at twice the rate.

    Args:
        channels: read and given.
        kernel: of the convolutions; odd.
        dilations: of the pairs.
    """

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=(kernel * d - d) // 2) for d in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in dilations)
        self.activations = nn.ModuleList(Doubled(channels) for _ in range(2 * len(dilations)))

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] in and out."""
        pairs = zip(self.convs1, self.convs2, self.activations[::2], self.activations[1::2], strict=True)
        for wide, near, before, between in pairs:
            x_BCT = x_BCT + near(between(wide(before(x_BCT))))
        return x_BCT


class BigVgan(nn.Module):
    """Frames to samples.

    Args:
        bands: numbers of each frame.
        channels: after the first convolution; each stage halves them.
        rates: of the stages: how many steps they make of one.
        kernels: of their convolutions.
        block_kernels: of the residual blocks of every stage.
        dilations: of each of these blocks' convolutions.
    """

    def __init__(
        self,
        bands: int,
        channels: int,
        rates: Sequence[int],
        kernels: Sequence[int],
        block_kernels: Sequence[int],
        dilations: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        widths = [channels >> stage for stage in range(len(rates) + 1)]
        self.conv_pre = nn.Conv1d(bands, channels, 7, padding=3)
        self.ups = nn.ModuleList(
            nn.ModuleList((nn.ConvTranspose1d(a, b, kernel, rate, padding=(kernel - rate) // 2),))
            for a, b, kernel, rate in zip(widths, widths[1:], kernels, rates, strict=False)
        )
        self.resblocks = nn.ModuleList(
            DoubledBlock(width, kernel, own)
            for width in widths[1:]
            for kernel, own in zip(block_kernels, dilations, strict=False)
        )
        self.kinds = len(block_kernels)
        self.activation_post = Doubled(widths[-1])
        self.conv_post = nn.Conv1d(widths[-1], 1, 7, padding=3, bias=False)

    def forward(self, frames_BCT: Tensor) -> Tensor:
        """Shape: [B, bands, T] to [B, 1, T * all rates], between -1 and 1."""
        x = self.conv_pre(frames_BCT)
        for stage, wider in enumerate(self.ups):
            x = wider[0](x)  # type: ignore[index]
            blocks = self.resblocks[stage * self.kinds : (stage + 1) * self.kinds]
            x = torch.stack([block(x) for block in blocks]).sum(0) / self.kinds
        samples: Tensor = self.conv_post(self.activation_post(x))
        return samples.clamp(-1, 1)
