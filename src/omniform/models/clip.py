"""CLIP (https://arxiv.org/abs/2103.00020): its text tower, its vision tower, and both together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.dual_encoder import (
    DualEncoder,
    FirstOf,
    HighestId,
    ImageEmbedder,
    TextEmbedder,
    TextTower,
)
from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier, class_scores, mean_of_patches
from omniform.architectures.parts import Tower
from omniform.architectures.vision import VisionEncoder
from omniform.blocks.embeddings import PositionedEmbeddings, PositionTable
from omniform.blocks.patches import ClassToken, GridPositions, Patching, PatchStem, read_patching
from omniform.blocks.poolers import NormPooler
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal, Full
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What the text tower computes."""

    tower: Tower
    vocab_size: int
    max_positions: int
    eos_token_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vision:
    """What the vision tower computes."""

    tower: Tower
    patching: Patching


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What both towers compute together."""

    text: Text
    vision: Vision
    projection: int
    logit_scale: float


def read_text(r: ConfigReader) -> Text:
    """Read the text tower's config."""
    for name, default in (("pad_token_id", 1), ("bos_token_id", 49406)):
        r.maybe_integer(name, default, least=-1)
    return Text(
        tower=Tower.read(r, dim=512, hidden=2048, heads=8, act="quick_gelu", eps=1e-5),
        vocab_size=r.integer("vocab_size", 49408),
        max_positions=r.integer("max_position_embeddings", 77),
        eos_token_id=r.integer("eos_token_id", 49407, least=0),
    )


def read_vision(r: ConfigReader) -> Vision:
    """Read the vision tower's config."""
    tower = Tower.read(r, dim=768, hidden=3072, heads=12, act="quick_gelu", eps=1e-5)
    return Vision(tower=tower, patching=read_patching(r, patch_size=32))


def read(r: ConfigReader) -> Config:
    """Read the config of both; old files hold a tower's config under ``text_config_dict``, which then counts."""
    r.inert("initializer_factor")
    text = Part.of(r, "text_config", {"model_type": "clip_text_model"}, legacy="text_config_dict")
    vision = Part.of(r, "vision_config", {"model_type": "clip_vision_model"}, legacy="vision_config_dict")
    return Config(
        text=text.spec(Text),
        vision=vision.spec(Vision),
        projection=r.integer("projection_dim", 512),
        logit_scale=r.number("logit_scale_init_value", 2.6592),
    )


def text_tower(c: Text) -> TextTower:
    """The text tower. The end of a text stands for it."""
    # Old releases wrote 2 by mistake, and took the highest id, the vocabulary's last token, for the end.
    end = HighestId() if c.eos_token_id == 2 else FirstOf((c.eos_token_id,))
    return TextTower(
        embed_tokens=nn.Embedding(c.vocab_size, c.tower.dim),
        embeddings=PositionedEmbeddings(embed_positions=PositionTable(c.max_positions, c.tower.dim)),
        layers=c.tower.stack(Causal()),
        norm=c.tower.norm(),
        pooler=end,
        max_positions=c.max_positions,
    )


def vision_tower(c: Vision) -> VisionEncoder:
    """The vision tower. The norm before the layers acts on patches, the one after them on the pooled vector alone."""
    dim = c.tower.dim
    return VisionEncoder(
        patches=PatchStem(c.patching, dim, bias=False),
        positions=GridPositions(c.patching.grid, dim, before=1),
        class_token=ClassToken(dim),
        pre_norm=c.tower.norm(),
        layers=c.tower.stack(Full()),
        pooler=NormPooler(c.tower.norm()),
    )


def both_towers(c: Config) -> DualEncoder:
    """Pictures compared with texts."""
    return DualEncoder(
        vision_model=vision_tower(c.vision),
        text_model=text_tower(c.text),
        visual_projection=nn.Linear(c.vision.tower.dim, c.projection, bias=False),
        text_projection=nn.Linear(c.text.tower.dim, c.projection, bias=False),
        start=c.logit_scale,
    )


def text_embedder(c: Text, _: Common) -> TextEmbedder:
    """The text tower and its projection."""
    return TextEmbedder(model=text_tower(c), projection=nn.Linear(c.tower.dim, c.tower.projection, bias=False))


def image_embedder(c: Vision, _: Common) -> ImageEmbedder:
    """The vision tower and its projection."""
    return ImageEmbedder(model=vision_tower(c), projection=nn.Linear(c.tower.dim, c.tower.projection, bias=False))


def image_classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per picture, told from the mean of its patches."""
    return SequenceClassifier(
        model=vision_tower(c.vision),
        pool=mean_of_patches,
        classifier=class_scores(c.vision.tower.dim, common.num_labels),
        common=common,
    )


LAYERS = {
    "layers": "encoder.layers",
    "layers.{i}.input_layernorm": "encoder.layers.{i}.layer_norm1",
    "layers.{i}.self_attn.o_proj": "encoder.layers.{i}.self_attn.out_proj",
    "layers.{i}.post_attention_layernorm": "encoder.layers.{i}.layer_norm2",
}
TEXT_KEYS = KeyMap(
    {
        **LAYERS,
        "embed_tokens": "embeddings.token_embedding",
        "embeddings.embed_positions": "embeddings.position_embedding",
        "norm": "final_layer_norm",
    },
    aliases=((r"^text_model\.(\w)", r"\1"),),
)
VISION_KEYS = KeyMap(
    {
        **LAYERS,
        "class_token.weight": "embeddings.class_embedding",
        "patches.projection": "embeddings.patch_embedding",
        "positions": "embeddings.position_embedding",
        "pre_norm": "pre_layrnorm",  # sic
        "pooler.norm": "post_layernorm",
    },
    aliases=((r"^vision_model\.(\w)", r"\1"),),
)
BOTH_KEYS = TEXT_KEYS.under("text_model", "text_model") | VISION_KEYS.under("vision_model", "vision_model")

# A tower can be loaded from a file that holds both.
NO_TEXT = KeyMap({}, ignored=(r"^(text_model|text_projection)\.", r"^logit_scale$"))
NO_VISION = KeyMap({}, ignored=(r"^(vision_model|visual_projection)\.", r"^logit_scale$"))

TEXT = (
    Builder("clip_text_model", read_text, TEXT_KEYS | NO_VISION, prefix="text_model")
    .public(
        config="CLIPTextConfig",
        tokenizer="CLIPTokenizer",
        usual={"initializer_factor": 1.0},
    )
    .base("CLIPTextModel", text_tower, "text-encoding")
    .head("CLIPTextModelWithProjection", "text-embedding", text_embedder, {"projection": "text_projection"})
    .done()
)
VISION = (
    Builder("clip_vision_model", read_vision, VISION_KEYS | NO_TEXT, prefix="vision_model")
    .public(
        config="CLIPVisionConfig",
        image_processor="CLIPImageProcessor",
        usual={"initializer_factor": 1.0},
    )
    .base("CLIPVisionModel", vision_tower)
    .head("CLIPVisionModelWithProjection", "image-embedding", image_embedder, {"projection": "visual_projection"})
    .done()
)
FAMILY = (
    Builder("clip", read, BOTH_KEYS, prefix="clip")
    .public(
        config="CLIPConfig",
        tokenizer="CLIPTokenizer",
        image_processor="CLIPImageProcessor",
        processor="CLIPProcessor",
        row="both towers, zero-shot image classification, image classification, projections",
        usual={"initializer_factor": 1.0},
    )
    .base("CLIPModel", both_towers, "zero-shot-image-classification")
    .architecture(
        "CLIPForImageClassification",
        ("image-classification",),
        image_classifier,
        VISION_KEYS.under("model", "vision_model"),
    )
    .done()
)
