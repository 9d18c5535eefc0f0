"""CLIP (https://arxiv.org/abs/2103.00020): its text tower, its vision tower, and both together."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.dual_encoder import DualEncoder
from omniform.architectures.dual_family import (
    BOTH_KEYS,
    NO_TEXT,
    NO_VISION,
    TEXT_KEYS,
    VISION_KEYS,
    TextSide,
    VisionSide,
    clip_beginning,
)
from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier, mean_of_patches
from omniform.architectures.vision import image_classifier
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.models.registry import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What both towers compute together."""

    text: TextSide
    vision: VisionSide
    projection: int
    logit_scale: float


def read(r: ConfigReader) -> Config:
    """Read the config of both; old files hold a tower's config under ``text_config_dict``, which then counts."""
    r.inert("initializer_factor")
    text = Part.of(r, "text_config", {"model_type": "clip_text_model"}, legacy="text_config_dict")
    vision = Part.of(r, "vision_config", {"model_type": "clip_vision_model"}, legacy="vision_config_dict")
    return Config(
        text=text.spec(TextSide),
        vision=vision.spec(VisionSide),
        projection=r.integer("projection_dim", 512),
        logit_scale=r.number("logit_scale_init_value", 2.6592),
    )


def both_towers(c: Config) -> DualEncoder:
    """Pictures compared with texts."""
    return DualEncoder(
        vision_model=c.vision.model(),
        text_model=c.text.model(),
        visual_projection=c.vision.tower.into(c.projection),
        text_projection=c.text.tower.into(c.projection),
        start=c.logit_scale,
    )


def classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per picture, told from the mean of its patches."""
    return image_classifier(c.vision.model(), mean_of_patches, common)


TEXT = (
    Builder("clip_text_model", TextSide.read, TEXT_KEYS | NO_VISION, prefix="text_model")
    .public(config="CLIPTextConfig", padding="learned", tokenizer="CLIPTokenizer", usual={"initializer_factor": 1.0})
    .begins(clip_beginning)
    .base("CLIPTextModel", TextSide.model, "text-encoding")
    .head("CLIPTextModelWithProjection", "text-embedding", TextSide.embedder, {"projection": "text_projection"})
    .done()
)
VISION = (
    Builder("clip_vision_model", VisionSide.read, VISION_KEYS | NO_TEXT, prefix="vision_model")
    .public(config="CLIPVisionConfig", image_processor="CLIPImageProcessor", usual={"initializer_factor": 1.0})
    .begins(clip_beginning)
    .base("CLIPVisionModel", VisionSide.model)
    .head("CLIPVisionModelWithProjection", "image-embedding", VisionSide.embedder, {"projection": "visual_projection"})
    .done()
)
FAMILY = (
    Builder("clip", read, BOTH_KEYS, prefix="clip")
    .public(
        config="CLIPConfig",
        padding="learned",
        tokenizer="CLIPTokenizer",
        image_processor="CLIPImageProcessor",
        processor="CLIPProcessor",
        row="both towers, zero-shot image classification, image classification, projections",
        usual={"initializer_factor": 1.0},
    )
    .begins(clip_beginning)
    .base("CLIPModel", both_towers, "zero-shot-image-classification")
    .architecture(
        "CLIPForImageClassification",
        ("image-classification",),
        classifier,
        VISION_KEYS.under("model", "vision_model"),
    )
    .done()
)
