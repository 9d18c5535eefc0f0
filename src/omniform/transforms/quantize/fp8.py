"""Floats of eight bits: fine-grained (DeepSeek-V3 and what follows it), and a scale for each output (FBGEMM's)."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence
from functools import cache
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from omniform.core.errors import ConfigError, InputError, WeightsError, brief
from omniform.transforms.quantize.config import QuantizationConfigMixin, register_quantization_config
from omniform.transforms.quantize.formats import FormatQuantizer
from omniform.transforms.quantize.placing import spellings
from omniform.transforms.quantize.quantizer import register_quantizer, should_convert_module
from omniform.transforms.quantize.stacks import stem_of
from omniform.weights.formats.base import Format
from omniform.weights.formats.fp8 import MOST, Fp8, block_of
from omniform.weights.keymap import KeyMap, Shaped

log = logging.getLogger("omniform")


@register_quantization_config("fp8")
class FineGrainedFP8Config(QuantizationConfigMixin):
    """Settings of floats of eight bits whose scales belong to square blocks.

    Args:
        activation_scheme: ``"dynamic"`` or ``"static"``, of the activations where an accelerator multiplies eight bits
            by eight. Here they stay floats; static scales are kept and not used.
        weight_block_size: outputs and inputs that share a scale; None for one scale.
        dequantize: whether the matrices become plain ones once they are loaded.
        modules_to_not_convert: names of modules that stay as they are; also called ``ignored_layers``.
        modules_to_convert: tables of vectors that are quantized too; none are here.
        scale_fmt: ``"float"``, or ``"ue8m0"`` for powers of two.
        expert_dtype: ``"fp8"``.
        kwargs: what other releases say; not looked at, but for ``fmt``, ``"e4m3"`` or ``"e5m2"``.

    Raises:
        ConfigError: such numbers cannot be, or are not supported.
    """

    quant_method = "fp8"

    def __init__(
        self,
        activation_scheme: str = "dynamic",
        weight_block_size: Sequence[int] | None = (128, 128),
        dequantize: bool = False,
        modules_to_not_convert: Sequence[str] | None = None,
        modules_to_convert: Sequence[str] | None = None,
        scale_fmt: str = "float",
        expert_dtype: str = "fp8",
        **kwargs: object,
    ) -> None:
        ignored = kwargs.get("ignored_layers")
        if modules_to_not_convert is None and isinstance(ignored, list | tuple):
            modules_to_not_convert = [str(name) for name in ignored]
        self.quant_method = "fp8"
        self.modules_to_not_convert = modules_to_not_convert
        self.modules_to_convert = modules_to_convert
        self.activation_scheme = str(activation_scheme).lower()
        self.weight_block_size = weight_block_size
        self.dequantize, self.scale_fmt, self.expert_dtype = dequantize, scale_fmt, expert_dtype
        _one_of("activation_scheme", self.activation_scheme, ("dynamic", "static"))
        _one_of("scale_fmt", scale_fmt, ("float", "ue8m0"))
        _one_of("fmt", kwargs.get("fmt", "e4m3"), ("e4m3", "e5m2", "float8_e4m3fn", "float8_e5m2"))
        block_of(weight_block_size)
        if expert_dtype != "fp8":
            _one_of("expert_dtype", expert_dtype, ("fp8",))
        if modules_to_convert:
            raise ConfigError(
                "tables of vectors in eight bits are not supported",
                where="modules_to_convert",
                expected="null",
                found=brief(list(modules_to_convert)),
            )

    def get_loading_attributes(self) -> dict[str, object]:
        return {"dequantize": self.dequantize, "modules_to_not_convert": self.modules_to_not_convert}


@register_quantization_config("fbgemm_fp8")
class FbgemmFp8Config(QuantizationConfigMixin):
    """Settings of floats of eight bits with a scale for each output.

    Args:
        activation_scale_ub: bound of the activations' scales where these are of eight bits; here they stay floats.
        modules_to_not_convert: names of modules that stay as they are.
        kwargs: what other releases say; not looked at.
    """

    quant_method = "fbgemm_fp8"

    def __init__(
        self,
        activation_scale_ub: float = 1200.0,
        modules_to_not_convert: Sequence[str] | None = None,
        **kwargs: object,
    ) -> None:
        self.quant_method = "fbgemm_fp8"
        self.activation_scale_ub = activation_scale_ub
        self.modules_to_not_convert = modules_to_not_convert

    def get_loading_attributes(self) -> dict[str, object]:
        return {"activation_scale_ub": self.activation_scale_ub}


def _one_of(where: str, found: object, known: Sequence[str]) -> None:
    if found not in known:
        raise ConfigError("no such setting of eight bits", where=where, expected=" or ".join(known), found=brief(found))


SCALES = ("weight_scale_inv", "weight_scale", "scale", "qscale_weight")
"""What files call the scales of a matrix."""

ACTIVATIONS = ("activation_scale", "input_scale", "qscale_act")
"""What they call the activations' scales, which are kept and not used."""


class EightBits(FormatQuantizer):
    """What quantizers of eight-bit floats have in common: how a layer lies is told by the checkpoint's headers."""

    quantization_config: FineGrainedFP8Config | FbgemmFp8Config

    _held: Mapping[str, Shaped] | None = None
    _prefixes: Sequence[str] = ()

    def validate_environment(self, *args: object, **kwargs: object) -> None:
        """Say that this machine computes in another way than those that multiply eight bits by eight."""
        tell_another_way()

    def keeping(
        self, model: nn.Module, keys: KeyMap, holds: Container[str], prefixes: Sequence[str], dtype: torch.dtype
    ) -> KeyMap:
        self._held, self._prefixes = holds if isinstance(holds, Mapping) else None, prefixes
        try:
            return super().keeping(model, keys, holds, prefixes, dtype)
        finally:
            self._held = None

    def skipped(self) -> Sequence[str] | None:
        return self.quantization_config.modules_to_not_convert

    def format_of(self, name: str, layer: nn.Linear) -> Format | None:
        if not should_convert_module(name, self.quantization_config.modules_to_not_convert):
            return None
        made = self.made(layer)
        return made if self._held is None else self._as_held(name, made, layer.out_features)

    def made(self, layer: nn.Linear) -> Fp8:
        """How a plain layer is quantized."""
        raise NotImplementedError

    def _as_held(self, name: str, usual: Fp8, outs: int) -> Format | None:
        """How the checkpoint holds a layer; None where it holds it plain."""
        assert self._held is not None
        for one in spellings(name, self._prefixes):
            for weight, stem in ((f"{one}.weight", f"{one}."), (one, stem_of(one).removesuffix("_") + "_")):
                if weight in self._held:
                    return _of_headers(self._held, weight, stem, usual, outs)
        return usual

    @property
    def wants_plain(self) -> bool:
        settings = self.quantization_config
        return isinstance(settings, FineGrainedFP8Config) and settings.dequantize


def _of_headers(held: Mapping[str, Shaped], weight: str, stem: str, usual: Fp8, outs: int) -> Format | None:
    def own(name: str) -> str:
        return stem + name.removeprefix("weight_") if stem.endswith("_") else stem + name

    scales = next((name for name in SCALES if own(name) in held), None)
    kind = dtype_of_header(held[weight])
    if scales is None:
        if kind in MOST:
            raise WeightsError(
                "a matrix of eight bits has no scales",
                where=weight,
                expected=own(usual.scales),
                found="no such tensor",
            )
        return None
    if kind not in MOST:
        known = " or ".join(str(one).removeprefix("torch.") for one in MOST)
        raise WeightsError("a matrix with scales is not of eight bits", where=weight, expected=known, found=str(kind))
    shape = tuple(held[own(scales)].shape)
    block = usual.block
    if len(shape) < 2 and shape in ((), (1,)):
        block = (0, 0)
    elif shape == (outs, 1) and block in ((0, 0), (1, 0)):
        block = (1, 0)
    beside = ((name, held[own(name)]) for name in ACTIVATIONS if own(name) in held)
    extra = tuple((name, tuple(entry.shape), dtype_of_header(entry)) for name, entry in beside)
    dtype = dtype_of_header(held[own(scales)])
    return Fp8(kind, block, scales, dtype, shape if block == (0, 0) else (), extra)


@runtime_checkable
class Typed(Protocol):
    """What a header says of a tensor."""

    @property
    def dtype(self) -> torch.dtype: ...


def dtype_of_header(entry: Shaped) -> torch.dtype:
    """The dtype that a header says."""
    assert isinstance(entry, Typed), entry
    return entry.dtype


@register_quantizer("fp8")
class FineGrainedFP8Quantizer(EightBits):
    """Reads and makes matrices with a scale for each block."""

    quantization_config: FineGrainedFP8Config

    def made(self, layer: nn.Linear) -> Fp8:
        settings = self.quantization_config
        block = block_of(settings.weight_block_size)
        if not self.pre_quantized and settings.activation_scheme == "static":
            raise InputError(
                "static scales of activations come from calibration, which loading has none of",
                where="activation_scheme",
                expected="dynamic",
                found="static",
            )
        scales = torch.float8_e8m0fnu if settings.scale_fmt == "ue8m0" else torch.float32
        return Fp8(block=block, scale_dtype=scales)


@register_quantizer("fbgemm_fp8")
class FbgemmFp8Quantizer(EightBits):
    """Reads and makes matrices with a scale for each output."""

    quantization_config: FbgemmFp8Config

    def made(self, layer: nn.Linear) -> Fp8:
        return Fp8(block=(1, 0), scales="weight_scale")


@cache
def tell_another_way() -> None:
    """Say once how eight bits are computed here."""
    log.warning(
        "matrices stay in eight bits in memory; they are widened as they are multiplied, and activations stay floats, "
        "as nothing here multiplies eight bits by eight"
    )
