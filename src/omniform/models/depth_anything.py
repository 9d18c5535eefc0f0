"""Depth Anything, v1 and v2 (https://arxiv.org/abs/2401.10891, https://arxiv.org/abs/2406.09414)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.depth import BackboneDepth
from omniform.architectures.depth_neck import NECK_KEYS, Fusing, IgnoredReadout, MatchingNeck, bigger, neck_on
from omniform.architectures.family import Builder
from omniform.blocks.patches import Size
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.models.backbones import NestedBackbone, read_backbone
from omniform.weights.keymap import KeyMap

DINOV2 = {
    "model_type": "dinov2",
    "image_size": 518,
    "hidden_size": 384,
    "num_attention_heads": 6,
    "out_indices": [9, 10, 11, 12],
    "reshape_hidden_states": False,
}
"""The backbone of a config that names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Depth Anything computes.

    Attributes:
        patch: side of a patch in pixels.
        inner: width of the backbone's tokens.
        hidden: channels before the last convolution.
        metric: whether depth is a share of ``most``, and not any number times it.
        most: the greatest depth, in metres.
    """

    backbone: NestedBackbone
    patch: int
    inner: int
    fusing: Fusing
    hidden: int
    metric: bool
    most: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    patch = r.pair("patch_size", (14, 14))
    if patch[0] != patch[1]:
        raise r.fail("patch_size", "square patches", list(patch))
    r.values["patch_size"] = patch[0]
    return Config(
        backbone=read_backbone(r, DINOV2),
        patch=patch[0],
        inner=r.integer("reassemble_hidden_size", 384),
        fusing=Fusing.read(r, widths=(48, 96, 192, 384), dim=64),
        hidden=r.integer("head_hidden_size", 32),
        metric=r.choice("depth_estimation_type", ("relative", "metric"), "relative") == "metric",
        most=r.number("max_depth", 1),
    )


class DepthAnythingHead(nn.Module):
    """Convolutions at the neck's size and at the size of all patches.

    Args:
        c: the sizes.
        act: gives depth as a share of the greatest.
    """

    def __init__(self, c: Config) -> None:
        super().__init__()
        dim = c.fusing.dim
        self.conv1 = nn.Conv2d(dim, dim // 2, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(dim // 2, c.hidden, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(c.hidden, 1, kernel_size=1)
        self.index, self.patch, self.most = c.fusing.index, c.patch, c.most
        self._act = torch.sigmoid if c.metric else F.relu

    def forward(self, fused: list[Tensor], grid: Size) -> Tensor:
        """Fused maps to depth. Shape: [B, C, h, w] each to [B, rows * patch, columns * patch]."""
        x = bigger(self.conv1(fused[self.index]), (grid[0] * self.patch, grid[1] * self.patch))
        depth: Tensor = self._act(self.conv3(F.relu(self.conv2(x)))) * self.most
        return depth.squeeze(1)


def estimator(c: Config, _: Common) -> BackboneDepth:
    """How far away each pixel is."""
    backbone = c.backbone.build()
    neck = neck_on(c.fusing, [c.inner] * len(backbone.channels), lambda _: IgnoredReadout(), kind=MatchingNeck)
    return BackboneDepth(backbone=backbone, neck=neck, head=DepthAnythingHead(c), patch=c.patch)


def keys(c: Config) -> KeyMap:
    """Where the weights live."""
    return c.backbone.keys.under("backbone", "backbone") | NECK_KEYS


FAMILY = (
    Builder("depth_anything", read, keys, prefix="")
    .public(config="DepthAnythingConfig", image_processor="DPTImageProcessor", row="depth, relative and metric")
    .architecture("DepthAnythingForDepthEstimation", ("depth-estimation",), estimator, keys)
    .done()
)
