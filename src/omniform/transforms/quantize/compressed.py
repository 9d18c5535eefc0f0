"""Checkpoints of compressed-tensors, as LLM Compressor writes them: read, computed, saved as they were."""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Iterator, Mapping, Sequence

import torch
from torch import nn

from omniform.core.errors import ConfigError, brief
from omniform.transforms.quantize.compressed_layouts import layout_of, rounding_of
from omniform.transforms.quantize.config import QuantizationConfigMixin, register_quantization_config
from omniform.transforms.quantize.formats import FormatQuantizer
from omniform.transforms.quantize.fp8 import dtype_of_header
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.quantize.placing import spellings
from omniform.transforms.quantize.quantizer import register_quantizer
from omniform.weights.formats.base import Format, Part
from omniform.weights.formats.rounding import Rounding
from omniform.weights.keymap import KeyMap, Rule, Shaped

log = logging.getLogger("omniform")

READ = (
    "dense",
    "pack-quantized",
    "int-quantized",
    "naive-quantized",
    "float-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mxfp6-pack-quantized",
    "mxfp8-quantized",
    "mixed-precision",
)
"""The layouts that are read."""

STRATEGIES = ("tensor", "channel", "group", "block", "token", "tensor_group", "attn_head")
"""Which numbers of a tensor share a scale."""

CLASSES = ("Linear", "Module")
"""What a target may call the class of a layer."""

OF_ATTENTION = tuple(f"{part}_{what}" for part in "qkv" for what in ("scale", "zero_point"))
"""What an attention holds for keys and values in few bits: kept, and not used."""


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
        round_activations: whether inputs of layers are rounded as the checkpoint's settings say and the tool does
            (experts' stay floats, as the reference's do). By default they are wherever that can be done; with True a
            layer where it cannot is refused; with False they stay floats, which is faster and nearer to the model
            that was quantized.
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
        round_activations: bool | None = None,
        **kwargs: object,
    ) -> None:
        self.quant_method = "compressed-tensors"
        self.config_groups = config_groups or {}
        self.format, self.quantization_status = format, quantization_status
        self.kv_cache_scheme, self.global_compression_ratio = kv_cache_scheme, global_compression_ratio
        self.ignore = None if ignore is None else list(ignore)
        self.dequantize = dequantize or run_compressed is False
        self.use_optimized_inference, self.round_activations = use_optimized_inference, round_activations
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
        for name, group in self.config_groups.items():
            for part in ("weights", "input_activations", "output_activations"):
                scheme = group.get(part) if isinstance(group, Mapping) else None
                if scheme is not None:
                    _check(f"config_groups.{name}.{part}", scheme)

    def _formats(self) -> Iterator[tuple[str, object]]:
        for name, group in self.config_groups.items():
            if isinstance(group, Mapping) and group.get("format") is not None:
                yield f"config_groups.{name}.format", group["format"]

    def get_loading_attributes(self) -> dict[str, object]:
        names = ("dequantize", "use_optimized_inference", "round_activations")
        return {name: getattr(self, name) for name in names}

    def group_of(self, name: str) -> Mapping[str, object] | None:
        """The group that a layer belongs to: that of its name, else of an expression, else of its class.

        None where no group names it, or it is left alone.
        """
        if any(_names(target, name) for target in self.ignore or ()):
            return None
        found: dict[str, Mapping[str, object]] = {}
        for group in self.config_groups.values():
            if isinstance(group, Mapping):
                found |= {str(target): group for target in group.get("targets", ())}
        named = sorted((one for one in found if _names(one, name)), key=lambda one: (one.startswith("re:"), one))
        known = next((one for one in (*named, *CLASSES) if one in found), None)
        return None if known is None else found[known]


def _check(where: str, scheme: object) -> None:
    """What settings say of one kind of tensors must be such numbers as there are.

    Raises:
        ConfigError: they are not.
    """
    if not isinstance(scheme, Mapping):
        raise ConfigError("no settings of numbers", where=where, expected="num_bits, type...", found=brief(scheme))
    known: Mapping[str, Sequence[object]] = {
        "type": ("int", "float"),
        "strategy": (None, *STRATEGIES),
        "num_bits": range(1, 17),
        "symmetric": (True, False),
        "dynamic": (True, False, "local"),
    }
    for name, values in known.items():
        found = scheme.get(name, values[0])
        found = found.lower() if isinstance(found, str) else found
        if isinstance(found, Mapping | list) or found not in values:
            expected = "1 to 16" if name == "num_bits" else ", ".join(str(one) for one in values if one is not None)
            raise ConfigError(
                "no such setting of compressed-tensors",
                where=f"{where}.{name}",
                expected=expected,
                found=brief(scheme[name]),
            )
    size = scheme.get("group_size")
    if size is not None and (type(size) is not int or size < -1 or size == 0):
        raise ConfigError(
            "no such groups", where=f"{where}.group_size", expected="-1, or a number above zero", found=brief(size)
        )
    grouped = scheme.get("strategy") in ("group", "tensor_group")
    if grouped and (size is None or size < 1):
        raise ConfigError(
            "the settings contradict each other",
            where=where,
            expected=f"a group_size above zero for strategy {brief(scheme['strategy'])}",
            found=brief(size),
        )
    if size is not None and size > 0 and scheme.get("strategy") is not None and not grouped:
        raise ConfigError(
            "the settings contradict each other",
            where=where,
            expected=f"no group_size for strategy {brief(scheme['strategy'])}",
            found=brief(size),
        )


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
        if active and settings.round_activations is False:
            log.warning("activations stay floats, where the checkpoint's settings would quantize them too")
        if settings.kv_cache_scheme:
            log.warning("keys and values are kept as the engine's cache_dtype says, not as kv_cache_scheme does")
        made = super().keeping(model, keys, holds, prefixes, dtype)
        return made | beside_attention(model, made, self._held)

    @property
    def wants_plain(self) -> bool:
        return self.quantization_config.dequantize

    def format_of(self, name: str, layer: nn.Linear) -> Format | None:
        settings = self.quantization_config
        for one in spellings(name, self._prefixes):
            if any(f"{one}.{own}" in self._held for own in ("weight_packed", "weight_scale")):
                group = settings.group_of(one) or settings.group_of(name) or {}
                weights = group.get("weights")
                scheme = weights if isinstance(weights, Mapping) else {}
                given = group.get("input_activations")
                rounding = self._rounding(one, given, layer) if isinstance(given, Mapping) else None
                return layout_of(self._held, one, scheme, layer.out_features, layer.in_features, rounding)
        return None

    def _rounding(self, name: str, given: Mapping[str, object], layer: nn.Linear) -> Rounding | None:
        asked = self.quantization_config.round_activations
        if asked is False:
            return None
        try:
            return rounding_of(self._held, name, given, layer.in_features)
        except ConfigError as error:
            if asked:
                raise
            log.warning("activations stay floats: %s", error)
            return None


def beside_attention(model: nn.Module, keys: KeyMap, held: Mapping[str, Shaped]) -> KeyMap:
    """Keep what attentions hold for keys and values of few bits, so that it is saved as it was; where it lives.

    The quantized layers of an attention hold it, whose tensors keep the dtypes of the file.

    Args:
        keys: where the quantized model's tensors live.
        held: the checkpoint's headers.
    """
    layers: dict[str, tuple[str, QuantLinear]] = {}
    for path, module in model.named_modules():
        if isinstance(module, QuantLinear):
            link = keys.places(f"{path}.{next(iter(module.parts))}")[0]
            layers.setdefault(link.key.rpartition(".")[0].rpartition(".")[0], (path, module))
    rules: dict[str, Rule] = {}
    for key, entry in held.items():
        parent, _, name = key.rpartition(".")
        if name in OF_ATTENTION and parent in layers:
            path, module = layers[parent]
            module.keep(name, Part(tuple(entry.shape), dtype_of_header(entry)))
            rules[f"{path}.{name}"] = key
    return KeyMap(rules)
