"""Residual networks (https://arxiv.org/abs/1512.03385): pictures in, a map after each stage out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.mlp import activation
from omniform.blocks.patches import check_pictures

Block = Literal["basic", "bottleneck"]


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of residual blocks on maps of one size.

    Attributes:
        channels: of the maps it gives.
        depth: how many blocks it has.
        stride: of its first block.
        dilations: of its first block and of the others (https://arxiv.org/abs/1511.07122).
    """

    channels: int
    depth: int
    stride: int = 2
    dilations: tuple[int, int] = (1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetSpec:
    """What a residual network computes.

    Attributes:
        channels: colour channels of a picture.
        stem: channels after the stem.
        stages: from fine to coarse.
        block: two convolutions of 3x3 pixels, or one between two of 1x1 with a quarter of the channels.
        act: activation after the stem and after each sum; those inside a block are ReLU.
        stride_first: a bottleneck's stride is in its first convolution and not in its second.
        norm: makes the norm after a convolution, of its channels.
    """

    channels: int = 3
    stem: int = 64
    stages: tuple[Stage, ...]
    block: Block = "bottleneck"
    act: str = "relu"
    stride_first: bool = False
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the stem's map and of each stage's."""
        return (self.stem, *(s.channels for s in self.stages))

    @property
    def strides(self) -> tuple[int, ...]:
        """How many pixels of a picture a place of these maps stands for."""
        return tuple(accumulate((4, *(s.stride for s in self.stages)), operator.mul))


class Convolution(nn.Conv2d):
    """A convolution without bias that keeps the size of a map, up to its stride."""

    def __init__(self, inner: int, outer: int, size: int, *, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (size // 2)
        super().__init__(inner, outer, size, stride=stride, padding=padding, dilation=dilation, bias=False)

    def reset(self, std: float) -> None:
        """Start so that a signal keeps its variance (https://arxiv.org/abs/1502.01852)."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")


class NormedConvolution(nn.Module):
    """A convolution and its norm."""

    def __init__(
        self, norm: Callable[[int], nn.Module], inner: int, outer: int, size: int, *, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.convolution = Convolution(inner, outer, size, stride=stride, dilation=dilation)
        self.normalization = norm(outer)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C', H / stride, W / stride]."""
        out: Tensor = self.normalization(self.convolution(x_BCHW))
        return out


class ResidualBlock(nn.Module):
    """``act(shortcut(x) + layer(x))``.

    Args:
        layer: the convolutions, with ReLU between them.
        shortcut: fits the input's shape to theirs; None where it fits already.
        act: name of the activation of the sum.
    """

    def __init__(self, layer: Sequence[NormedConvolution], shortcut: NormedConvolution | None, act: str) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layer)
        self.shortcut = shortcut
        self._act = activation(act)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C', H / stride, W / stride]."""
        out = self.layer[0](x_BCHW)
        for convolution in self.layer[1:]:
            out = convolution(out.relu_())
        return self._act(out.add_(x_BCHW if self.shortcut is None else self.shortcut(x_BCHW)))


class ResNet(nn.Module):
    """A residual network without its classifier; the stem's map is pooled."""

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stem = NormedConvolution(spec.norm, spec.channels, spec.stem, 7, stride=2)
        self.stages = nn.ModuleList(nn.ModuleList(_blocks(spec, i)) for i in range(len(spec.stages)))
        self._act = activation(spec.act)

    def states(self, pixel_values: Tensor, last: int) -> list[Tensor]:
        """The stem's map and those of the stages.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            last: the last one that is wanted.

        Returns:
            ``last + 1`` maps from fine to coarse, Shape: [B, C, H, W] each.

        Raises:
            InputError: the pictures do not have this shape.
        """
        return self._staged([self._pooled(self._entered(pixel_values))], last)

    def _entered(self, pixel_values: Tensor) -> Tensor:
        check_pictures(pixel_values, self.spec.channels)
        return self._act(self.stem(pixel_values.to(self.stem.convolution.weight.dtype)))

    def _pooled(self, x_BCHW: Tensor) -> Tensor:
        return F.max_pool2d(x_BCHW, 3, stride=2, padding=1)

    def _staged(self, states: list[Tensor], last: int) -> list[Tensor]:
        x = states[-1]
        for stage in self.stages[len(states) - 1 : last]:
            for block in cast(nn.ModuleList, stage):
                x = block(x)
            states.append(x)
        return states


class LatePooledResNet(ResNet):
    """One as timm counts its maps: the stem's is not pooled yet."""

    def states(self, pixel_values: Tensor, last: int) -> list[Tensor]:
        """See :meth:`ResNet.states`."""
        stem = self._entered(pixel_values)
        return [stem, *self._staged([self._pooled(stem)], last)[1:]]


def _blocks(spec: ResNetSpec, index: int) -> list[ResidualBlock]:
    stage = spec.stages[index]
    inner = spec.stages[index - 1].channels if index else spec.stem
    blocks = [_block(spec, inner, stage.channels, stage.stride, stage.dilations)]
    rest = stage.dilations[1]
    return blocks + [_block(spec, stage.channels, stage.channels, 1, (rest, rest)) for _ in range(stage.depth - 1)]


def _block(spec: ResNetSpec, inner: int, outer: int, stride: int, dilations: tuple[int, int]) -> ResidualBlock:
    (first, rest), norm = dilations, spec.norm
    if spec.block == "basic":
        layer = [
            NormedConvolution(norm, inner, outer, 3, stride=stride, dilation=first),
            NormedConvolution(norm, outer, outer, 3, dilation=rest),
        ]
    else:
        narrow = outer // 4
        strides = (stride, 1) if spec.stride_first else (1, stride)
        layer = [
            NormedConvolution(norm, inner, narrow, 1, stride=strides[0]),
            NormedConvolution(norm, narrow, narrow, 3, stride=strides[1], dilation=first),
            NormedConvolution(norm, narrow, outer, 1),
        ]
    fits = inner == outer and stride == 1
    return ResidualBlock(layer, None if fits else NormedConvolution(norm, inner, outer, 1, stride=stride), spec.act)
