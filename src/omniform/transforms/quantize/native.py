"""Whole numbers of eight and four bits, made when a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from omniform.core.errors import ConfigError
from omniform.transforms.quantize.config import QuantizationConfigMixin, register_quantization_config
from omniform.transforms.quantize.formats import FormatQuantizer
from omniform.transforms.quantize.quantizer import register_quantizer, should_convert_module
from omniform.weights.formats.base import Format
from omniform.weights.formats.native import Native


@register_quantization_config("native")
class NativeConfig(QuantizationConfigMixin):
    """Settings of this library's own whole numbers; see :class:`~omniform.weights.formats.native.Native`.

    Args:
        bits: 8 or 4.
        group_size: inputs that share a scale: 8, 16, 32, 64, 128 or 256.
        modules_to_not_convert: names of modules that stay as they are; the head and what is tied by default.
        kwargs: what other releases say; not looked at.

    Raises:
        ConfigError: these numbers of bits or inputs cannot be.
    """

    quant_method = "native"

    def __init__(
        self,
        bits: int = 8,
        group_size: int = 32,
        modules_to_not_convert: Sequence[str] | None = None,
        **kwargs: object,
    ) -> None:
        if bits not in (8, 4):
            raise ConfigError("no such whole numbers", where="bits", expected="8 or 4", found=bits)
        if group_size not in (8, 16, 32, 64, 128, 256):
            raise ConfigError(
                "no such groups", where="group_size", expected="8, 16, 32, 64, 128 or 256", found=group_size
            )
        self.quant_method = "native"
        self.bits, self.group_size = bits, group_size
        self.modules_to_not_convert = None if modules_to_not_convert is None else list(modules_to_not_convert)


@register_quantizer("native")
class NativeQuantizer(FormatQuantizer):
    """Makes and reads them."""

    quantization_config: NativeConfig

    def skipped(self) -> Sequence[str] | None:
        return self.quantization_config.modules_to_not_convert

    def format_of(self, name: str, layer: nn.Linear) -> Format | None:
        settings = self.quantization_config
        if not should_convert_module(name, settings.modules_to_not_convert) or layer.in_features % 8:
            return None
        return Native(settings.bits, settings.group_size)
