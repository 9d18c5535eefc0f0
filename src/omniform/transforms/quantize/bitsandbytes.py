"""LLM.int8(), FP4 and NF4 with the settings and the files of bitsandbytes, without the package."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from omniform.core.errors import ConfigError, WeightsError, brief
from omniform.transforms.quantize.bitsandbytes_config import BitsAndBytesConfig
from omniform.transforms.quantize.formats import FormatQuantizer
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.quantize.placing import Chosen, fused_weight, key_of, spellings, translated
from omniform.transforms.quantize.quantizer import register_quantizer, should_convert_module
from omniform.weights.formats.base import Format
from omniform.weights.formats.bitsandbytes import OF_SCALES, SIZES, FourBit, Table, state_of
from omniform.weights.formats.llm_int8 import KeptWhole, LlmInt8
from omniform.weights.keymap import KeyMap

log = logging.getLogger("omniform")


@register_quantizer("bitsandbytes")
class BitsAndBytesQuantizer(FormatQuantizer):
    """Makes and reads LLM.int8(), FP4 and NF4."""

    quantization_config: BitsAndBytesConfig
    MAKES_STACKS = False
    _holds: Container[str] = ()
    _prefixes: Sequence[str] = ()
    _offloaded: Sequence[str] = ()

    def validate_environment(self, *args: object, **kwargs: object) -> None:
        """Look at the places that are asked for.

        Raises:
            ConfigError: settings that ask for no quantizing.
        """
        settings = self.quantization_config
        if not settings.is_quantizable():
            raise ConfigError(
                "neither 8 nor 4 bits are asked for",
                where="quantization_config",
                expected="load_in_8bit=True or load_in_4bit=True",
                found="neither",
            )
        places = kwargs.get("device_map")
        if settings.llm_int8_enable_fp32_cpu_offload and isinstance(places, Mapping):
            beside = [str(path) for path, place in places.items() if str(place) in ("cpu", "disk")]
            self._offloaded = beside if len(beside) < len(places) else ()

    def skipped(self) -> Sequence[str] | None:
        return self.quantization_config.llm_int8_skip_modules

    def keeping(
        self, model: nn.Module, keys: KeyMap, holds: Container[str], prefixes: Sequence[str], dtype: torch.dtype
    ) -> KeyMap:
        self._holds, self._prefixes = holds, prefixes
        return super().keeping(model, keys, holds, prefixes, dtype)

    def format_of(self, name: str, layer: nn.Linear) -> Format | None:
        settings = self.quantization_config
        if self.pre_quantized:
            return self._told(name, layer)
        if any(name == path or name.startswith(f"{path}.") for path in self._offloaded):
            return None
        if settings.load_in_8bit:
            if settings.llm_int8_has_fp16_weight:
                return KeptWhole(settings.llm_int8_threshold, dtype=layer.weight.dtype)
            return LlmInt8(settings.llm_int8_threshold)
        return FourBit(
            cast(Table, settings.bnb_4bit_quant_type),
            settings.bnb_4bit_use_double_quant,
            storage=settings.bnb_4bit_quant_storage,
            compute=settings.bnb_4bit_compute_dtype,
        )

    def _told(self, name: str, layer: nn.Linear) -> Format | None:
        """How the checkpoint holds a layer, from its headers."""
        settings = self.quantization_config
        first = "weight.absmax" if settings.load_in_4bit else "SCB"
        if settings.load_in_8bit and settings.llm_int8_has_fp16_weight:
            first = "weight"
        found = next((one for one in spellings(name, self._prefixes) if f"{one}.{first}" in self._holds), None)
        if found is None:
            return None
        if first == "SCB":
            return LlmInt8(settings.llm_int8_threshold, f"{found}.weight_format" in self._holds)
        if first == "weight":
            if not should_convert_module(name, settings.llm_int8_skip_modules or ["lm_head"]):
                return None
            return KeptWhole(settings.llm_int8_threshold, dtype=self._entry(f"{found}.weight").dtype)
        return self._four_bit(found, layer)

    def _entry(self, key: str) -> Tensor:
        """What a header says of a tensor."""
        held = self._holds
        found = held.get(key) if isinstance(held, Mapping) else None
        if found is None:
            raise WeightsError("a quantized layer lacks a tensor", expected=key, found="nothing of this name")
        return cast(Tensor, found)

    def _four_bit(self, name: str, layer: nn.Linear) -> FourBit:
        states = {t: f"{name}.weight.quant_state.bitsandbytes__{t}" for t in ("nf4", "fp4")}
        table = next((table for table, key in states.items() if key in self._holds), None)
        if table is None:
            where = f"{name}.weight.quant_state"
            raise WeightsError("a quantized layer lacks a tensor", expected=f"{where}.bitsandbytes__nf4 or __fp4",
                               found="nothing of this name")  # fmt: skip
        weight, absmax = self._entry(f"{name}.weight"), self._entry(f"{name}.weight.absmax")
        count = 2 * weight.dtype.itemsize * _numel(weight.shape)
        blocks, own = _numel(absmax.shape), layer.out_features * layer.in_features
        if count < own:
            raise WeightsError(
                f"{name}.weight is too short", where=name, expected=f"{own} numbers", found=f"{count} numbers"
            )
        # A file pads its last element.
        fits = [s for s in SIZES if -(-own // s) == blocks or -(-count // s) == blocks]
        if not fits:
            raise WeightsError(
                f"{name}.weight.absmax does not fit its matrix",
                where=name,
                expected=f"{-(-own // SIZES[0])} scales of blocks of {SIZES[0]}, or those of {SIZES[1:]}",
                found=f"{blocks} scales for {own} numbers",
            )
        nested = f"{name}.weight.nested_absmax" in self._holds
        if nested and _numel(self._entry(f"{name}.weight.nested_absmax").shape) != -(-blocks // OF_SCALES):
            raise WeightsError(
                f"{name}.weight.nested_absmax does not fit",
                where=name,
                expected=f"{-(-blocks // OF_SCALES)} for {blocks} scales",
                found=_numel(self._entry(f"{name}.weight.nested_absmax").shape),
            )
        length = _numel(self._entry(states[table]).shape)
        compute = self.quantization_config.bnb_4bit_compute_dtype
        return FourBit(cast(Table, table), nested, fits[0], weight.dtype, length, compute)

    def encoded_together(self, group: Sequence[Chosen]) -> list[dict[str, Tensor]]:
        """Layers of one fused matrix, which is quantized as the file has it."""
        if len(group) == 1 or isinstance(group[0].format, LlmInt8):
            return super().encoded_together(group)
        whole = fused_weight(group, "llm_int8_skip_modules")
        made = group[0].format.encoded(whole)
        format = group[0].format.fitted(made)
        found: list[dict[str, Tensor]] = []
        for one in group:
            outs, ins = one.layer.out_features, one.layer.in_features
            pieces: dict[str, Tensor] = {}
            for name, part in format.parts(outs, ins).items():
                link = translated(one.place, part, key_of(name, part), where=one.path)
                piece = torch.empty(part.shape, dtype=part.dtype)
                ours, theirs = link.of_ours(piece), link.of_theirs(made[name])
                if ours.shape != theirs.shape:
                    raise ConfigError(
                        "a fused matrix is quantized in pieces that belong to several layers",
                        where=one.path,
                        expected=f"{link.key} in as many pieces as layers",
                        found=f"{made[name].numel()} of them",
                        remedy="Leave it out by llm_int8_skip_modules, or bnb_4bit_use_double_quant where it is that.",
                    )
                ours.copy_(theirs)
                pieces[name] = piece
            found.append(pieces)
        return found

    def postprocess_model(self, model: nn.Module, **kwargs: object) -> object:
        """Look at what was loaded, and mark the model as the ecosystem asks it."""
        for path, layer in _layers(model):
            _check(path, layer)
        bits = 8 if self.quantization_config.load_in_8bit else 4
        setattr(model, f"is_loaded_in_{bits}bit", True)
        return super().postprocess_model(model, **kwargs)


def _layers(model: nn.Module) -> Iterator[tuple[str, QuantLinear]]:
    return ((path, layer) for path, layer in model.named_modules() if isinstance(layer, QuantLinear))


def _numel(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _check(path: str, layer: QuantLinear) -> None:
    """Raise :class:`WeightsError` unless what a matrix's text says is what its tensors are."""
    format, held = layer.format, layer.held
    if not isinstance(format, FourBit) or any(tensor.is_meta for tensor in held.values()):
        return
    try:
        state = state_of(held)
    except WeightsError as error:
        raise WeightsError(f"the quant_state of {path} is damaged", where=path, expected=error.expected,
                           found=error.found, remedy=error.remedy) from error  # fmt: skip
    told = (state["quant_type"], state["blocksize"])
    if told[0] != format.table or (told[1] != format.block and held["absmax"].numel() > 1):
        raise WeightsError(
            f"the quant_state of {path} is of another matrix",
            where=path,
            expected=f"{format.table}, blocks of {format.block}",
            found=f"{told[0]}, blocks of {told[1]}",
        )
    shape = state["shape"]
    fits = isinstance(shape, list) and len(shape) == 2 and shape[1] == layer.in_features
    if not fits or shape[0] < layer.out_features:  # type: ignore[index]  # a fused matrix has more
        raise WeightsError(
            f"the quant_state of {path} is of another matrix",
            where=path,
            expected=f"shape {[layer.out_features, layer.in_features]}",
            found=brief(shape),
        )
