"""AltCLIP (https://arxiv.org/abs/2211.06679): CLIP's pictures, compared with the texts of an XLM-RoBERTa."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn

from omniform.architectures.counted_family import CountedText
from omniform.architectures.dual_family import (
    NO_PROJECTION,
    NO_TEXT,
    NO_VISION,
    VISION_KEYS,
    VisionSide,
    clip_beginning,
)
from omniform.architectures.encoder_family import STACK_KEYS
from omniform.architectures.family import Builder
from omniform.architectures.stack import TextEncoder
from omniform.blocks.layers import run
from omniform.blocks.poolers import FirstPooler
from omniform.core.config import Beginning, ModelConfig
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.models.chinese_clip import TypedDualEncoder
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap, Layout, Rule


class TransformedTextEncoder(TextEncoder):
    """An encoder of texts whose every hidden state is normalised and mapped to another width at the end.

    Args:
        transformation: the map, to the width of the teacher.
    """

    norm: nn.Module
    transformation: nn.Linear

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to what the teacher would say of them. Shape: [B, T, D] to [B, T, E]."""
        # The hidden states that it reports are the encoder's own.
        hidden = run(self.layers, self.embeddings(embeds_BTD, ctx), ctx)
        return cast(Tensor, self.transformation(self.norm(hidden)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSide:
    """What the text tower computes: an XLM-RoBERTa, taught to speak as CLIP's texts do.

    Attributes:
        width: of what it says, the teacher's.
    """

    counted: CountedText
    width: int

    @classmethod
    def read(cls, r: ConfigReader) -> TextSide:
        """Read the text tower's config."""
        r.inert("initializer_factor")
        # Settings of the code that it was published with: never read.
        r.inert("learn_encoder", "pooler_fn")
        counted = CountedText.read(
            r,
            vocab_size=250002,
            token_types=1,
            dim=1024,
            hidden=4096,
            layers=24,
            heads=16,
            attention_dropout=0.0,
            eps=1e-5,
            max_positions=514,
        )
        # It reads both ways, whatever the file says.
        text = replace(counted.text, causal=False, cross_attention=False)
        return cls(counted=replace(counted, text=text), width=r.integer("project_dim", 768))

    def model(self) -> TextEncoder:
        """The text tower. The first token stands for a text."""
        text, bare = self.counted.text, self.counted.stack(None)
        return TransformedTextEncoder(
            embed_tokens=bare.embed_tokens,
            embeddings=bare.embeddings,
            layers=bare.layers,
            norm=text.norm(),
            transformation=nn.Linear(text.dim, self.width),
            pooler=FirstPooler(),
            max_positions=bare.max_positions,
        )


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
    text = Part.of(r, "text_config", {"model_type": "altclip_text_model"}, legacy="text_config_dict")
    vision = Part.of(r, "vision_config", {"model_type": "altclip_vision_model"}, legacy="vision_config_dict")
    return Config(
        text=text.spec(TextSide),
        vision=vision.spec(VisionSide),
        projection=r.integer("projection_dim", 768),
        logit_scale=r.number("logit_scale_init_value", 2.6592),
    )


def both_towers(c: Config) -> TypedDualEncoder:
    """Pictures compared with texts."""
    return TypedDualEncoder(
        vision_model=c.vision.model(),
        text_model=c.text.model(),
        visual_projection=c.vision.tower.into(c.projection),
        text_projection=nn.Linear(c.text.width, c.projection, bias=False),
        start=c.logit_scale,
    )


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """CLIP's; the text tower begins by its own config, and its projection by the width of what it is given."""
    text = cast(ModelConfig, config.text_config)
    if path == "text_projection.weight":
        return float(cast(int, text.project_dim) ** -0.5 * cast(float, config.initializer_factor))
    if path.startswith("text_model."):
        return text.common.initializer_range
    return clip_beginning(config, path)


ONE, MANY = "encoder.layer", "encoder.layers"
SPELLED = re.compile(r"\bencoder\.layers?(?=\.|$)")


def spelled(rules: Mapping[str, Rule], name: str) -> dict[str, Rule]:
    """Those of the rules that lead to layers, which are called so."""
    found = {ours: rule for ours, rule in rules.items() if isinstance(rule, str) and SPELLED.search(rule)}
    return {ours: SPELLED.sub(name, rule) for ours, rule in found.items()}


STACK = {**STACK_KEYS, **spelled(STACK_KEYS, MANY)}
TEXT_KEYS = KeyMap(
    {**{ours: f"roberta.{theirs}" for ours, theirs in STACK.items()}, "norm": "pre_LN"},
    aliases=((r"^text_model\.(\w)", r"\1"), (r"^roberta\.encoder\.layer\.", "roberta.encoder.layers.")),
)
SIGHT_KEYS = VISION_KEYS | KeyMap({}, aliases=((r"^encoder\.layer\.", "encoder.layers."),))

# A tower by itself has ``layers``, as the modules of today's release of the reference. Files of both have either: as
# published only texts have ``layer``, and that release writes it for pictures too.
TEXTS = TEXT_KEYS.under("text_model", "text_model").rules
SIGHTS = VISION_KEYS.under("vision_model", "vision_model").rules
BOTH_KEYS = KeyMap(
    {**TEXTS, **spelled(TEXTS, ONE), **SIGHTS},
    layouts=(
        Layout(r"^vision_model\.encoder\.layer\.", spelled(SIGHTS, ONE)),
        Layout(r"^text_model\.roberta\.encoder\.layers\.", spelled(TEXTS, MANY)),
    ),
    modules=((r"\.encoder\.layer\.", ".encoder.layers."),),
)

TEXT = (
    Builder("altclip_text_model", TextSide.read, TEXT_KEYS | NO_VISION | NO_PROJECTION, prefix="text_model")
    .public(config="AltCLIPTextConfig", tokenizer="XLMRobertaTokenizer", usual={"initializer_factor": 0.02})
    .base("AltCLIPTextModel", TextSide.model)
    .done()
)
VISION = (
    Builder("altclip_vision_model", VisionSide.read, SIGHT_KEYS | NO_TEXT | NO_PROJECTION, prefix="vision_model")
    .public(config="AltCLIPVisionConfig", image_processor="CLIPImageProcessor", usual={"initializer_factor": 1.0})
    .begins(clip_beginning)
    .base("AltCLIPVisionModel", VisionSide.model)
    .done()
)
FAMILY = (
    Builder("altclip", read, BOTH_KEYS, prefix="altclip")
    .public(
        config="AltCLIPConfig",
        tokenizer="XLMRobertaTokenizer",
        image_processor="CLIPImageProcessor",
        processor="AltCLIPProcessor",
        row="both towers, zero-shot image classification",
        usual={"initializer_factor": 1.0},
    )
    .begins(beginning)
    .base("AltCLIPModel", both_towers, "zero-shot-image-classification")
    .done()
)
