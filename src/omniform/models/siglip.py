"""SigLIP (https://arxiv.org/abs/2303.15343): its text tower, its vision tower, and both together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.dual_encoder import LastProjected, SigmoidDualEncoder, TextTower
from omniform.architectures.dual_family import NO_TEXT, NO_VISION, TEXT_KEYS, VISION_KEYS, siglip_beginning
from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier, mean_of_all
from omniform.architectures.query_decoder import in_projection
from omniform.architectures.tower import Tower
from omniform.architectures.vision import VisionEncoder, image_classifier
from omniform.blocks.embeddings import PositionedEmbeddings, PositionTable
from omniform.blocks.fused import FusedMLP
from omniform.blocks.patches import GridPositions, Patching, PatchStem, read_patching
from omniform.blocks.poolers import ProbePooler
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSide:
    """What the text tower computes."""

    tower: Tower
    projection: int
    vocab_size: int
    max_positions: int

    @classmethod
    def read(cls, r: ConfigReader) -> TextSide:
        """Read the text tower's config."""
        r.special_tokens(pad_token_id=1, bos_token_id=49406, eos_token_id=49407)
        tower = read_tower(r)
        return cls(
            tower=tower,
            projection=r.maybe_integer("projection_size", tower.dim) or tower.dim,
            vocab_size=r.integer("vocab_size", 32000),
            max_positions=r.integer("max_position_embeddings", 64),
        )

    def model(self) -> TextTower:
        """The text tower. Texts were padded to one length in training, and the last token, mostly padding, stands for
        a text."""
        return TextTower(
            embed_tokens=nn.Embedding(self.vocab_size, self.tower.dim),
            embeddings=PositionedEmbeddings(embed_positions=PositionTable(self.max_positions, self.tower.dim)),
            layers=self.tower.stack(Full()),
            norm=self.tower.norm(),
            pooler=LastProjected(head=nn.Linear(self.tower.dim, self.projection)),
            max_positions=self.max_positions,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSide:
    """What the vision tower computes; ``pools``: whether it makes one vector per picture."""

    tower: Tower
    patching: Patching
    pools: bool

    @classmethod
    def read(cls, r: ConfigReader) -> VisionSide:
        """Read the vision tower's config."""
        return cls(
            tower=read_tower(r),
            patching=read_patching(r, patch_size=16),
            pools=r.flag("vision_use_head", True),
        )

    def model(self) -> VisionEncoder:
        """The vision tower; there is no class token."""
        tower = self.tower
        pooler = None
        if self.pools:
            mlp = FusedMLP(tower.dim, tower.hidden, tower.act)
            pooler = ProbePooler(tower.dim, tower.heads, norm=tower.norm(), mlp=mlp)
        return VisionEncoder(
            patches=PatchStem(self.patching, tower.dim),
            positions=GridPositions(self.patching.grid, tower.dim, before=0),
            layers=tower.stack(Full()),
            norm=tower.norm(),
            pooler=pooler,
        )


def read_tower(r: ConfigReader) -> Tower:
    """Either tower's layers."""
    return Tower.read(r, dim=768, hidden=3072, heads=12, act="gelu_pytorch_tanh", eps=1e-6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What both towers compute together."""

    text: TextSide
    vision: VisionSide


def read(r: ConfigReader) -> Config:
    """Read the config of both."""
    r.inert("initializer_factor")
    text = Part.of(r, "text_config", {"model_type": "siglip_text_model"})
    vision = Part.of(r, "vision_config", {"model_type": "siglip_vision_model"})
    return Config(text=text.spec(TextSide), vision=vision.spec(VisionSide))


def both_towers(c: Config) -> SigmoidDualEncoder:
    """Pictures compared with texts."""
    return SigmoidDualEncoder(vision_model=c.vision.model(), text_model=c.text.model())


def classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per picture, told from the mean of its patches."""
    return image_classifier(c.vision.model(), mean_of_all, common)


TEXT_TOWER = TEXT_KEYS | KeyMap({"pooler.head": "head"})
VISION_TOWER = VISION_KEYS | KeyMap(
    {
        "norm": "post_layernorm",
        "pooler": "head",
        "pooler.norm": "head.layernorm",
        **in_projection("pooler", "head.attention"),
    }
)
"""Where SigLIP's line keeps a vision tower."""

BOTH = TEXT_TOWER.under("text_model", "text_model") | VISION_TOWER.under("vision_model", "vision_model")
NO_PAIR = KeyMap({}, ignored=(r"^logit_bias$",))

TEXT = (
    Builder("siglip_text_model", TextSide.read, TEXT_TOWER | NO_VISION | NO_PAIR, prefix="text_model")
    .public(config="SiglipTextConfig", padding="learned", tokenizer="SiglipTokenizer")
    .begins(siglip_beginning)
    .base("SiglipTextModel", TextSide.model, "text-encoding")
    .done()
)
VISION = (
    Builder("siglip_vision_model", VisionSide.read, VISION_TOWER | NO_TEXT | NO_PAIR, prefix="vision_model")
    .public(config="SiglipVisionConfig", image_processor="SiglipImageProcessor")
    .begins(siglip_beginning)
    .base("SiglipVisionModel", VisionSide.model)
    .done()
)
FAMILY = (
    Builder("siglip", read, BOTH, prefix="siglip")
    .public(
        config="SiglipConfig",
        padding="learned",
        tokenizer="SiglipTokenizer",
        image_processor="SiglipImageProcessor",
        processor="SiglipProcessor",
        row="both towers, zero-shot image classification, image classification",
        usual={"initializer_factor": 1.0},
    )
    .begins(siglip_beginning)
    .base("SiglipModel", both_towers, "zero-shot-image-classification")
    .architecture(
        "SiglipForImageClassification",
        ("image-classification",),
        classifier,
        VISION_TOWER.under("model", "vision_model"),
    )
    .done()
)
