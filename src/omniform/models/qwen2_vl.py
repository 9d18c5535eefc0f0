"""Qwen2-VL (https://arxiv.org/abs/2409.12191): pictures and films of any sizes, tokens on three axes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.axes import AxesDecoder
from omniform.architectures.family import Builder
from omniform.architectures.fusion import parted_beginning
from omniform.architectures.packed_family import SectionedText
from omniform.architectures.packed_vision import PackedVision, PatchTower, block_keys
from omniform.blocks.fused import FusedMLP
from omniform.core.reader import ConfigReader
from omniform.models.seeing import (
    MERGER_KEYS,
    SeeingConfig,
    base_keys_before_2025,
    head_keys_before_2025,
)
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSide:
    """What the encoder of pictures computes."""

    tower: PatchTower


def read_vision(r: ConfigReader) -> VisionSide:
    """Read its config; every key is used, declared inert or refused."""
    tower = PatchTower.read(
        r, dim=1280, hidden=None, layers=32, act="quick_gelu", patch=14, width_key="embed_dim", out_key="hidden_size"
    )
    return VisionSide(tower=tower)


def build_vision(c: VisionSide) -> PackedVision:
    """The encoder of pictures."""
    t = c.tower
    return PackedVision(
        patch_embed=t.patches(bias=False),
        layers=nn.ModuleList(t.layer(t.norm, FusedMLP(t.dim, t.hidden, t.act)) for _ in range(t.layers)),
        merger=t.merger(t.norm()),
        merge=t.merge,
    )


def build_text(c: SectionedText) -> AxesDecoder:
    """The decoder."""
    return c.build()


def read(r: ConfigReader) -> SeeingConfig:
    """Read a config; the oldest hold the decoder's keys among their own."""
    return SeeingConfig.read(r, "qwen2_vl", flat=True)


VISION_KEYS = KeyMap({**block_keys({}), **MERGER_KEYS})

VISION = (
    Builder("qwen2_vl_vision", read_vision, VISION_KEYS, prefix="visual")
    .public(config="Qwen2VLVisionConfig")
    .base("Qwen2VisionTransformerPretrainedModel", build_vision)
    .done()
)
TEXT = (
    Builder("qwen2_vl_text", SectionedText.read, KeyMap({}), prefix="language_model")
    .public(config="Qwen2VLTextConfig", tokenizer="Qwen2Tokenizer")
    .base("Qwen2VLTextModel", build_text)
    .done()
)
FAMILY = (
    Builder("qwen2_vl", read, base_keys_before_2025, prefix="")
    .public(
        config="Qwen2VLConfig",
        tokenizer="Qwen2Tokenizer",
        image_processor="Qwen2VLImageProcessor",
        video_processor="Qwen2VLVideoProcessor",
        processor="Qwen2VLProcessor",
        row="image, video and text to text",
    )
    .begins(parted_beginning)
    .base("Qwen2VLModel", SeeingConfig.build)
    .architecture(
        "Qwen2VLForConditionalGeneration", ("image-text-to-text",), SeeingConfig.causal_lm, head_keys_before_2025
    )
    .done()
)
