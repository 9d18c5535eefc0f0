"""OWL-ViT (https://arxiv.org/abs/2205.06230): what texts name, or another picture shows, found in pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torch import nn

from omniform.architectures.dual_family import LAYERS, NO_TEXT, NO_VISION, TEXT_KEYS, TextSide, VisionSide
from omniform.architectures.dual_family import clip_beginning as as_clip
from omniform.architectures.family import Builder
from omniform.architectures.open_detector import OpenDetector, PatchHead, PlainDualEncoder, QueryHead
from omniform.architectures.tower import Tower
from omniform.blocks.patches import read_patching
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What both towers compute together."""

    text: TextSide
    vision: VisionSide
    projection: int
    logit_scale: float


def read_text(r: ConfigReader) -> TextSide:
    """Read the text tower's config. The highest token id ends a text."""
    r.inert("initializer_factor", "projection_dim")
    r.special_tokens(pad_token_id=0, bos_token_id=49406, eos_token_id=49407)
    return TextSide(
        tower=Tower.read(r, dim=512, hidden=2048, heads=8, act="quick_gelu", eps=1e-5),
        projection=0,
        vocab_size=r.integer("vocab_size", 49408),
        max_positions=r.integer("max_position_embeddings", 16),
        eos_token_id=2,
    )


def vision_reader(patch: int) -> Callable[[ConfigReader], VisionSide]:
    """A reader of the vision tower's config; ``patch``: the usual edge of a patch."""

    def read(r: ConfigReader) -> VisionSide:
        r.inert("initializer_factor", "projection_dim")
        return VisionSide(
            tower=Tower.read(r, dim=768, hidden=3072, heads=12, act="quick_gelu", eps=1e-5),
            projection=0,
            patching=read_patching(r, patch_size=patch, image_size=(768, 768)),
        )

    return read


def reader(model_type: str) -> Callable[[ConfigReader], Config]:
    """A reader of the config of both."""

    def read(r: ConfigReader) -> Config:
        r.inert("initializer_factor")
        text = Part.of(r, "text_config", {"model_type": f"{model_type}_text_model"})
        vision = Part.of(r, "vision_config", {"model_type": f"{model_type}_vision_model"})
        return Config(
            text=text.spec(TextSide),
            vision=vision.spec(VisionSide),
            projection=r.integer("projection_dim", 512),
            logit_scale=r.number("logit_scale_init_value", 2.6592),
        )

    return read


def both_towers(c: Config) -> PlainDualEncoder:
    """Pictures compared with texts."""
    return PlainDualEncoder(
        vision_model=c.vision.model(),
        text_model=c.text.model(),
        visual_projection=c.vision.tower.into(c.projection),
        text_projection=c.text.tower.into(c.projection),
        start=c.logit_scale,
    )


def check_queries(c: Config) -> None:
    """Refuse a detector whose queries are of another width than what they are compared with."""
    if c.projection != c.text.tower.dim:
        raise ConfigError(
            "text_projection and class_head do not fit",
            where="config.json: projection_dim",
            expected=f"{c.text.tower.dim}, text_config's hidden_size",
            found=c.projection,
        )


def detector(c: Config, _: Common) -> OpenDetector:
    """The model that finds."""
    check_queries(c)
    width = c.vision.tower.dim
    return OpenDetector(
        model=both_towers(c),
        class_head=QueryHead(width, c.text.tower.dim),
        box_head=PatchHead(width, 4),
        layer_norm=nn.LayerNorm(width, c.vision.tower.eps),
    )


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """As CLIP's towers, wherever they are; heads by its factor, as the reference has it."""
    inner = path.removeprefix("model.")
    if not inner.startswith(("class_head", "box_head", "objectness_head", "layer_norm")):
        return as_clip(config, inner)
    return None if "initializer_range" in config.raw else float(cast(float, config.get("initializer_factor", 1.0)))


VISION_KEYS = KeyMap(
    {
        **LAYERS,
        "class_token.weight": "embeddings.class_embedding",
        "patches.projection": "embeddings.patch_embedding",
        "positions": "embeddings.position_embedding",
        "pre_norm": "pre_layernorm",
        "pooler.norm": "post_layernorm",
    }
)
TEXT_ALONE = KeyMap(TEXT_KEYS.rules)
BOTH = TEXT_ALONE.under("text_model", "text_model") | VISION_KEYS.under("vision_model", "vision_model")


def towers(model_type: str, name: str, patch: int) -> tuple[Builder[TextSide], Builder[VisionSide], Builder[Config]]:
    """Both towers alone, and together without a detector.

    Args:
        name: what class names begin with.
        patch: the usual edge of a patch.
    """
    usual = {"initializer_factor": 1.0}
    text = (
        Builder(
            f"{model_type}_text_model", read_text, TEXT_ALONE.under("", "text_model") | NO_VISION, prefix=model_type
        )
        .public(config=f"{name}TextConfig", padding="learned", tokenizer="CLIPTokenizer", usual=usual)
        .begins(beginning)
        .base(f"{name}TextModel", TextSide.model)
    )
    keys = VISION_KEYS.under("", "vision_model") | NO_TEXT
    vision = (
        Builder(f"{model_type}_vision_model", vision_reader(patch), keys, prefix=model_type)
        .public(config=f"{name}VisionConfig", image_processor=f"{name}ImageProcessor", usual=usual)
        .begins(beginning)
        .base(f"{name}VisionModel", VisionSide.model)
    )
    both = (
        Builder(model_type, reader(model_type), BOTH, prefix=model_type)
        .public(
            config=f"{name}Config",
            padding="learned",
            tokenizer="CLIPTokenizer",
            image_processor=f"{name}ImageProcessor",
            processor=f"{name}Processor",
            row="both towers, detection by texts and by pictures",
            usual=usual,
        )
        .begins(beginning)
        .base(f"{name}Model", both_towers)
    )
    return text, vision, both


_text, _vision, _both = towers("owlvit", "OwlViT", 32)
TEXT, VISION = _text.done(), _vision.done()
FAMILY = _both.head("OwlViTForObjectDetection", "zero-shot-object-detection", detector).done()
