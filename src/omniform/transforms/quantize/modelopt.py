"""Checkpoints of NVIDIA's ModelOpt: NVFP4 and FP8 with one scale, read, computed, saved as they were."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence

import torch
from torch import nn

from omniform.core.errors import ConfigError, WeightsError, brief
from omniform.transforms.quantize.compressed_layouts import beside_of, layout_of
from omniform.transforms.quantize.config import QuantizationConfigMixin, register_quantization_config
from omniform.transforms.quantize.formats import FormatQuantizer
from omniform.transforms.quantize.fp8 import dtype_of_header
from omniform.transforms.quantize.placing import spellings
from omniform.transforms.quantize.quantizer import register_quantizer
from omniform.weights.formats.base import Format
from omniform.weights.formats.small_floats import Fours
from omniform.weights.keymap import KeyMap, Shaped

log = logging.getLogger("omniform")

READ = ("NVFP4", "FP8", "MIXED_PRECISION")
"""The methods that are read."""


@register_quantization_config("modelopt")
class ModelOptConfig(QuantizationConfigMixin):
    """Settings of a checkpoint of ModelOpt.

    Args:
        quant_algo: ``"NVFP4"``, ``"FP8"``, or ``"MIXED_PRECISION"`` of both; how each layer lies the headers tell.
        config_groups: not looked at, as the headers tell.
        ignore: likewise.
        kv_cache_scheme: how others keep keys and values; here ``cache_dtype=`` of an engine says so.
        dequantize: whether matrices become plain ones once they are loaded.
        kwargs: what other releases say: kept, and written back.

    Raises:
        ConfigError: a method that is not read.
    """

    quant_method = "modelopt"

    def __init__(
        self,
        quant_algo: str = "NVFP4",
        config_groups: Mapping[str, object] | None = None,
        ignore: Sequence[str] | None = None,
        kv_cache_scheme: object = None,
        dequantize: bool = False,
        **kwargs: object,
    ) -> None:
        self.quant_method = "modelopt"
        self.quant_algo, self.config_groups, self.ignore = quant_algo, config_groups, ignore
        self.kv_cache_scheme, self.dequantize = kv_cache_scheme, dequantize
        for name, value in kwargs.items():
            if name != "quant_method":
                setattr(self, name, value)
        if quant_algo not in READ:
            raise ConfigError(
                "this layout of ModelOpt is not read",
                where="quant_algo",
                expected=", ".join(READ),
                found=brief(quant_algo),
                remedy="Load the checkpoint that it was made from.",
            )

    def get_loading_attributes(self) -> dict[str, object]:
        return {"dequantize": self.dequantize}


@register_quantizer("modelopt")
class ModelOptQuantizer(FormatQuantizer):
    """Reads and saves them."""

    requires_calibration = True
    quantization_config: ModelOptConfig
    _held: Mapping[str, Shaped] = {}  # what the checkpoint's headers say
    _prefixes: Sequence[str] = ()

    def keeping(
        self, model: nn.Module, keys: KeyMap, holds: Container[str], prefixes: Sequence[str], dtype: torch.dtype
    ) -> KeyMap:
        self._held, self._prefixes = holds if isinstance(holds, Mapping) else {}, prefixes
        log.warning("activations stay floats here, where the checkpoint's settings would quantize them too")
        if self.quantization_config.kv_cache_scheme:
            log.warning("keys and values are kept as the engine's cache_dtype says, not as kv_cache_scheme does")
        return super().keeping(model, keys, holds, prefixes, dtype)

    @property
    def wants_plain(self) -> bool:
        return self.quantization_config.dequantize

    def format_of(self, name: str, layer: nn.Linear) -> Format | None:
        for one in spellings(name, self._prefixes):
            if f"{one}.weight_scale_2" in self._held:
                return self._fours(one, layer.in_features)
            if f"{one}.weight_scale" in self._held:
                return layout_of(self._held, one, {}, layer.out_features, layer.in_features)
        return None

    def _fours(self, name: str, ins: int) -> Format:
        """Floats of four bits, with a scale for each group and one for all of these."""
        for own in ("weight", "weight_scale"):
            if f"{name}.{own}" not in self._held:
                raise WeightsError("a quantized layer lacks a tensor", where=name, expected=own, found="no such tensor")
        weight, scales, whole = (self._held[f"{name}.{own}"] for own in ("weight", "weight_scale", "weight_scale_2"))
        groups = tuple(scales.shape)[-1] if len(scales.shape) == 2 else 0
        kind = dtype_of_header(weight)
        if kind is not torch.uint8:
            raise WeightsError("codes of this kind are not read", where=name, expected="uint8", found=str(kind))
        if not groups or ins % groups or ins // groups % 2:
            raise WeightsError(
                "the number of scales does not fit the inputs",
                where=f"{name}.weight_scale",
                expected=f"one for each 16 of {ins} inputs",
                found=f"{groups or list(scales.shape)} scales",
            )
        return Fours(
            ins // groups,
            dtype_of_header(scales),
            "weight",
            "weight_scale_2",
            tuple(whole.shape),
            divides=False,
            extra=beside_of(self._held, name),
        )
