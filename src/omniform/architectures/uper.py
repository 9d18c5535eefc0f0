"""Heads that read maps of several sizes and score every place (UPerNet, https://arxiv.org/abs/1807.10221)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.semantic import enlarged
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader


class ConvBlock(nn.Module):
    """A convolution without bias, a batch norm and a ReLU."""

    def __init__(self, inner: int, outer: int, size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inner, outer, size, padding=size // 2, bias=False)
        self.normalization = nn.BatchNorm2d(outer)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C', H, W]."""
        return F.relu(self.normalization(self.convolution(x_BCHW)))


class PooledBlock(ConvBlock):
    """One that reads a map pooled to a few places, and enlarges what it makes of it to the map's size.

    Args:
        scale: rows and columns that the map is pooled to.
    """

    def __init__(self, inner: int, outer: int, scale: int) -> None:
        super().__init__(inner, outer, 1)
        self.scale = scale

    def forward(self, x_BCHW: Tensor) -> Tensor:
        pooled = ConvBlock.forward(self, F.adaptive_avg_pool2d(x_BCHW, self.scale))
        return enlarged(pooled, x_BCHW.shape[-2:])

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class UperHead(nn.Module):
    """A pyramid of the coarsest map, handed down to the finer ones, and all of them together.

    Args:
        inner: channels of the maps that it reads, from fine to coarse.
        dim: channels of its own.
        classes: how many there are.
        scales: of the pyramid.
    """

    def __init__(self, inner: Sequence[int], dim: int, classes: int, scales: Sequence[int]) -> None:
        super().__init__()
        self.psp_modules = nn.ModuleList(PooledBlock(inner[-1], dim, scale) for scale in scales)
        self.bottleneck = ConvBlock(inner[-1] + len(scales) * dim, dim, 3)
        self.lateral_convs = nn.ModuleList(ConvBlock(channels, dim, 1) for channels in inner[:-1])
        self.fpn_convs = nn.ModuleList(ConvBlock(dim, dim, 3) for _ in inner[:-1])
        self.fpn_bottleneck = ConvBlock(len(inner) * dim, dim, 3)
        self.classifier = nn.Conv2d(dim, classes, kernel_size=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Scores of every place.

        Args:
            maps: from fine to coarse, Shape: [B, C, H, W] each.

        Returns:
            Shape: [B, classes, H, W] of the finest map.
        """
        coarsest = maps[-1]
        x: Tensor = self.bottleneck(torch.cat([coarsest, *(pool(coarsest) for pool in self.psp_modules)], dim=1))
        outs = [x]
        for lateral, fpn, finer in zip(self.lateral_convs[::-1], self.fpn_convs[::-1], maps[-2::-1], strict=True):
            x = lateral(finer) + enlarged(x, finer.shape[-2:])
            outs.append(fpn(x))
        size = maps[0].shape[-2:]
        together = self.fpn_bottleneck(torch.cat([enlarged(out, size) for out in outs[::-1]], dim=1))
        scores: Tensor = self.classifier(together)
        return scores


class FcnHead(nn.Module):
    """A second head on one of the maps, for the loss alone (https://arxiv.org/abs/1411.4038).

    Args:
        inner: channels of the map.
        spec: what it is made of.
        classes: how many there are.
    """

    def __init__(self, inner: int, spec: Auxiliary, classes: int) -> None:
        super().__init__()
        widths = (inner, *(spec.channels for _ in range(spec.convs)))
        self.convs = nn.ModuleList(ConvBlock(a, b, 3) for a, b in itertools.pairwise(widths))
        if widths[-1] != spec.channels:
            expected = f"{inner} channels, where there are no convolutions"
            raise ConfigError("the second head does not fit", where="auxiliary_channels", expected=expected)
        self.conv_cat = ConvBlock(inner + spec.channels, spec.channels, 3) if spec.joins else None
        self.classifier = nn.Conv2d(spec.channels, classes, kernel_size=1)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, classes, H, W]."""
        x = map_BCHW
        for conv in self.convs:
            x = conv(x)
        if self.conv_cat is not None:
            x = self.conv_cat(torch.cat((map_BCHW, x), dim=1))
        scores: Tensor = self.classifier(x)
        return scores


@dataclass(frozen=True, slots=True)
class Auxiliary:
    """A second head.

    Attributes:
        channels: of its convolutions.
        convs: how many there are.
        joins: whether the map itself is read again beside what they made of it.
        weight: of its loss.
    """

    channels: int
    convs: int
    joins: bool
    weight: float

    @classmethod
    def read(cls, r: ConfigReader) -> Auxiliary | None:
        """The fields under their usual names; None where there is no second head."""
        wanted = r.flag("use_auxiliary_head", True)
        made = cls(
            channels=r.integer("auxiliary_channels", 256),
            convs=r.integer("auxiliary_num_convs", 1, least=0),
            joins=r.flag("auxiliary_concat_input", False),
            weight=r.number("auxiliary_loss_weight", 0.4),
        )
        return made if wanted else None


AUXILIARY_MAP = 2
"""Which of the maps the second head reads."""


def read_scales(r: ConfigReader) -> tuple[int, ...]:
    """Scales of the pyramid."""
    return r.integers("pool_scales", (1, 2, 3, 6), least=1)
