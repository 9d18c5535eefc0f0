"""ConvNeXt (https://arxiv.org/abs/2201.03545)."""

from __future__ import annotations

from omniform.architectures.convnext_family import KEYS, ConvNextConfig, ConvNextHeads, read_convnext
from omniform.architectures.family import Builder
from omniform.core.reader import ConfigReader


def read(r: ConfigReader) -> ConvNextConfig:
    """Read a config; every key is used, declared inert or refused."""
    scale = r.number("layer_scale_init_value", 1e-6)
    return read_convnext(r, scale if scale > 0 else None)


FAMILY = (
    ConvNextHeads()
    .add(Builder("convnext", read, KEYS, prefix="convnext"), "ConvNext")
    .public(config="ConvNextConfig", image_processor="ConvNextImageProcessor", row="image classification, backbone")
    .done()
)
