"""MXFP4: experts whose matrices are floats of four bits (gpt-oss)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from omniform.transforms.quantize.config import QuantizationConfigMixin, register_quantization_config
from omniform.transforms.quantize.formats import FormatQuantizer
from omniform.transforms.quantize.quantizer import register_quantizer, should_convert_module
from omniform.weights.formats.base import Format
from omniform.weights.formats.mxfp4 import GROUP, Mxfp4


@register_quantization_config("mxfp4")
class Mxfp4Config(QuantizationConfigMixin):
    """Settings of MXFP4.

    Args:
        modules_to_not_convert: names of modules that stay as they are.
        dequantize: whether the matrices become plain ones once they are loaded.
        kwargs: what other releases say; not looked at.
    """

    quant_method = "mxfp4"

    def __init__(
        self, modules_to_not_convert: Sequence[str] | None = None, dequantize: bool = False, **kwargs: object
    ) -> None:
        self.quant_method = "mxfp4"
        self.modules_to_not_convert = None if modules_to_not_convert is None else list(modules_to_not_convert)
        self.dequantize = dequantize

    def get_loading_attributes(self) -> dict[str, object]:
        return {"dequantize": self.dequantize}

    def to_dict(self) -> dict[str, object]:
        """All settings by name, but for how it is loaded."""
        return {"quant_method": self.quant_method, "modules_to_not_convert": self.modules_to_not_convert}


@register_quantizer("mxfp4")
class Mxfp4Quantizer(FormatQuantizer):
    """Reads and makes it; of a model that is quantized on loading the experts alone."""

    quantization_config: Mxfp4Config

    def skipped(self) -> Sequence[str] | None:
        return self.quantization_config.modules_to_not_convert

    def format_of(self, name: str, layer: nn.Linear) -> Format | None:
        if ".experts." not in name or not should_convert_module(name, self.quantization_config.modules_to_not_convert):
            return None
        return Mxfp4() if layer.in_features % GROUP == 0 else None

    @property
    def wants_plain(self) -> bool:
        return self.quantization_config.dequantize
