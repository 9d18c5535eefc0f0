"""Which quantizer, if any, a load goes through: the checkpoint's own settings, or those that the caller gives."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from omniform.architectures.model import Model
from omniform.architectures.surface import Surface
from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError, InputError, brief, listed
from omniform.hub.fill import Loading
from omniform.transforms.quantize.config import (
    QuantizationConfigMixin,
    is_registered,
    registered_methods,
    settings_from,
    unknown,
)
from omniform.transforms.quantize.quantizer import HfQuantizer, Quantizing, quantizer_for

log = logging.getLogger("omniform")


def quantizer_of(config: ModelConfig, asked: object, beside: Mapping[str, object] | None = None) -> HfQuantizer | None:
    """The quantizer of a load; None where nothing is quantized.

    Args:
        config: the checkpoint's.
        asked: ``quantization_config`` of ``from_pretrained``: settings, or a mapping of them.
        beside: the checkpoint's settings, where they lie in a file of their own.

    Raises:
        ConfigError: the checkpoint is quantized by a method that nobody registered, or by another than is asked for.
        InputError: what is asked for are no settings.
    """
    stored = config.raw.get("quantization_config", beside)
    settings = _asked(asked)
    if stored is None:
        return None if settings is None else quantizer_for(settings, pre_quantized=False)
    if not isinstance(stored, Mapping) or not is_registered(stored):
        method = stored.get("quant_method") if isinstance(stored, Mapping) else stored
        raise unknown(method, "quantized weights are not supported")
    own = settings_from(stored)
    if settings is not None:
        if type(settings) is not type(own):
            raise ConfigError(
                "the checkpoint is quantized by another method than is asked for",
                where="quantization_config",
                expected=type(own).__name__,
                found=type(settings).__name__,
                remedy="Leave quantization_config out.",
            )
        changed = settings.get_loading_attributes()
        own.update(**changed)
        kept = f", but for {', '.join(sorted(changed))}" if changed else ""
        log.warning("the checkpoint is quantized already: its own quantization_config is used%s", kept)
    return quantizer_for(own, pre_quantized=True)


def _asked(asked: object) -> QuantizationConfigMixin | None:
    if asked is None or isinstance(asked, QuantizationConfigMixin):
        return asked
    if isinstance(asked, Mapping):
        if is_registered(asked):
            return settings_from(asked)
        packed = asked.get("load_in_8bit") or asked.get("load_in_4bit")
        raise InputError(
            "no such method of quantizing is registered",
            where="quantization_config",
            expected=f"quant_method: {listed(registered_methods()) or 'none is registered'}",
            found="bitsandbytes" if packed else brief(asked.get("quant_method")),
        )
    raise InputError(
        "not settings of a quantizer",
        where="quantization_config",
        expected="a QuantizationConfigMixin",
        found=brief(asked),
    )


def with_quantizer(
    loading: Loading, quantizer: HfQuantizer | None, holds: Container[str], prefixes: Sequence[str]
) -> Loading:
    """How to load, with what a quantizer has to say of it.

    Args:
        holds: the checkpoint's keys.
        prefixes: what those may lack at their beginning, or have too many of.
    """
    if quantizer is None:
        return loading
    quantizer.validate_environment(dtype=loading.dtype, device_map=loading.device_map, weights_only=True)
    dtype = quantizer.update_dtype(loading.dtype)
    return replace(
        loading,
        dtype=dtype,
        device_map=quantizer.update_device_map(loading.device_map),
        max_memory=None if loading.max_memory is None else quantizer.adjust_max_memory(loading.max_memory),
        transforms=(*loading.transforms, Quantizing(quantizer, dtype, holds, prefixes)),
    )


def mark_quantized(model: Model, quantizer: HfQuantizer) -> None:
    """Have a model say how it is quantized, as the ecosystem asks it; make it plain where the settings ask for that."""
    if isinstance(model, Surface):
        method = quantizer.quantization_config.quant_method
        model.__dict__.update(hf_quantizer=quantizer, is_quantized=True, quantization_method=method)
        model.config.quantization_config = quantizer.quantization_config
        if quantizer.wants_plain:
            model.dequantize()
