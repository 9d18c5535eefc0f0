"""HQQ: fewer bits without any texts, and the files of it that the ecosystem writes; the package is not needed."""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Self, cast

import torch
from torch import Tensor, nn

from omniform.core.errors import ConfigError, WeightsError, brief
from omniform.transforms.quantize.config import QuantizationConfigMixin, register_quantization_config
from omniform.transforms.quantize.formats import FormatQuantizer, tell_idle
from omniform.transforms.quantize.fp8 import dtype_of_header
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.quantize.placing import Chosen, fused_weight, is_fused, own_views, spellings
from omniform.transforms.quantize.quantizer import register_quantizer
from omniform.weights.formats.base import Format
from omniform.weights.formats.hqq import BITS, MATRIX, PER, Hqq, own
from omniform.weights.keymap import KeyMap, Shaped

log = logging.getLogger("omniform")

Settings = Mapping[str, object]

MAY = (
    "nbits", "group_size", "axis", "shape", "packing", "unpack_view_dtype", "compute_dtype", "view_as_float",
    "quant_scale", "quant_zero", "offload_meta", "encoded_state_dict", "stores_quant_config", "channel_wise",
    "optimize", "round_zero",
)  # fmt: skip
"""What it may say of a matrix: each setting in a tensor of its own."""


def base_settings(
    nbits: float = 4,
    group_size: int | None = 64,
    quant_zero: bool = False,
    quant_scale: bool = False,
    offload_meta: bool = False,
    view_as_float: bool = False,
    axis: int = 1,
) -> dict[str, object]:
    """Settings of one matrix as files hold them.

    Raises:
        ConfigError: a number of bits, a group or an axis that cannot be.
    """
    if nbits not in BITS:
        raise ConfigError("HQQ has no such codes", where="nbits", expected=", ".join(map(str, BITS)), found=nbits)
    if group_size is not None and (type(group_size) is not int or group_size <= 0 or group_size % 8):
        raise ConfigError("no such groups", where="group_size", expected="None, or a multiple of 8", found=group_size)
    if axis not in (0, 1):
        raise ConfigError("no such axis", where="axis", expected="0 or 1", found=axis)
    small = {"nbits": 8, "channel_wise": True, "group_size": 128, "optimize": False}
    whole = {"nbits": 8, "channel_wise": False, "group_size": None, "optimize": False}
    quant_scale = quant_zero if offload_meta else quant_scale
    return {
        "weight_quant_params": {
            "nbits": nbits,
            "channel_wise": True,
            "group_size": group_size,
            "optimize": True,
            "round_zero": nbits == 4,
            "axis": axis,
            "view_as_float": view_as_float,
        },
        "scale_quant_params": small if quant_scale else None,
        "zero_quant_params": (small if offload_meta else whole) if quant_zero else None,
        "offload_meta": offload_meta,
    }


@register_quantization_config("hqq")
class HqqConfig(QuantizationConfigMixin):
    """Settings of HQQ.

    Args:
        nbits: of a code: 8, 6, 5, 4, 3, 2, 1.58 or 1.
        group_size: numbers that share a scale, a multiple of 8; None for all of an output's, or of an input's.
        view_as_float: keep packed codes as numbers of the weights' dtype.
        axis: 1 (by default) where numbers of a group are neighbours along the inputs, 0 where they lie across outputs.
        dynamic_config: other settings, each of these four, by a layer's name without numbers (``"self_attn.q_proj"``);
            layers that it does not name stay as they are.
        skip_modules: names of layers that stay as they are.
        kwargs: what other releases say; not looked at.

    Raises:
        ConfigError: a number of bits, a group or an axis that cannot be; a setting that there is not.
    """

    quant_method = "hqq"

    def __init__(
        self,
        nbits: float = 4,
        group_size: int | None = 64,
        view_as_float: bool = False,
        axis: int | None = None,
        dynamic_config: Mapping[str, Mapping[str, object]] | None = None,
        skip_modules: Sequence[str] = ("lm_head",),
        **kwargs: object,
    ) -> None:
        axis = 1 if axis is None else axis
        self.quant_config: dict[str, object]
        if dynamic_config is None:
            self.quant_config = base_settings(nbits, group_size, view_as_float=view_as_float, axis=axis)
        else:
            self.quant_config = {name: _dynamic(name, said) for name, said in dynamic_config.items()}
        self.quant_method = "hqq"
        self.skip_modules = list(skip_modules)

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, object], return_unused_kwargs: bool = False, **kwargs: object
    ) -> Self | tuple[Self, dict[str, object]]:
        """The settings that a ``config.json`` holds: ``quant_config``, and ``skip_modules``."""
        held = config_dict.get("quant_config")
        if held is None:
            return super().from_dict(config_dict, return_unused_kwargs, **kwargs)
        skipped = config_dict.get("skip_modules", ["lm_head"])
        if not isinstance(held, Mapping) or not isinstance(skipped, list | tuple):
            raise ConfigError(
                "not settings of HQQ",
                where="quantization_config",
                expected="quant_config, a mapping, and skip_modules, a list",
                found=f"{brief(held)} and {brief(skipped)}",
            )
        made = cls(skip_modules=[str(one) for one in skipped])
        made.quant_config = dict(held)
        unused = made.update(**kwargs)
        return (made, unused) if return_unused_kwargs else made

    def to_diff_dict(self) -> dict[str, object]:
        """Those that are not the usual ones."""
        usual = HqqConfig().to_dict()
        return {name: value for name, value in self.to_dict().items() if value != usual[name]}

    def __repr__(self) -> str:
        return f"{type(self).__name__} {json.dumps(self.to_dict(), indent=2, sort_keys=True)}\n"

    @property
    def is_dynamic(self) -> bool:
        """Whether layers have settings of their own."""
        return "weight_quant_params" not in self.quant_config

    def settings_of(self, name: str) -> Settings | None:
        """Those of a layer by its name; None where it stays as it is."""
        found = self.quant_config.get(tag_of(name)) if self.is_dynamic else self.quant_config
        if not self.is_dynamic and tag_of(name) in self.skip_modules:
            return None
        held = found.get("weight_quant_params") if isinstance(found, Mapping) else None
        return held if isinstance(held, Mapping) else None


def _dynamic(name: str, said: Mapping[str, object]) -> dict[str, object]:
    try:
        return base_settings(**said)  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigError(
            "no such settings of HQQ", where=f"dynamic_config[{name!r}]", found=brief(dict(said)), remedy=str(error)
        ) from error


def tag_of(name: str) -> str:
    """A layer's name without what tells it from its like: ``model.layers.3.mlp.up_proj`` is ``mlp.up_proj``."""
    return ".".join(one for one in name.split(".") if one not in ("model", "layers") and not one.isnumeric())


@register_quantizer("hqq")
class HqqQuantizer(FormatQuantizer):
    """Makes and reads it."""

    quantization_config: HqqConfig
    _held: Mapping[str, Shaped] = {}  # what the checkpoint's headers say
    _prefixes: Sequence[str] = ()

    def skipped(self) -> Sequence[str] | None:
        settings = self.quantization_config
        return [] if settings.is_dynamic else settings.skip_modules

    def keeping(
        self, model: nn.Module, keys: KeyMap, holds: Container[str], prefixes: Sequence[str], dtype: torch.dtype
    ) -> KeyMap:
        self._held, self._prefixes = holds if isinstance(holds, Mapping) else {}, prefixes
        return super().keeping(model, keys, holds, prefixes, dtype)

    def quantize(self, model: nn.Module, keys: KeyMap, dtype: torch.dtype) -> KeyMap:
        settings = self.quantization_config
        if settings.is_dynamic:
            names = [keys.places(path)[0].key for path, _ in model.named_parameters()]
            tell_idle(list(settings.quant_config), [tag_of(name.removesuffix(".weight")) for name in names])
        every = settings.quant_config.values() if settings.is_dynamic else [settings.quant_config]
        odd = ("scale_quant_params", "zero_quant_params", "offload_meta")
        if any(isinstance(one, Mapping) and one.get(name) for one in every for name in odd):
            log.warning("scales and zero points stay floats beside the codes, as in today's HQQ")
        return super().quantize(model, keys, dtype)

    def format_of(self, name: str, layer: nn.Linear) -> Format | None:
        if not self.pre_quantized:
            return self._made(name, self.quantization_config.settings_of(name), layer)
        for one in spellings(name, self._prefixes):
            if f"{one}.W_q" in self._held:
                return self._told(one, self.quantization_config.settings_of(name) or {})
        return None

    def _made(self, name: str, said: Settings | None, layer: nn.Linear) -> Hqq | None:
        if said is None:
            return None
        bits, group, axis, as_float = _read(name, said)
        return Hqq(bits, group, axis, layer.weight.dtype, as_float)

    def _told(self, name: str, said: Settings) -> Hqq:
        """How the headers say that a layer lies."""
        for one in MATRIX:
            if f"{name}.{one}" not in self._held:
                raise WeightsError("a quantized layer lacks a tensor", where=name, expected=one, found="no such tensor")
        entries = tuple(
            (one, tuple(self._held[f"{name}.{one}"].shape), dtype_of_header(self._held[f"{name}.{one}"]))
            for one in (*MATRIX, *MAY)
            if f"{name}.{one}" in self._held
        )
        bits, group, axis, as_float = _read(name, said)
        return Hqq(bits, group, axis, entries[1][2], as_float, entries)

    def settled(self, one: Chosen) -> Chosen:
        """With which outputs of a fused matrix a layer is; what its file holds, compared with what it should."""
        format = cast(Hqq, one.format)
        fused = is_fused(one.place)
        if fused and one.place.splits_inputs:
            raise ConfigError("a part of the inputs of an HQQ matrix cannot be taken", where=one.name)
        made = replace(format, fused=own_views(one.place)) if fused else format
        if format.entries:
            _check_shapes(one.name, made, one.layer)
        return replace(one, format=made)

    def encoded_together(self, group: Sequence[Chosen]) -> list[dict[str, Tensor]]:
        """Layers of one fused matrix hold all of it, each its outputs' share of the numbers."""
        if not is_fused(group[0].place):
            return super().encoded_together(group)
        whole = fused_weight(group, "skip_modules")
        return [replace(cast(Hqq, group[0].format), fused=None).encoded(whole)] * len(group)

    def postprocess_model(self, model: nn.Module, **kwargs: object) -> object:
        """Look at what was loaded."""
        for path, layer in _layers(model):
            _check_said(path, layer)
        return super().postprocess_model(model, **kwargs)


def _layers(model: nn.Module) -> Iterator[tuple[str, QuantLinear]]:
    return ((path, layer) for path, layer in model.named_modules() if isinstance(layer, QuantLinear))


def _read(name: str, said: Settings) -> tuple[float, int | None, int, bool]:
    """Bits, group, axis, and whether codes are seen as floats.

    Raises:
        ConfigError: there are no such.
    """
    given = {one: said[one] for one in ("nbits", "group_size", "axis", "view_as_float") if one in said}
    if "nbits" not in given:
        found = brief(dict(said))
        raise ConfigError(
            "no settings for a quantized layer", where=name, expected="nbits, group_size, axis", found=found
        )
    if said.get("channel_wise", True) is not True:
        raise ConfigError("one scale for a whole matrix is not read", where=name, found="channel_wise of false")
    try:
        made = base_settings(**given)["weight_quant_params"]  # type: ignore[arg-type]
    except ConfigError as error:
        error.where = f"{name}: {error.where}"
        raise
    assert isinstance(made, dict)
    return made["nbits"], made["group_size"], made["axis"], made["view_as_float"]


def _check_shapes(name: str, format: Hqq, layer: nn.Linear) -> None:
    """Raise unless a file's tensors are of a matrix that a layer is, or is a part of."""
    shapes = {one: shape for one, shape, _ in format.entries}
    dtypes = {one: dtype for one, _, dtype in format.entries}
    outs, ins = layer.out_features, layer.in_features
    if format.fused is not None:  # as many outputs as the codes make
        size = format.group or (ins if format.axis else shapes["W_q"][0] * PER[format.packing][0])
        count = shapes["scale"][0] * shapes["scale"][-1] * size if len(shapes["scale"]) == 2 else 0
        outs = count // ins
    try:
        expected = format.layout(outs, ins)
    except ConfigError as error:
        raise WeightsError(f"{name} is not quantized as the settings say", where=name, expected=error.expected,
                           found=error.found) from error  # fmt: skip
    for one, (shape, dtype) in expected.items():
        if shapes[one] != shape or dtypes[one] is not dtype:
            raise WeightsError(
                f"{name}.{one} does not fit its matrix",
                where=name,
                expected=f"{list(shape)}, {dtype}: {format.name}",
                found=f"{list(shapes[one])}, {dtypes[one]}",
            )


def _check_said(path: str, layer: QuantLinear) -> None:
    """Raise :class:`WeightsError` unless what a file says of a matrix is what the config does."""
    held, format = layer.held, layer.format
    if not isinstance(format, Hqq) or any(tensor.is_meta for tensor in held.values()):
        return
    whole = held["scale"].numel() * (format.group or 0) // layer.in_features if format.fused else layer.out_features
    for name, expected in format.said(whole or layer.out_features, layer.in_features).items():
        found = held.get(own(name))
        if name not in ("nbits", "group_size", "axis", "shape", "view_as_float", "quant_scale", "quant_zero"):
            continue
        if found is None or (format.fused is not None and not format.group and name in ("shape", "group_size")):
            continue
        if found.shape != expected.shape or not torch.allclose(found.double(), expected.double(), rtol=1e-6):
            raise WeightsError(
                f"{name} of {path} is another than the config's",
                where=path,
                expected=brief(expected.tolist()),
                found=brief(found.tolist()),
            )
