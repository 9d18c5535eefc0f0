"""Checkpoints of compressed-tensors, as LLM Compressor writes them: read, computed, saved as they were."""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Iterator, Mapping, Sequence

import torch
from torch import nn

from omniform.core.errors import ConfigError, WeightsError, brief
from omniform.transforms.quantize.config import QuantizationConfigMixin, register_quantization_config
from omniform.transforms.quantize.formats import FormatQuantizer
from omniform.transforms.quantize.fp8 import dtype_of_header
from omniform.transforms.quantize.placing import spellings
from omniform.transforms.quantize.quantizer import register_quantizer
from omniform.weights.formats.base import Format
from omniform.weights.formats.compressed import Integers, Scaled
from omniform.weights.formats.fp8 import MOST, Fp8
from omniform.weights.keymap import KeyMap, Shaped

log = logging.getLogger("omniform")

READ = ("dense", "pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "mixed-precision")
"""The layouts that are read."""

ACTIVATIONS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point", "input_global_scale")
"""Of a layer's activations: kept, and not used."""

Scheme = Mapping[str, object]


@register_quantization_config("compressed-tensors")
class CompressedTensorsConfig(QuantizationConfigMixin):
    """Settings of a checkpoint of compressed-tensors.

    Args:
        config_groups: by name, which layers (``targets``: a class, a name, or an expression after ``re:``) are
            quantized how (``weights``, ``input_activations``).
        format: how tensors lie; see :data:`READ`.
        quantization_status: of the tool that made it; not looked at.
        kv_cache_scheme: how others keep keys and values; here ``cache_dtype=`` of an engine says so.
        global_compression_ratio: not looked at.
        ignore: layers that are plain.
        run_compressed: the opposite of ``dequantize``, by its older name.
        dequantize: whether matrices become plain ones once they are loaded.
        use_optimized_inference: of an accelerator's kernels; nothing to be chosen here.
        kwargs: what other releases say: kept, and written back.

    Raises:
        ConfigError: a layout that is not read: sparse, of four-bit floats, or with transforms of the activations.
    """

    quant_method = "compressed-tensors"

    def __init__(
        self,
        config_groups: Mapping[str, object] | None = None,
        format: str = "dense",
        quantization_status: object = "initialized",
        kv_cache_scheme: object = None,
        global_compression_ratio: float | None = None,
        ignore: Sequence[str] | None = None,
        run_compressed: bool | None = None,
        dequantize: bool = False,
        use_optimized_inference: bool = False,
        **kwargs: object,
    ) -> None:
        self.quant_method = "compressed-tensors"
        self.config_groups = config_groups or {}
        self.format, self.quantization_status = format, quantization_status
        self.kv_cache_scheme, self.global_compression_ratio = kv_cache_scheme, global_compression_ratio
        self.ignore = None if ignore is None else list(ignore)
        self.dequantize = dequantize or run_compressed is False
        self.use_optimized_inference = use_optimized_inference
        for name, value in kwargs.items():
            if name != "quant_method":
                setattr(self, name, value)
        sparsity = kwargs.get("sparsity_config")
        if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
            _refuse("sparsity_config", sparsity.get("format"), "dense")
        if kwargs.get("transform_config"):
            _refuse("transform_config", brief(kwargs["transform_config"]), "none")
        for where, given in (("format", format), *self._formats()):
            if given not in READ:
                _refuse(where, given, ", ".join(READ))

    def _formats(self) -> Iterator[tuple[str, object]]:
        for name, group in self.config_groups.items():
            if isinstance(group, Mapping) and group.get("format") is not None:
                yield f"config_groups.{name}.format", group["format"]

    def get_loading_attributes(self) -> dict[str, object]:
        return {"dequantize": self.dequantize, "use_optimized_inference": self.use_optimized_inference}

    def scheme_of(self, name: str) -> Scheme | None:
        """How the weights of a layer are quantized; None where no group names it, or they are left alone."""
        if any(_names(target, name) for target in self.ignore or ()):
            return None
        for group in self.config_groups.values():
            if not isinstance(group, Mapping):
                continue
            if any(target == "Linear" or _names(str(target), name) for target in group.get("targets", ())):
                weights = group.get("weights")
                return weights if isinstance(weights, Mapping) else None
        return None


def _refuse(where: str, found: object, expected: str) -> None:
    raise ConfigError(
        "this layout of compressed-tensors is not read",
        where=where,
        expected=expected,
        found=brief(found),
        remedy="Load the checkpoint that it was made from.",
    )


def _names(target: str, name: str) -> bool:
    """Whether a target is a layer's name, or an expression that its beginning matches."""
    return re.match(target[3:], name) is not None if target.startswith("re:") else target == name


@register_quantizer("compressed-tensors")
class CompressedTensorsQuantizer(FormatQuantizer):
    """Reads and saves them."""

    requires_calibration = True
    quantization_config: CompressedTensorsConfig
    _held: Mapping[str, Shaped] = {}  # what the checkpoint's headers say
    _prefixes: Sequence[str] = ()

    def keeping(
        self, model: nn.Module, keys: KeyMap, holds: Container[str], prefixes: Sequence[str], dtype: torch.dtype
    ) -> KeyMap:
        self._held, self._prefixes = holds if isinstance(holds, Mapping) else {}, prefixes
        settings = self.quantization_config
        active = [g for g in settings.config_groups.values() if isinstance(g, Mapping) and g.get("input_activations")]
        if active:
            log.warning("activations stay floats here, where the checkpoint's settings would quantize them too")
        if settings.kv_cache_scheme:
            log.warning("keys and values are kept as the engine's cache_dtype says, not as kv_cache_scheme does")
        return super().keeping(model, keys, holds, prefixes, dtype)

    @property
    def wants_plain(self) -> bool:
        return self.quantization_config.dequantize

    def format_of(self, name: str, layer: nn.Linear) -> Format | None:
        for one in spellings(name, self._prefixes):
            if f"{one}.weight_packed" in self._held or f"{one}.weight_scale" in self._held:
                scheme = self.quantization_config.scheme_of(one) or self.quantization_config.scheme_of(name)
                return self._as_held(one, scheme or {}, layer.in_features)
        return None

    def _as_held(self, name: str, scheme: Scheme, ins: int) -> Format:
        """How the headers say that a layer lies."""
        packed = f"{name}.weight_packed" in self._held
        weight = f"{name}.weight_packed" if packed else f"{name}.weight"
        if weight not in self._held or f"{name}.weight_scale" not in self._held:
            missing = "weight" if weight not in self._held else "weight_scale"
            raise WeightsError("a quantized layer lacks a tensor", where=name, expected=missing, found="no such tensor")
        shape = tuple(self._held[f"{name}.weight_scale"].shape)
        kind, scale_dtype = (dtype_of_header(self._held[key]) for key in (weight, f"{name}.weight_scale"))
        extra = tuple(
            (one, tuple(self._held[f"{name}.{one}"].shape), dtype_of_header(self._held[f"{name}.{one}"]))
            for one in ACTIVATIONS
            if f"{name}.{one}" in self._held
        )
        shared = shape if len(shape) < 2 and shape in ((), (1,)) else None
        group = -1 if shared is not None or shape[1] == 1 else _group(name, scheme, shape[1], ins)
        if kind in MOST:
            static = next((one for one in extra if one[0] == "input_scale"), ("", (), None))
            block = (0, 0) if shared is not None else _block(scheme, group)
            return Fp8(kind, block, "weight_scale", scale_dtype, shared or (), static[0], static[1])
        if kind is not (torch.int32 if packed else torch.int8):
            raise WeightsError(
                "codes of this kind are not read", where=weight, expected="int32, int8 or float8", found=str(kind)
            )
        bits = scheme.get("num_bits", 4 if packed else 8)
        if type(bits) is not int or bits not in (2, 4, 8):
            raise ConfigError("no such whole numbers", where=name, expected="2, 4 or 8 bits", found=brief(bits))
        scaled = Scaled(group, shared, scale_dtype, f"{name}.weight_zero_point" in self._held)
        return Integers(bits, packed, scaled, f"{name}.weight_g_idx" in self._held, extra)


def _group(name: str, scheme: Scheme, groups: int, ins: int) -> int:
    """Inputs that share a scale."""
    said = scheme.get("group_size")
    if type(said) is int and said > 0 and -(-ins // said) == groups:
        return said
    structure = _structure(scheme)
    if structure is not None and -(-ins // structure[1]) == groups:
        return structure[1]
    if ins % groups:
        expected = f"{ins} inputs in groups of {said}" if said else f"a divisor of {ins}"
        raise WeightsError("scales do not fit the inputs", where=f"{name}.weight_scale", expected=expected,
                           found=f"{groups} groups")  # fmt: skip
    return ins // groups


def _structure(scheme: Scheme) -> tuple[int, int] | None:
    """Outputs and inputs of a block, where the scheme says so: ``[128, 128]`` or ``"128x128"``."""
    said = scheme.get("block_structure")
    numbers = re.findall(r"\d+", said) if isinstance(said, str) else said
    if isinstance(numbers, list | tuple) and len(numbers) == 2:
        return int(numbers[0]), int(numbers[1])
    return None


def _block(scheme: Scheme, group: int) -> tuple[int, int]:
    """Outputs and inputs that share a scale."""
    structure = _structure(scheme)
    if structure is not None and scheme.get("strategy") == "block":
        return structure
    return 1, max(0, group)
