"""What makes samples of frames without looking ahead, whole or piece by piece (Qwen3-Omni's code2wav)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.convolutions import SoundConv1d, SoundConvTranspose1d
from omniform.blocks.seanet import PaddedConv
from omniform.blocks.snake import SnakeBeta
from omniform.core.heard import Heard


def looking_back(inside: int, outside: int, kernel: int, *, dilation: int = 1, groups: int = 1) -> PaddedConv:
    """A convolution that looks at what came before, and at zeros before the first."""
    conv = SoundConv1d(inside, outside, kernel, dilation=dilation, groups=groups)
    reach = (kernel - 1) * dilation + 1
    return PaddedConv(conv=conv, norm=None, reach=reach, stride=1, causal=True, ends="constant")


class Widening(nn.Module):
    """A transposed convolution that makes ``stride`` steps of one, and drops those of the ends that not all tell.

    Args:
        inside: channels that it reads.
        outside: channels that it gives.
        kernel: steps that one is spread over; a multiple of ``stride``.
        stride: steps that are made of one.
    """

    def __init__(self, inside: int, outside: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = SoundConvTranspose1d(inside, outside, kernel, stride=stride)
        self.stride = stride
        self.over = kernel - stride
        self.slot = -1

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] to [B, C', (T - kernel / stride + 1) * stride]."""
        made: Tensor = self.conv(x_BCT)
        return made[..., self.over : made.shape[-1] - self.over]

    def stream(self, x_BCT: Tensor, heard: Heard) -> Tensor:
        """The next piece of a sound. Shape: [B, C, T] to [B, C', what it completes]."""
        before, back = heard.steps.get(self.slot), self.over // self.stride
        read = x_BCT if before is None else torch.cat((before, x_BCT), dim=-1)
        heard.steps[self.slot] = read[..., max(0, read.shape[-1] - back) :]
        if read.shape[-1] <= back:
            return x_BCT.new_zeros(x_BCT.shape[0], self.conv.out_channels, 0)
        return self.forward(read)


class SoundConvNeXt(Composed):
    """A ConvNeXt block over time (https://arxiv.org/abs/2201.03545), which looks back only.

    Args:
        dwconv: channel by channel.
        norm: of each step.
        pwconv1: of each step, to a wider one.
        pwconv2: and back.
        gamma: what each channel of the branch counts for.
    """

    dwconv: PaddedConv
    norm: nn.LayerNorm
    pwconv1: nn.Linear
    pwconv2: nn.Linear
    gamma: nn.Parameter

    @classmethod
    def of(cls, dim: int) -> SoundConvNeXt:
        """One of a width."""
        return cls(
            dwconv=looking_back(dim, dim, 7, groups=dim),
            norm=nn.LayerNorm(dim, 1e-6),
            pwconv1=nn.Linear(dim, 4 * dim),
            pwconv2=nn.Linear(4 * dim, dim),
            gamma=nn.Parameter(torch.empty(dim)),
        )

    def reset(self, std: float) -> None:
        """The branch begins as next to nothing."""
        nn.init.constant_(self.gamma, 1e-6)

    def added(self, x_BCT: Tensor, seen_BCT: Tensor) -> Tensor:
        """What the block makes of what it read and of what its convolution saw. Shape: [B, C, T] in and out."""
        wide = nn.functional.gelu(self.pwconv1(self.norm(seen_BCT.transpose(1, 2))))
        added: Tensor = self.gamma * self.pwconv2(wide)
        return x_BCT + added.transpose(1, 2)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] in and out."""
        return self.added(x_BCT, self.dwconv(x_BCT))

    def stream(self, x_BCT: Tensor, heard: Heard) -> Tensor:
        """The next piece of a sound. Shape: [B, C, T] in and out."""
        return self.added(x_BCT, self.dwconv.stream(x_BCT, heard))


class SnakeResidual(Composed):
    """Two convolutions, each behind a snake, added to what they read.

    Args:
        act1: before the first.
        conv1: looks back over steps that stand apart.
        act2: before the second.
        conv2: of each step.
    """

    act1: SnakeBeta
    conv1: PaddedConv
    act2: SnakeBeta
    conv2: PaddedConv

    @classmethod
    def of(cls, channels: int, dilation: int) -> SnakeResidual:
        """One of a width."""
        return cls(
            act1=SnakeBeta(channels),
            conv1=looking_back(channels, channels, 7, dilation=dilation),
            act2=SnakeBeta(channels),
            conv2=looking_back(channels, channels, 1),
        )

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Shape: [B, C, T] in and out."""
        seen: Tensor = self.conv2(self.act2(self.conv1(self.act1(x_BCT))))
        return seen + x_BCT

    def stream(self, x_BCT: Tensor, heard: Heard) -> Tensor:
        """The next piece of a sound. Shape: [B, C, T] in and out."""
        seen: Tensor = self.conv2(self.act2(self.conv1.stream(self.act1(x_BCT), heard)))
        return seen + x_BCT


def streamed(layers: Iterable[nn.Module], x_BCT: Tensor, heard: Heard) -> Tensor:
    """The next piece of a sound through layers one after another. Shape: [B, C, T] to [B, C', T']."""
    for layer in layers:
        if isinstance(layer, (PaddedConv, Widening, SoundConvNeXt, SnakeResidual)):
            x_BCT = layer.stream(x_BCT, heard)
        else:
            x_BCT = layer(x_BCT)
    return x_BCT
