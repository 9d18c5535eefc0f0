"""SigLIP 2 (https://arxiv.org/abs/2502.14786), for pictures of any shape: its text tower, its vision tower, and both.

Its checkpoints for pictures of one size are SigLIP's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from omniform.architectures.dual_family import NO_TEXT, NO_VISION, siglip_beginning
from omniform.architectures.family import Builder
from omniform.architectures.heads import mean_of_real
from omniform.architectures.shaped_vision import (
    ShapedClassifier,
    ShapedDualEncoder,
    ShapedVisionEncoder,
)
from omniform.architectures.tower import Tower
from omniform.architectures.vision import classes_of
from omniform.blocks.fractions import ResampledPositions
from omniform.blocks.poolers import ProbePooler
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.models.registry import Part
from omniform.models.siglip import NO_PAIR, TEXT_TOWER, VISION_TOWER, TextSide, read_tower
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSide:
    """What the vision tower computes.

    Attributes:
        numbers: of a patch.
        side: rows, and columns, of the square whose positions are learned.
        pools: whether it makes one vector per picture.
    """

    tower: Tower
    numbers: int
    side: int
    pools: bool

    @classmethod
    def read(cls, r: ConfigReader) -> VisionSide:
        """Read the vision tower's config."""
        patches = r.integer("num_patches", 256)
        side = math.isqrt(patches)
        if side * side != patches:
            raise r.fail("num_patches", "a square number: positions are learned for a square", patches)
        return cls(
            tower=read_tower(r),
            numbers=r.integer("num_channels", 3) * r.integer("patch_size", 16) ** 2,
            side=side,
            pools=r.flag("vision_use_head", True),
        )

    def model(self) -> ShapedVisionEncoder:
        """The vision tower; there is no class token."""
        tower = self.tower
        pooler = ProbePooler(tower.dim, tower.heads, norm=tower.norm(), mlp=tower.mlp()) if self.pools else None
        return ShapedVisionEncoder(
            projection=nn.Linear(self.numbers, tower.dim),
            positions=ResampledPositions(self.side, tower.dim),
            layers=tower.stack(Full()),
            norm=tower.norm(),
            pooler=pooler,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What both towers compute together."""

    text: TextSide
    vision: VisionSide


def read(r: ConfigReader) -> Config:
    """Read the config of both."""
    r.inert("initializer_factor")
    text = Part.of(r, "text_config", {"model_type": "siglip2_text_model"})
    vision = Part.of(r, "vision_config", {"model_type": "siglip2_vision_model"})
    return Config(text=text.spec(TextSide), vision=vision.spec(VisionSide))


def both_towers(c: Config) -> ShapedDualEncoder:
    """Pictures compared with texts."""
    return ShapedDualEncoder(vision_model=c.vision.model(), text_model=c.text.model())


def classifier(c: Config, common: Common) -> ShapedClassifier:
    """One class per picture, told from the mean of its patches."""
    scores = classes_of(c.vision.tower.dim, common)
    return ShapedClassifier(model=c.vision.model(), pool=mean_of_real, classifier=scores, common=common)


SHAPED_TOWER = VISION_TOWER | KeyMap({"projection": "embeddings.patch_embedding"})
BOTH = TEXT_TOWER.under("text_model", "text_model") | SHAPED_TOWER.under("vision_model", "vision_model")

TEXT = (
    Builder("siglip2_text_model", TextSide.read, TEXT_TOWER | NO_VISION | NO_PAIR, prefix="text_model")
    .public(config="Siglip2TextConfig", padding="learned", tokenizer="Siglip2Tokenizer")
    .begins(siglip_beginning)
    .base("Siglip2TextModel", TextSide.model, "text-encoding")
    .done()
)
VISION = (
    Builder("siglip2_vision_model", VisionSide.read, SHAPED_TOWER | NO_TEXT | NO_PAIR, prefix="vision_model")
    .public(config="Siglip2VisionConfig", image_processor="Siglip2ImageProcessor")
    .begins(siglip_beginning)
    .base("Siglip2VisionModel", VisionSide.model)
    .done()
)
FAMILY = (
    Builder("siglip2", read, BOTH, prefix="siglip2")
    .public(
        config="Siglip2Config",
        padding="learned",
        tokenizer="Siglip2Tokenizer",
        image_processor="Siglip2ImageProcessor",
        processor="Siglip2Processor",
        row="both towers for pictures of any shape, zero-shot image classification, image classification",
        usual={"initializer_factor": 1.0},
    )
    .begins(siglip_beginning)
    .base("Siglip2Model", both_towers, "zero-shot-image-classification")
    .architecture(
        "Siglip2ForImageClassification",
        ("image-classification",),
        classifier,
        SHAPED_TOWER.under("model", "vision_model"),
    )
    .done()
)
