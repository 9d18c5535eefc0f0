"""Qwen3-VL (https://arxiv.org/abs/2511.21631): what earlier layers see is told to the decoder's first layers too."""

from __future__ import annotations

from omniform.architectures.axes import DeepDecoder
from omniform.architectures.deep_vision import DEEP_KEYS, DeepTower
from omniform.architectures.family import Builder
from omniform.architectures.fusion import parted_beginning
from omniform.architectures.packed_family import InterleavedText
from omniform.core.reader import ConfigReader
from omniform.models.seeing import SeeingConfig, parts_keys
from omniform.weights.keymap import KeyMap


def build_text(c: InterleavedText) -> DeepDecoder:
    """The decoder."""
    return c.build()


def read(r: ConfigReader) -> SeeingConfig:
    """Read a config; every key is used, declared inert or refused."""
    return SeeingConfig.read(r, "qwen3_vl")


VISION = (
    Builder("qwen3_vl_vision", DeepTower.read, DEEP_KEYS, prefix="visual")
    .public(config="Qwen3VLVisionConfig")
    .base("Qwen3VLVisionModel", DeepTower.build)
    .done()
)
TEXT = (
    Builder("qwen3_vl_text", InterleavedText.read, KeyMap({}), prefix="language_model")
    .public(config="Qwen3VLTextConfig", tokenizer="Qwen2Tokenizer")
    .base("Qwen3VLTextModel", build_text)
    .done()
)
FAMILY = (
    Builder("qwen3_vl", read, parts_keys, prefix="model")
    .public(
        config="Qwen3VLConfig",
        tokenizer="Qwen2Tokenizer",
        image_processor="Qwen2VLImageProcessor",
        video_processor="Qwen3VLVideoProcessor",
        processor="Qwen3VLProcessor",
        row="image, video and text to text",
    )
    .begins(parted_beginning)
    .base("Qwen3VLModel", SeeingConfig.deep)
    .head("Qwen3VLForConditionalGeneration", "image-text-to-text", SeeingConfig.deep_lm)
    .done()
)
