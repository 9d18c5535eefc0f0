"""ViT (https://arxiv.org/abs/2010.11929)."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier, first_token
from omniform.architectures.vision import MaskedImageModeler, VisionEncoder, image_classifier
from omniform.architectures.vit_family import PLAIN_KEYS, PlainVision, Pooling
from omniform.blocks.patches import ClassToken, GridPositions, MaskToken, PatchStem
from omniform.blocks.poolers import DensePooler
from omniform.core.config import Common
from omniform.core.reader import ConfigReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a ViT computes."""

    vision: PlainVision
    pooling: Pooling
    encoder_stride: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    vision = PlainVision.read(r)
    return Config(
        vision=vision,
        pooling=Pooling.read(r, vision.tower.dim),
        encoder_stride=r.integer("encoder_stride", 16),
    )


def build(c: Config, *, mask_token: MaskToken | None = None, pooler: DensePooler | None = None) -> VisionEncoder:
    """The encoder; its heads do without the pooler."""
    vision, dim = c.vision, c.vision.tower.dim
    return VisionEncoder(
        patches=PatchStem(vision.patching, dim),
        positions=GridPositions(vision.patching.grid, dim, before=1),
        class_token=ClassToken(dim),
        mask_token=mask_token,
        layers=vision.stack(),
        norm=vision.tower.norm(),
        pooler=pooler,
        dropout=vision.dropout,
    )


def with_pooler(c: Config) -> VisionEncoder:
    """The encoder and one vector per picture."""
    return build(c, pooler=c.pooling.pooler(c.vision.tower.dim))


def classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per picture, told from the class token."""
    return image_classifier(build(c), first_token, common)


def masked_image_modeler(c: Config, _: Common) -> MaskedImageModeler:
    """The encoder that fills in hidden patches."""
    return MaskedImageModeler(model=build(c, mask_token=MaskToken(c.vision.tower.dim)), stride=c.encoder_stride)


FAMILY = (
    Builder("vit", read, PLAIN_KEYS, prefix="vit")
    .public(config="ViTConfig", image_processor="ViTImageProcessor", row="image classification, masked image modelling")
    .base("ViTModel", with_pooler)
    .head("ViTForImageClassification", "image-classification", classifier)
    .head("ViTForMaskedImageModeling", "masked-image-modeling", masked_image_modeler)
    .done()
)
