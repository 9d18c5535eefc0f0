"""SmolVLM (https://arxiv.org/abs/2504.05299): Idefics3's architecture, small, for pictures and videos."""

from __future__ import annotations

from omniform.architectures.family import Builder
from omniform.architectures.native_vision import NATIVE_KEYS, NativeSide
from omniform.core.reader import ConfigReader
from omniform.models.idefics3 import Config, beginning, build, causal_lm, keys, read_parts, read_vision


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    return read_parts(r, "smolvlm_vision")


VISION = (
    Builder("smolvlm_vision", read_vision, NATIVE_KEYS, prefix="")
    .public(config="SmolVLMVisionConfig")
    .base("SmolVLMVisionTransformer", NativeSide.model)
    .done()
)
FAMILY = (
    Builder("smolvlm", read, keys, prefix="model")
    .public(
        config="SmolVLMConfig",
        tokenizer="GPT2Tokenizer",
        image_processor="SmolVLMImageProcessor",
        video_processor="SmolVLMVideoProcessor",
        processor="SmolVLMProcessor",
        row="image, video and text to text",
    )
    .begins(beginning)
    .base("SmolVLMModel", build)
    .head("SmolVLMForConditionalGeneration", "image-text-to-text", causal_lm)
    .done()
)
