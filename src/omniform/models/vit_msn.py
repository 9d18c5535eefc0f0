"""ViT-MSN (https://arxiv.org/abs/2204.07141): ViT taught without labels."""

from __future__ import annotations

from dataclasses import replace

from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier, first_token
from omniform.architectures.vision import VisionEncoder, image_classifier
from omniform.architectures.vit_family import PLAIN_KEYS, PlainVision, zeros
from omniform.blocks.patches import ClassToken, GridPositions, PatchStem
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import Layout


def read(r: ConfigReader) -> PlainVision:
    """Read a config; every key is used, declared inert or refused."""
    return PlainVision.read(r, eps=1e-6)


def build(c: PlainVision) -> VisionEncoder:
    """The encoder."""
    dim = c.tower.dim
    return VisionEncoder(
        patches=PatchStem(c.patching, dim),
        positions=GridPositions(c.patching.grid, dim, before=1),
        class_token=ClassToken(dim),
        layers=c.stack(),
        norm=c.tower.norm(),
        dropout=c.dropout,
    )


def classifier(c: PlainVision, common: Common) -> SequenceClassifier:
    """One class per picture, told from the class token."""
    return image_classifier(build(c), first_token, common)


# Today's release of the reference writes a classifier's layers without the prefix of its base model.
BARE = {ours: rule for ours, rule in PLAIN_KEYS.under("model", "").rules.items() if ours.startswith("model.layers")}
WITHIN = PLAIN_KEYS.under("model", "vit")
CLASSIFIER_KEYS = replace(
    WITHIN,
    layouts=(Layout(r"^encoder\.layer\.", BARE),),
    modules=((r"^encoder\.layer\.", "vit.encoder.layer."), *WITHIN.modules),
)

FAMILY = (
    Builder("vit_msn", read, PLAIN_KEYS, prefix="vit")
    .public(config="ViTMSNConfig", image_processor="ViTImageProcessor", row="image features, image classification")
    .begins(zeros("class_token.weight", "positions.weight"))
    .base("ViTMSNModel", build)
    .architecture("ViTMSNForImageClassification", ("image-classification",), classifier, CLASSIFIER_KEYS, prefix="vit")
    .done()
)
