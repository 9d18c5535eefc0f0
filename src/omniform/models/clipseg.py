"""CLIPSeg (https://arxiv.org/abs/2112.10003): the pixels that a text names, or that look like another picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn

from omniform.architectures.dual_encoder import DualEncoder
from omniform.architectures.dual_family import (
    BOTH_KEYS,
    NO_TEXT,
    NO_VISION,
    TEXT_KEYS,
    VISION_KEYS,
    TextSide,
    VisionSide,
)
from omniform.architectures.dual_family import clip_beginning as as_clip
from omniform.architectures.family import Builder
from omniform.architectures.prompted_pixels import PixelDecoder, PromptedSegmenter
from omniform.architectures.vision import FreeVisionEncoder
from omniform.blocks.attention import Attention
from omniform.blocks.layers import PostNorm
from omniform.blocks.mlp import MLP
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What both towers and the layers on top compute."""

    text: TextSide
    vision: VisionSide
    projection: int
    logit_scale: float
    layers: tuple[int, ...]
    dim: int
    heads: int
    hidden: int
    conditioned: int
    several_steps: bool


def read(r: ConfigReader) -> Config:
    """Read the config of all; old files hold a tower's config under ``text_config_dict``, which then counts."""
    # The reference's narrow layers have the vision tower's dropout, and rectify.
    r.inert("initializer_factor", "decoder_attention_dropout", "decoder_hidden_act")
    text = Part.of(r, "text_config", {"model_type": "clipseg_text_model"}, legacy="text_config_dict")
    vision = Part.of(r, "vision_config", {"model_type": "clipseg_vision_model"}, legacy="vision_config_dict")
    side, dim = vision.spec(VisionSide), r.integer("reduce_dim", 64)
    heads = r.integer("decoder_num_attention_heads", 4)
    if dim % heads:
        raise r.fail("decoder_num_attention_heads", f"a divisor of {dim} (reduce_dim)", heads)
    layers = r.integers("extract_layers", (3, 6, 9))
    if not layers or max(layers) >= side.tower.layers:
        raise r.fail("extract_layers", f"layers below {side.tower.layers}", list(layers))
    return Config(
        text=text.spec(TextSide),
        vision=side,
        projection=r.integer("projection_dim", 512),
        logit_scale=r.number("logit_scale_init_value", 2.6592),
        layers=layers,
        dim=dim,
        heads=heads,
        hidden=r.integer("decoder_intermediate_size", 2048),
        conditioned=r.integer("conditional_layer", 0, least=-1),
        several_steps=r.flag("use_complex_transposed_convolution", False),
    )


def tower(side: VisionSide) -> FreeVisionEncoder:
    """The vision tower, which takes pictures of any size."""
    made = side.model(FreeVisionEncoder)
    assert isinstance(made, FreeVisionEncoder)
    return made


def both_towers(c: Config) -> DualEncoder:
    """Pictures compared with texts."""
    return DualEncoder(
        vision_model=tower(c.vision),
        text_model=c.text.model(),
        visual_projection=c.vision.tower.into(c.projection),
        text_projection=c.text.tower.into(c.projection),
        start=c.logit_scale,
    )


def to_pixels(c: Config) -> nn.Module:
    """Patches to pixels, in one step or in two."""
    patch, dim = c.vision.patching.patch_size[0], c.dim
    if not c.several_steps:
        return nn.ConvTranspose2d(dim, 1, patch, stride=patch)
    step = patch // 4
    return nn.Sequential(
        nn.Conv2d(dim, dim, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(dim, dim // 2, kernel_size=step, stride=step),
        nn.ReLU(),
        nn.ConvTranspose2d(dim // 2, 1, kernel_size=step, stride=step),
    )


def segmenter(c: Config, _: Common) -> PromptedSegmenter:
    """The model that finds pixels."""
    own = c.vision.tower

    def layer() -> PostNorm:
        attention = Attention(c.dim, c.heads, rule=Full(), dropout=own.attention_dropout)
        return PostNorm.of(lambda: nn.LayerNorm(c.dim, own.eps), self_attn=attention, mlp=MLP(c.dim, c.hidden, "relu"))

    decoder = PixelDecoder(
        reduces=nn.ModuleList(nn.Linear(own.dim, c.dim) for _ in c.layers),
        layers=nn.ModuleList(layer() for _ in c.layers),
        film_mul=nn.Linear(c.projection, c.dim),
        film_add=nn.Linear(c.projection, c.dim),
        transposed_convolution=to_pixels(c),
        conditioned=c.conditioned,
    )
    return PromptedSegmenter(model=both_towers(c), decoder=decoder, extract_layers=c.layers)


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """As CLIP's towers, wherever they are; what is on top by the factor, as the reference has it."""
    if not path.startswith("decoder."):
        return as_clip(config, path.removeprefix("model."))
    vision = config.get("vision_config")
    assert isinstance(vision, ModelConfig)
    factor, dim = (float(cast(float, config.get(key))) for key in ("initializer_factor", "reduce_dim"))
    module = path.rpartition(".")[0].rpartition(".")[2]
    deep = (2 * cast(int, vision.num_hidden_layers)) ** -0.5
    stds: dict[str, float] = {"o_proj": dim**-0.5, "fc1": (2 * dim) ** -0.5, "fc2": dim**-0.5 * deep}
    stds |= dict.fromkeys(("q_proj", "k_proj", "v_proj"), dim**-0.5 * deep)
    return stds.get(module, 1.0) * factor


DECODER_KEYS = KeyMap(
    {
        "decoder.layers.{i}.self_attn.o_proj": "decoder.layers.{i}.self_attn.out_proj",
        "decoder.layers.{i}.self_attn_layer_norm": "decoder.layers.{i}.layer_norm1",
        "decoder.layers.{i}.final_layer_norm": "decoder.layers.{i}.layer_norm2",
    }
)
_USUAL = {"initializer_factor": 1.0}
TEXT = (
    Builder("clipseg_text_model", TextSide.read, TEXT_KEYS | NO_VISION, prefix="text_model")
    .public(config="CLIPSegTextConfig", padding="learned", tokenizer="CLIPTokenizer", usual=_USUAL)
    .begins(as_clip)
    .base("CLIPSegTextModel", TextSide.model)
    .done()
)
VISION = (
    Builder("clipseg_vision_model", VisionSide.read, VISION_KEYS | NO_TEXT, prefix="vision_model")
    .public(config="CLIPSegVisionConfig", image_processor="ViTImageProcessor", usual=_USUAL)
    .begins(as_clip)
    .base("CLIPSegVisionModel", tower)
    .done()
)
FAMILY = (
    Builder("clipseg", read, BOTH_KEYS, prefix="clip")
    .public(
        config="CLIPSegConfig",
        padding="learned",
        tokenizer="CLIPTokenizer",
        image_processor="ViTImageProcessor",
        processor="CLIPSegProcessor",
        row="both towers, segmentation by texts and by pictures",
        usual={**_USUAL, "decoder_attention_dropout": 0.0, "decoder_hidden_act": "quick_gelu"},
    )
    .begins(beginning)
    .base("CLIPSegModel", both_towers, "zero-shot-image-classification")
    .head("CLIPSegForImageSegmentation", (), segmenter, DECODER_KEYS)
    .done()
)
