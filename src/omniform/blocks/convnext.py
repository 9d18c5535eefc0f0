"""ConvNeXt: convolutions laid out as a transformer is (https://arxiv.org/abs/2201.03545, 2301.00808)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.drop_path import DropPath, LayerScale
from omniform.blocks.fused import activated, through
from omniform.blocks.mlp import Activation
from omniform.blocks.patches import check_pictures
from omniform.core.errors import InputError


class MapNorm(nn.Module):
    """A layer norm over the channels of every place of a map."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] in and out."""
        x_BHWC = x_BCHW.permute(0, 2, 3, 1)
        normed = F.layer_norm(x_BHWC, self.weight.shape, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


class ResponseNorm(nn.Module):
    """Channels compete: each is scaled by how large it is all over the map, against the others (2301.00808)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.bias = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def reset(self, std: float) -> None:
        """Start as nothing at all."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Shape: [B, H, W, C] in and out."""
        size = torch.linalg.vector_norm(x_BHWC, ord=2, dim=(1, 2), keepdim=True)
        share = size / (size.mean(dim=-1, keepdim=True) + 1e-6)
        competing: Tensor = self.weight * (x_BHWC * share) + self.bias + x_BHWC
        return competing

    def extra_repr(self) -> str:
        return f"{self.weight.shape[-1]}"


class ConvNextBlock(Composed):
    """A convolution channel by channel, then a perceptron place by place; added to what came in.

    Args:
        response: what is done to the perceptron's inner vectors; Shape: [B, H, W, C] in and out.
        scale: a factor for every channel of the branch.
    """

    dwconv: nn.Conv2d
    layernorm: nn.Module
    pwconv1: nn.Linear
    act: Activation
    pwconv2: nn.Linear
    drop_path: DropPath
    response: ResponseNorm | None = None
    scale: LayerScale | None = None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] in and out."""
        inner = activated(self.layernorm(self.dwconv(x_BCHW).permute(0, 2, 3, 1)), self.pwconv1, self.act)
        branch = through(inner if self.response is None else self.response(inner), self.pwconv2)
        if self.scale is not None:
            branch = self.scale(branch)
        kept: Tensor = self.drop_path(branch.permute(0, 3, 1, 2))
        return x_BCHW + kept


class ConvNextStage(Composed):
    """Blocks on maps of one size, after what makes the map smaller."""

    downsampling: nn.ModuleList
    layers: nn.ModuleList

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C', H / stride, W / stride]."""
        for part in self.downsampling:
            x_BCHW = part(x_BCHW)
        for layer in self.layers:
            x_BCHW = layer(x_BCHW)
        return x_BCHW


class ConvNext(Composed):
    """A ConvNeXt without its head.

    Args:
        stem: pixels to the first map.
        channels: colour channels of a picture.
        strides: how many pixels of a picture a place of the stem's map and of each stage's stands for, down and across.
    """

    stem: ConvNextStage
    stages: nn.ModuleList
    channels: int
    strides: tuple[tuple[int, int], ...]

    def states(self, pixel_values: Tensor, last: int) -> list[Tensor]:
        """The stem's map and those of the stages; see :meth:`~omniform.blocks.resnet.ResNet.states`.

        Raises:
            InputError: the pictures do not have this shape, or are smaller than a place of the last map.
        """
        check_pictures(pixel_values, self.channels)
        least, (height, width) = self.strides[last], pixel_values.shape[2:]
        if height < least[0] or width < least[1]:
            raise InputError(
                "the pictures are too small for the model",
                where="pixel_values",
                expected=f"at least {list(least)} pixels",
                found=f"shape {list(pixel_values.shape)}",
            )
        states = [self.stem(pixel_values.to(next(self.parameters()).dtype))]
        for stage in self.stages[:last]:
            states.append(stage(states[-1]))
        return states


def convnext_stem(*parts: nn.Module) -> ConvNextStage:
    """What makes the first map, without blocks."""
    return ConvNextStage(downsampling=nn.ModuleList(parts), layers=nn.ModuleList())


def convnext_stages(
    dims: Sequence[int],
    depths: Sequence[int],
    block: Callable[[int, float], ConvNextBlock],
    downsampling: Callable[[int], Sequence[nn.Module]],
    drop_path: float,
) -> nn.ModuleList:
    """Stages whose branches are dropped the more often the deeper they lie.

    Args:
        dims: channels of each stage.
        depths: blocks of each stage.
        block: makes one, of a number of channels and the probability of its branch to be dropped.
        downsampling: the parts before a stage's blocks, by its number.
        drop_path: probability of the last block's branch to be dropped.
    """
    total = sum(depths)
    rates = [drop_path * i / max(total - 1, 1) for i in range(total)]
    stages = []
    for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        first = sum(depths[:i])
        layers = (block(dim, rate) for rate in rates[first : first + depth])
        stages.append(ConvNextStage(downsampling=nn.ModuleList(downsampling(i)), layers=nn.ModuleList(layers)))
    return nn.ModuleList(stages)
