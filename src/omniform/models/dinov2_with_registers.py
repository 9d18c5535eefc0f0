"""DINOv2 with registers (https://arxiv.org/abs/2309.16588)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.dino_family import WIDE_KEYS, ClassAndPatches, WideTower
from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier
from omniform.architectures.token_backbone import Stages, TokenBackbone, token_backbone
from omniform.architectures.vision import FreeVisionEncoder, image_classifier
from omniform.blocks.patches import (
    ClassToken,
    MaskToken,
    Patching,
    PatchStem,
    RegisterTokens,
    read_patching,
    smooth_bicubic,
)
from omniform.blocks.poolers import FirstPooler
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.reader import ConfigReader
from omniform.models.dinov2 import positions


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a DINOv2 with registers computes."""

    wide: WideTower
    patching: Patching
    stages: Stages
    registers: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    wide = WideTower.read(r)
    return Config(
        wide=wide,
        stages=Stages.read(r, wide.tower.layers),
        patching=read_patching(r, patch_size=16),
        registers=r.integer("num_register_tokens", 4, least=0),
    )


def build(c: Config) -> FreeVisionEncoder:
    """The encoder; the class token stands for the picture."""
    dim = c.wide.tower.dim
    return FreeVisionEncoder(
        patches=PatchStem(c.patching, dim),
        positions=positions(c.patching, dim, smooth_bicubic),
        class_token=ClassToken(dim),
        mask_token=MaskToken(dim),
        register_tokens=RegisterTokens(c.registers, dim),
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
    return image_classifier(build(c), ClassAndPatches(1 + c.registers), common, 2 * c.wide.tower.dim)


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Registers begin as zeros."""
    return nn.init.zeros_ if path.endswith("register_tokens.weight") else None


FAMILY = (
    Builder("dinov2_with_registers", read, WIDE_KEYS, prefix="dinov2_with_registers")
    .public(
        config="Dinov2WithRegistersConfig",
        image_processor="BitImageProcessor",
        row="image features and classification, backbone",
    )
    .begins(beginning)
    .base("Dinov2WithRegistersModel", build)
    .head("Dinov2WithRegistersForImageClassification", "image-classification", classifier)
    .backbone("Dinov2WithRegistersBackbone", backbone, WIDE_KEYS.under("network", ""))
    .done()
)
