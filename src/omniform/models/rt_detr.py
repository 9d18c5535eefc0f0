"""RT-DETR (https://arxiv.org/abs/2304.08069)."""

from __future__ import annotations

from omniform.architectures.family import Builder
from omniform.architectures.hybrid_detector import HybridDetector, HybridObjectDetector
from omniform.architectures.hybrid_family import (
    HybridConfig,
    hybrid_beginning,
    hybrid_keys,
    hybrid_model,
    hybrid_object_detector,
    read_hybrid,
)
from omniform.blocks.deformable import DeformableCrossAttention
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.models.backbones import read_backbone

USUAL = {"model_type": "rt_detr_resnet", "out_indices": [2, 3, 4]}
"""The backbone where a config names none."""


def read(r: ConfigReader) -> HybridConfig:
    """Read a config; every key is used, declared inert or refused."""
    return read_hybrid(r, read_backbone(r, USUAL))


def _look(c: HybridConfig) -> DeformableCrossAttention:
    d = c.decoder
    return DeformableCrossAttention(d.dim, d.heads, d.levels, d.points)


def build(c: HybridConfig, common: Common) -> HybridDetector:
    """The detector without heads on its decoder."""
    return hybrid_model(c, common, lambda: _look(c))


def object_detector(c: HybridConfig, common: Common) -> HybridObjectDetector:
    """A class and a box per query."""
    return hybrid_object_detector(c, common, lambda: _look(c))


FAMILY = (
    Builder("rt_detr", read, hybrid_keys, prefix="model")
    .public(
        config="RTDetrConfig",
        image_processor="RTDetrImageProcessor",
        row="object detection",
        usual={
            "eos_coefficient": 1e-4,
            "initializer_bias_prior_prob": None,
            "with_box_refine": True,
            "disable_custom_kernels": True,
        },
    )
    .begins(hybrid_beginning)
    .architecture("RTDetrModel", ("base",), build, hybrid_keys)
    .head("RTDetrForObjectDetection", "object-detection", object_detector)
    .done()
)
