"""Residual networks (https://arxiv.org/abs/1512.03385) as backbones: pictures in, feature maps out.

Batch norms are frozen: detectors train on batches too small for statistics of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
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
        outputs: which maps to give: 0 is the stem's, 1 the pooled stem's, 2 the first stage's, and so on.
    """

    channels: int = 3
    stem: int = 64
    stages: tuple[Stage, ...]
    block: Block = "bottleneck"
    act: str = "relu"
    stride_first: bool = False
    outputs: tuple[int, ...]

    @property
    def output_channels(self) -> tuple[int, ...]:
        """Channels of the maps it gives."""
        widths = (self.stem, self.stem, *(s.channels for s in self.stages))
        return tuple(widths[i] for i in self.outputs)


class FrozenBatchNorm(nn.Module):
    """Batch normalisation by fixed statistics and a fixed scale and shift: nothing in it is trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] in and out."""
        # Not torch's fused one, though it is faster: it rounds differently, and a hundred layers make that visible.
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return (x_BCHW * scale[:, None, None]).add_(shift[:, None, None])

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}"


class Convolution(nn.Conv2d):
    """A convolution without bias that keeps the size of a map, up to its stride."""

    def __init__(self, inner: int, outer: int, size: int, *, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (size // 2)
        super().__init__(inner, outer, size, stride=stride, padding=padding, dilation=dilation, bias=False)

    def reset(self, std: float) -> None:
        """Start so that a signal keeps its variance (https://arxiv.org/abs/1502.01852)."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")


class NormedConvolution(nn.Module):
    """A convolution and its frozen batch norm."""

    def __init__(self, inner: int, outer: int, size: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.convolution = Convolution(inner, outer, size, stride=stride, dilation=dilation)
        self.normalization = FrozenBatchNorm(outer)

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
    """A residual network without its classifier."""

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stem = NormedConvolution(spec.channels, spec.stem, 7, stride=2)
        self.stages = nn.ModuleList(nn.ModuleList(_blocks(spec, i)) for i in range(len(spec.stages)))
        self._act = activation(spec.act)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Feature maps, from fine to coarse.

        Args:
            pixel_values: Shape: [B, channels, height, width].

        Returns:
            The maps that the spec asks for, Shape: [B, C, H, W] each.

        Raises:
            InputError: the pictures do not have this shape.
        """
        check_pictures(pixel_values, self.spec.channels)
        x = self._act(self.stem(pixel_values.to(self.stem.convolution.weight.dtype)))
        maps = [x, F.max_pool2d(x, 3, stride=2, padding=1)]
        for stage in self.stages:
            x = maps[-1]
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
            maps.append(x)
        return tuple(maps[i] for i in self.spec.outputs)


def _blocks(spec: ResNetSpec, index: int) -> list[ResidualBlock]:
    stage = spec.stages[index]
    inner = spec.stages[index - 1].channels if index else spec.stem
    blocks = [_block(spec, inner, stage.channels, stage.stride, stage.dilations)]
    rest = stage.dilations[1]
    return blocks + [_block(spec, stage.channels, stage.channels, 1, (rest, rest)) for _ in range(stage.depth - 1)]


def _block(spec: ResNetSpec, inner: int, outer: int, stride: int, dilations: tuple[int, int]) -> ResidualBlock:
    first, rest = dilations
    if spec.block == "basic":
        layer = [
            NormedConvolution(inner, outer, 3, stride=stride, dilation=first),
            NormedConvolution(outer, outer, 3, dilation=rest),
        ]
    else:
        narrow = outer // 4
        strides = (stride, 1) if spec.stride_first else (1, stride)
        layer = [
            NormedConvolution(inner, narrow, 1, stride=strides[0]),
            NormedConvolution(narrow, narrow, 3, stride=strides[1], dilation=first),
            NormedConvolution(narrow, outer, 1),
        ]
    fits = inner == outer and stride == 1
    return ResidualBlock(layer, None if fits else NormedConvolution(inner, outer, 1, stride=stride), spec.act)
