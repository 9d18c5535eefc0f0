"""Qwen3-VL (https://arxiv.org/abs/2511.21631)."""

from __future__ import annotations

from omniform.architectures.deep_vision import DEEP_KEYS, DeepTower
from omniform.architectures.family import Builder

VISION = (
    Builder("qwen3_vl_vision", DeepTower.read, DEEP_KEYS, prefix="visual")
    .public(config="Qwen3VLVisionConfig")
    .base("Qwen3VLVisionModel", DeepTower.build)
    .done()
)
