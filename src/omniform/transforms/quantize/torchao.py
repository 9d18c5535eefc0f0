"""torchao: its checkpoints of eight bits are read without it; its own ``quantize_`` makes them, where it is there."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Self, cast

import torch
from torch import Tensor, nn

from omniform.core.errors import ConfigError, DependencyError, WeightsError, brief
from omniform.transforms.quantize.config import QuantizationConfigMixin, register_quantization_config
from omniform.transforms.quantize.formats import FormatQuantizer
from omniform.transforms.quantize.fp8 import dtype_of_header
from omniform.transforms.quantize.placing import Chosen, spellings
from omniform.transforms.quantize.quantizer import register_quantizer, should_convert_module
from omniform.weights.formats.base import Format
from omniform.weights.formats.torchao import AoEight
from omniform.weights.keymap import KeyMap, Shaped

log = logging.getLogger("omniform")

READ = (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2)


@register_quantization_config("torchao")
class TorchAoConfig(QuantizationConfigMixin):
    """Settings of torchao.

    Args:
        quant_type: one of torchao's own configs (``Int8WeightOnlyConfig()``), or what a file holds of one.
        modules_to_not_convert: names of modules that stay as they are; the head and what is tied by default.
        include_input_output_embeddings: not supported here: tables of embeddings stay as they are.
        untie_embedding_weights: goes along with the former.
        kwargs: what other releases say; not looked at.

    Raises:
        ConfigError: ``quant_type`` is a word, as in releases before 5, or no config; embeddings are asked for.
    """

    quant_method = "torchao"

    def __init__(
        self,
        quant_type: object,
        modules_to_not_convert: Sequence[str] | None = None,
        include_input_output_embeddings: bool = False,
        untie_embedding_weights: bool = False,
        **kwargs: object,
    ) -> None:
        kinds = [kind.__name__ for kind in type(quant_type).__mro__]
        if not (isinstance(quant_type, Mapping) and "_type" in quant_type) and "AOBaseConfig" not in kinds:
            raise ConfigError(
                "not one of torchao's configs",
                where="quant_type",
                expected="an AOBaseConfig, such as Int8WeightOnlyConfig()",
                found=brief(quant_type),
            )
        if include_input_output_embeddings:
            raise ConfigError("tables of embeddings are not quantized here", where="include_input_output_embeddings",
                              expected="False", found="True")  # fmt: skip
        self.quant_method = "torchao"
        self.quant_type = quant_type
        self.modules_to_not_convert = None if modules_to_not_convert is None else list(modules_to_not_convert)
        self.include_input_output_embeddings = include_input_output_embeddings
        self.untie_embedding_weights = untie_embedding_weights

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, object], return_unused_kwargs: bool = False, **kwargs: object
    ) -> Self | tuple[Self, dict[str, object]]:
        """The settings that a ``config.json`` holds, whose ``quant_type`` is one config by the name ``default``."""
        said = config_dict.get("quant_type")
        if isinstance(said, Mapping) and "_type" not in said:
            if set(said) != {"default"}:
                raise ConfigError(
                    "not settings of torchao", where="quant_type", expected="default", found=brief(dict(said))
                )
            config_dict = {**config_dict, "quant_type": said["default"]}
        return super().from_dict(config_dict, return_unused_kwargs, **kwargs)

    def to_dict(self) -> dict[str, object]:
        """All settings by name, torchao's own as it writes it."""
        return {**vars(self), "quant_type": {"default": self.written()}}

    def written(self) -> Mapping[str, object]:
        """torchao's own settings as a file holds them."""
        if isinstance(self.quant_type, Mapping):
            return self.quant_type
        return cast(Mapping[str, object], _torchao().config.config_to_dict(self.quant_type))

    def get_apply_tensor_subclass(self) -> object:
        """torchao's own settings as an object of its.

        Raises:
            DependencyError: it is not installed.
        """
        if not isinstance(self.quant_type, Mapping):
            return self.quant_type
        return _torchao().config.config_from_dict(dict(self.quant_type))


def _torchao() -> SimpleNamespace:
    """The modules of torchao that are asked.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        return SimpleNamespace(
            config=import_module("torchao.core.config"),
            quantization=import_module("torchao.quantization"),
            files=import_module("torchao.prototype.safetensors.safetensors_support"),
        )
    except ImportError as error:
        raise DependencyError(
            "torchao is not installed",
            where="TorchAoConfig",
            remedy="pip install 'omniform[torchao]', or use HqqConfig or NativeConfig, which need nothing.",
        ) from error


@register_quantizer("torchao")
class TorchAoQuantizer(FormatQuantizer):
    """Reads what it writes, and lets it quantize a layer at a time."""

    quantization_config: TorchAoConfig
    MAKES_STACKS = False
    _held: Mapping[str, Shaped] = {}  # what the checkpoint's headers say
    _prefixes: Sequence[str] = ()

    def is_serializable(self) -> bool:
        """Not: torchao reads notes in a file's header that are not written here."""
        return False

    def skipped(self) -> Sequence[str] | None:
        return self.quantization_config.modules_to_not_convert

    def keeping(
        self, model: nn.Module, keys: KeyMap, holds: Container[str], prefixes: Sequence[str], dtype: torch.dtype
    ) -> KeyMap:
        self._held, self._prefixes = holds if isinstance(holds, Mapping) else {}, prefixes
        self._tell()
        return super().keeping(model, keys, holds, prefixes, dtype)

    def quantize(self, model: nn.Module, keys: KeyMap, dtype: torch.dtype) -> KeyMap:
        self._tell()
        return super().quantize(model, keys, dtype)

    def _tell(self) -> None:
        if "Activation" in str(self.quantization_config.written().get("_type")):
            log.warning("activations stay floats here, where torchao's settings would quantize them too")

    def format_of(self, name: str, layer: nn.Linear) -> Format | None:
        if not self.pre_quantized:
            if not should_convert_module(name, self.quantization_config.modules_to_not_convert):
                return None
            return AoEight(torch.int8, 1, torch.float32)  # what it is, is known once it is made
        for one in spellings(name, self._prefixes):
            if f"{one}._weight_qdata" in self._held:
                return self._told(one, layer)
        return None

    def _told(self, name: str, layer: nn.Linear) -> AoEight:
        """How the headers say that a layer lies."""
        codes, scale = self._held[f"{name}._weight_qdata"], self._held.get(f"{name}._weight_scale")
        kind = dtype_of_header(codes)
        if scale is None or kind not in READ or len(codes.shape) != 2 or codes.shape[1] != layer.in_features:
            raise WeightsError(
                "this tensor of torchao's is not read",
                where=f"{name}._weight_qdata",
                expected=f"int8 or floats of eight bits, [outputs, {layer.in_features}], and _weight_scale",
                found=f"{kind}, {list(codes.shape)}{'' if scale is not None else ', no _weight_scale'}",
                remedy="Load the checkpoint that it was made from.",
            )
        zero = self._held.get(f"{name}._weight_zero_point")
        shape = tuple(scale.shape)
        shared = shape in ((), (1,), (1, 1))
        if not shared and (len(shape) != 2 or shape[0] != codes.shape[0] or layer.in_features % shape[1]):
            raise WeightsError(
                "scales do not fit the matrix",
                where=f"{name}._weight_scale",
                expected=f"{codes.shape[0]} outputs, and a divisor of {layer.in_features}",
                found=str(list(shape)),
            )
        zero_dtype = None if zero is None else dtype_of_header(zero)
        return AoEight(kind, 0 if shared else shape[1], dtype_of_header(scale), zero_dtype, shape if shared else ())

    def encoded(self, one: Chosen) -> dict[str, Tensor]:
        """By torchao itself."""
        plain = nn.Linear(one.layer.in_features, one.layer.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(one.layer.weight.detach().clone(), requires_grad=False)
        settings = self.quantization_config.get_apply_tensor_subclass()
        _torchao().quantization.quantize_(plain, settings)
        named = {f"layer.{name}": tensor for name, tensor in plain.state_dict().items()}
        flat, _ = _torchao().files.flatten_tensor_state_dict(named)
        held: dict[str, Tensor] = {str(n).removeprefix("layer._weight_"): tensor for n, tensor in flat.items()}
        if not {"qdata", "scale"} <= held.keys() <= {"qdata", "scale", "zero_point"} or held["qdata"].dtype not in READ:
            raise ConfigError(
                "what torchao makes by these settings is not computed here",
                where="quant_type",
                expected="weights of int8 or of floats of eight bits",
                found=type(settings).__name__,
                remedy="For four bits use HqqConfig(nbits=4) or NativeConfig(bits=4).",
            )
        return held
