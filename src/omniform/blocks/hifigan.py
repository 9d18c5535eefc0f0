"""HiFi-GAN (https://arxiv.org/abs/2010.05646): frames to samples, by convolutions that make more steps of few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.core.reader import ConfigReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsampling:
    """How frames become samples.

    Attributes:
        channels: after the first convolution; each stage halves them.
        rates: of the stages: how many steps they make of one.
        kernels: of their convolutions.
        block_kernels: of the residual blocks of every stage.
        dilations: of each of these blocks' convolutions.
        slope: of the leaky ReLU between.
    """

    channels: int
    rates: tuple[int, ...]
    kernels: tuple[int, ...]
    block_kernels: tuple[int, ...]
    dilations: tuple[tuple[int, ...], ...]
    slope: float

    @classmethod
    def read(cls, r: ConfigReader, *, rates: tuple[int, ...], kernels: tuple[int, ...]) -> Upsampling:
        """Read it from a config; what is given are the defaults."""
        made = cls(
            channels=r.integer("upsample_initial_channel", 512),
            rates=r.integers("upsample_rates", rates, least=1),
            kernels=r.integers("upsample_kernel_sizes", kernels, least=1),
            block_kernels=r.integers("resblock_kernel_sizes", (3, 7, 11), least=1),
            dilations=r.integer_lists("resblock_dilation_sizes", ((1, 3, 5),) * 3, least=1),
            slope=r.number("leaky_relu_slope", 0.1),
        )
        made._check(r)
        return made

    def _check(self, r: ConfigReader) -> None:
        if len(self.kernels) != len(self.rates) or not self.rates:
            raise r.fail("upsample_kernel_sizes", f"{len(self.rates)} kernels, one a stage", len(self.kernels))
        if any(kernel < rate for kernel, rate in zip(self.kernels, self.rates, strict=True)):
            raise r.fail("upsample_kernel_sizes", f"none below its rate of {list(self.rates)}", list(self.kernels))
        if any(kernel % 2 == 0 for kernel in self.block_kernels) or not self.block_kernels:
            raise r.fail("resblock_kernel_sizes", "odd numbers, at least one", list(self.block_kernels))
        if len(self.dilations) < len(self.block_kernels):
            raise r.fail("resblock_dilation_sizes", f"a list for each of {len(self.block_kernels)}", self.dilations)
        if self.channels >> len(self.rates) == 0:
            raise r.fail("upsample_initial_channel", f"at least {2 ** len(self.rates)}, halved a stage", self.channels)


class DilatedBlock(nn.Module):
    """A residual block: pairs of convolutions, the first of each dilated.

    Args:
        channels: read and written.
        kernel: steps that each output looks at; odd.
        dilations: of the pairs.
        slope: of the leaky ReLU before each convolution.
        conv: makes a convolution.
    """

    def __init__(
        self, channels: int, kernel: int, dilations: Sequence[int], slope: float, conv: type[nn.Conv1d]
    ) -> None:
        super().__init__()
        self.slope = slope
        self.convs1 = nn.ModuleList(
            [conv(channels, channels, kernel, dilation=d, padding=(kernel - 1) * d // 2) for d in dilations]
        )
        self.convs2 = nn.ModuleList([conv(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in dilations])

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] in and out."""
        for wide, near in zip(self.convs1, self.convs2, strict=True):
            x_BCT = x_BCT + near(F.leaky_relu(wide(F.leaky_relu(x_BCT, self.slope)), self.slope))
        return x_BCT


class HifiGan(nn.Module):
    """Frames to samples.

    Args:
        bands: numbers of each frame.
        how: the stages.
        bias: whether the last convolution has one.
        voice: width of a speaker's vector, which is added at the beginning; 0 for none.
        conv: makes a convolution.
        wider: makes one that makes more steps of few.
    """

    def __init__(
        self,
        bands: int,
        how: Upsampling,
        *,
        bias: bool = True,
        voice: int = 0,
        conv: type[nn.Conv1d] = nn.Conv1d,
        wider: type[nn.ConvTranspose1d] = nn.ConvTranspose1d,
    ) -> None:
        super().__init__()
        self.slope, self.kinds = how.slope, len(how.block_kernels)
        self.conv_pre = conv(bands, how.channels, 7, padding=3)
        channels = [how.channels >> stage for stage in range(len(how.rates) + 1)]
        self.upsampler = nn.ModuleList(
            [
                wider(channels[i], channels[i + 1], kernel, stride=rate, padding=(kernel - rate) // 2)
                for i, (rate, kernel) in enumerate(zip(how.rates, how.kernels, strict=True))
            ]
        )
        self.resblocks = nn.ModuleList(
            [
                DilatedBlock(width, kernel, dilations, how.slope, conv)
                for width in channels[1:]
                for kernel, dilations in zip(how.block_kernels, how.dilations, strict=False)
            ]
        )
        self.conv_post = conv(channels[-1], 1, 7, padding=3, bias=bias)
        self.cond = conv(voice, how.channels, 1) if voice else None

    def forward(self, frames_BCT: Tensor, voice_BV1: Tensor | None = None) -> Tensor:
        """Samples of frames.

        Args:
            frames_BCT: Shape: [B, bands, T].
            voice_BV1: the speaker's vector. Shape: [B or 1, V, 1].

        Returns:
            Shape: [B, 1, T * all rates], between -1 and 1.
        """
        x = self.conv_pre(frames_BCT)
        if voice_BV1 is not None and self.cond is not None:
            x = x + self.cond(voice_BV1)
        for stage, wider in enumerate(self.upsampler):
            x = wider(F.leaky_relu(x, self.slope))
            blocks = self.resblocks[stage * self.kinds : (stage + 1) * self.kinds]
            heard = blocks[0](x)
            for block in blocks[1:]:
                heard = heard + block(x)
            x = heard / self.kinds
        # The last slope is torch's own, whatever the others are: so the first implementation has it.
        samples: Tensor = torch.tanh(self.conv_post(F.leaky_relu(x)))
        return samples
