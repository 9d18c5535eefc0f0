"""Chinese-CLIP (https://arxiv.org/abs/2211.01335): CLIP's pictures, compared with the texts of a BERT."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Unpack, cast

from torch import Tensor, nn

from omniform.architectures.dual_encoder import DualEncoder
from omniform.architectures.dual_family import (
    NO_PROJECTION,
    NO_TEXT,
    NO_VISION,
    VISION_KEYS,
    VisionSide,
    clip_beginning,
)
from omniform.architectures.encoder_family import STACK_KEYS, EncoderText
from omniform.architectures.family import Builder
from omniform.architectures.stack import TextEncoder
from omniform.blocks.poolers import DensePooler, FirstPooler
from omniform.core.config import Beginning, ModelConfig
from omniform.core.context import Tapped
from omniform.core.outputs import DualEncoderOutput
from omniform.core.reader import ConfigReader
from omniform.models.bert import build
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap


class TypedDualEncoder(DualEncoder):
    """CLIP's, whose text tower tells types of tokens apart."""

    text_model: TextEncoder  # type: ignore[assignment] # one that takes vectors too

    def forward(  # type: ignore[override] # types come before positions
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **given: Unpack[Tapped],
    ) -> DualEncoderOutput:
        """Similarities of every picture with every text; see :meth:`DualEncoder.forward`.

        Args:
            token_type_ids: Shape: [texts, T].
        """
        ids, pixels = self.both(input_ids, pixel_values)
        image = self.get_image_features(pixels, interpolate_pos_encoding=interpolate_pos_encoding, **given)
        named = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, "position_ids": position_ids}
        text = self.get_text_features(ids, **named, **given)
        return self.compared(image, text, return_loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSide:
    """What the text tower computes: a BERT."""

    text: EncoderText

    @classmethod
    def read(cls, r: ConfigReader) -> TextSide:
        """Read the text tower's config."""
        r.inert("initializer_factor")
        r.only("position_embedding_type", "absolute", None, why="positions are a learned table")
        r.special_tokens(pad_token_id=0, bos_token_id=0)
        return cls(text=replace(EncoderText.read(r), causal=False, cross_attention=False))

    def model(self) -> TextEncoder:
        """The text tower, which pools."""
        return cast(TextEncoder, build(self.text, DensePooler(self.text.dim, self.text.dim)))

    def paired(self) -> TextEncoder:
        """The text tower beside pictures: the first token stands for a text as it is."""
        return cast(TextEncoder, build(self.text, FirstPooler()))


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
    text = Part.of(r, "text_config", {"model_type": "chinese_clip_text_model"}, legacy="text_config_dict")
    vision = Part.of(r, "vision_config", {"model_type": "chinese_clip_vision_model"}, legacy="vision_config_dict")
    return Config(
        text=text.spec(TextSide),
        vision=vision.spec(VisionSide),
        projection=r.integer("projection_dim", 512),
        logit_scale=r.number("logit_scale_init_value", 2.6592),
    )


def both_towers(c: Config) -> TypedDualEncoder:
    """Pictures compared with texts."""
    return TypedDualEncoder(
        vision_model=c.vision.model(),
        text_model=c.text.paired(),
        visual_projection=c.vision.tower.into(c.projection),
        text_projection=nn.Linear(c.text.text.dim, c.projection, bias=False),
        start=c.logit_scale,
    )


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """CLIP's; BERT's own in the text tower."""
    if not path.startswith("text_model."):
        return clip_beginning(config, path)
    text = config.get("text_config")
    assert isinstance(text, ModelConfig)
    return text.common.initializer_range


TEXT_KEYS = KeyMap(STACK_KEYS, aliases=((r"^text_model\.(\w)", r"\1"),))
BOTH_KEYS = TEXT_KEYS.under("text_model", "text_model") | VISION_KEYS.under("vision_model", "vision_model")

TEXT = (
    Builder("chinese_clip_text_model", TextSide.read, TEXT_KEYS | NO_VISION | NO_PROJECTION, prefix="text_model")
    .public(config="ChineseCLIPTextConfig", tokenizer="BertTokenizer", usual={"initializer_factor": 1.0})
    .base("ChineseCLIPTextModel", TextSide.model, "text-encoding")
    .done()
)
VISION = (
    Builder("chinese_clip_vision_model", VisionSide.read, VISION_KEYS | NO_TEXT | NO_PROJECTION, prefix="vision_model")
    .public(
        config="ChineseCLIPVisionConfig",
        image_processor="ChineseCLIPImageProcessor",
        usual={"initializer_factor": 1.0},
    )
    .begins(clip_beginning)
    .base("ChineseCLIPVisionModel", VisionSide.model)
    .done()
)
FAMILY = (
    Builder("chinese_clip", read, BOTH_KEYS, prefix="chinese_clip")
    .public(
        config="ChineseCLIPConfig",
        tokenizer="BertTokenizer",
        image_processor="ChineseCLIPImageProcessor",
        processor="ChineseCLIPProcessor",
        row="both towers, zero-shot image classification",
        usual={"initializer_factor": 1.0},
    )
    .begins(beginning)
    .base("ChineseCLIPModel", both_towers, "zero-shot-image-classification")
    .done()
)
