"""DINOv2 (https://arxiv.org/abs/2304.07193)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from omniform.architectures.dino_family import WIDE_KEYS, ClassAndPatches, WideTower
from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier
from omniform.architectures.token_backbone import Stages, TokenBackbone, token_backbone
from omniform.architectures.vision import FreeVisionEncoder, image_classifier
from omniform.blocks.patches import (
    ClassToken,
    GridPositions,
    MaskToken,
    Patching,
    PatchStem,
    Resampling,
    read_patching,
    wide_bicubic,
)
from omniform.blocks.poolers import FirstPooler
from omniform.core.config import Common
from omniform.core.reader import ConfigReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a DINOv2 computes."""

    wide: WideTower
    patching: Patching
    stages: Stages
    masks: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    wide = WideTower.read(r)
    return Config(
        wide=wide,
        stages=Stages.read(r, wide.tower.layers),
        patching=read_patching(r, patch_size=14),
        masks=r.flag("use_mask_token", True),
    )


def positions(patching: Patching, dim: int, resample: Resampling) -> GridPositions:
    """The learned positions.

    Whatever shape the pictures had that they were learned for, they are taken for those of a square when they are
    resampled, and only what is read of square pictures is not resampled.
    """
    grid = patching.grid
    side = math.isqrt(grid[0] * grid[1])
    square = (side, side) if side * side == grid[0] * grid[1] else grid
    own = grid if patching.image_size[0] == patching.image_size[1] else square
    return GridPositions(own, dim, before=1, resample=resample, learned=square)


def build(c: Config) -> FreeVisionEncoder:
    """The encoder; the class token stands for the picture."""
    dim = c.wide.tower.dim
    return FreeVisionEncoder(
        patches=PatchStem(c.patching, dim),
        positions=positions(c.patching, dim, wide_bicubic),
        class_token=ClassToken(dim),
        mask_token=MaskToken(dim) if c.masks else None,
        layers=c.wide.stack(),
        norm=c.wide.tower.norm(),
        pooler=FirstPooler(),
        dropout=c.wide.dropout,
    )


def backbone(c: Config) -> TokenBackbone:
    """The encoder as a backbone."""
    return token_backbone(build(c), c.stages)


def classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per picture, told from the class token and the mean of the patches."""
    return image_classifier(build(c), ClassAndPatches(1), common, 2 * c.wide.tower.dim)


FAMILY = (
    Builder("dinov2", read, WIDE_KEYS, prefix="dinov2")
    .public(
        config="Dinov2Config", image_processor="BitImageProcessor", row="image features and classification, backbone"
    )
    .base("Dinov2Model", build)
    .head("Dinov2ForImageClassification", "image-classification", classifier)
    .backbone("Dinov2Backbone", backbone, WIDE_KEYS.under("network", ""))
    .done()
)
