"""ConvNeXt V2 (https://arxiv.org/abs/2301.00808): channels compete, and no branch is scaled."""

from __future__ import annotations

from omniform.architectures.convnext_family import KEYS, ConvNextConfig, ConvNextHeads, read_convnext
from omniform.architectures.family import Builder
from omniform.blocks.convnext import ResponseNorm
from omniform.core.reader import ConfigReader


def read(r: ConfigReader) -> ConvNextConfig:
    """Read a config; every key is used, declared inert or refused."""
    return read_convnext(r, None)


FAMILY = (
    ConvNextHeads(ResponseNorm)
    .add(Builder("convnextv2", read, KEYS, prefix="convnextv2"), "ConvNextV2")
    .public(config="ConvNextV2Config", image_processor="ConvNextImageProcessor", row="image classification, backbone")
    .done()
)
