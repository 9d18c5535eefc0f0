"""How a layer lies in a checkpoint of compressed-tensors: told by the headers, and by what the settings say of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch

from omniform.core.errors import ConfigError, WeightsError, brief
from omniform.transforms.quantize.fp8 import dtype_of_header
from omniform.weights.formats.base import Format
from omniform.weights.formats.compressed import BITS, Integers, Scaled
from omniform.weights.formats.fp8 import MOST, Extra, Fp8
from omniform.weights.formats.gptq import WORD
from omniform.weights.formats.rounding import RANGES, Rounding
from omniform.weights.formats.small_floats import Fours, Sixes
from omniform.weights.keymap import Shaped

Scheme = Mapping[str, object]
"""What settings say of one kind of tensors: ``num_bits``, ``type``, ``strategy``, ``group_size``..."""

BESIDE = ("input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point",
          "k_scale", "v_scale")  # fmt: skip
"""What a layer holds of activations."""

Held = Mapping[str, Shaped]


def layout_of(held: Held, name: str, scheme: Scheme, outs: int, ins: int, rounding: Rounding | None = None) -> Format:
    """How a layer lies.

    Args:
        held: the checkpoint's headers.
        name: the layer, as the checkpoint calls it.
        scheme: what the settings say of its weights; empty where they do not.
        rounding: how its inputs are rounded.

    Raises:
        WeightsError: a tensor is missing, of another kind, or has another number of scales than the settings say.
        ConfigError: there are no such numbers.
    """
    packed = f"{name}.weight_packed" in held
    weight = f"{name}.weight_packed" if packed else f"{name}.weight"
    for key in (weight, f"{name}.weight_scale"):
        if key not in held:
            missing = key.removeprefix(f"{name}.")
            raise WeightsError("a quantized layer lacks a tensor", where=name, expected=missing, found="no such tensor")
    kind, scale = dtype_of_header(held[weight]), dtype_of_header(held[f"{name}.weight_scale"])
    extra = beside_of(held, name)
    shape = tuple(held[f"{name}.weight_scale"].shape)
    shared = shape if shape in ((), (1,)) else None
    group = -1 if shared is not None else _group(name, scheme, shape, ins)
    if kind in MOST:
        block = (0, 0) if shared is not None else _structure(scheme, name) or (1, max(0, group))
        return Fp8(kind, block, "weight_scale", scale, shared or (), extra, rounding)
    if packed and kind is torch.uint8:
        return replace(_small(held, name, scheme, group, scale, ins, extra), rounding=rounding)
    if kind is not (torch.int32 if packed else torch.int8):
        known = "int32 or uint8" if packed else "int8 or float8"
        raise WeightsError("codes of this kind are not read", where=weight, expected=known, found=str(kind))
    bits = scheme.get("num_bits", tuple(held[weight].shape)[-1] * WORD // ins if packed else 8)
    if scheme.get("type", "int") != "int" or type(bits) is not int or bits not in BITS:
        found = f"{brief(scheme.get('type', 'int'))} of {brief(bits)} bits"
        raise ConfigError(
            "the settings say other numbers than a file holds", where=name, expected="int of 1 to 8 bits", found=found
        )
    zeros = held.get(f"{name}.weight_zero_point")
    if zeros is None and scheme.get("symmetric") is False:
        raise WeightsError(
            "a quantized layer lacks a tensor",
            where=name,
            expected="weight_zero_point, as the settings say symmetric: false",
            found="no such tensor",
        )
    scaled = Scaled(group, shared, scale, None if zeros is None else dtype_of_header(zeros))
    return Integers(bits, packed, scaled, f"{name}.weight_g_idx" in held, extra, rounding)


def beside_of(held: Held, name: str) -> tuple[Extra, ...]:
    """What a layer holds of activations, keys and values."""
    found = ((one, held.get(f"{name}.{one}")) for one in BESIDE)
    return tuple((one, tuple(x.shape), dtype_of_header(x)) for one, x in found if x is not None)


def _small(
    held: Held, name: str, scheme: Scheme, group: int, scale: torch.dtype, ins: int, extra: tuple[Extra, ...]
) -> Fours | Sixes:
    """Floats of four or six bits."""
    bits = scheme.get("num_bits", 4)
    if scheme.get("type", "float") != "float" or bits not in (4, 6):
        found = f"{brief(scheme.get('type', 'float'))} of {brief(bits)} bits"
        raise ConfigError(
            "the settings say other numbers than a file holds", where=name, expected="float of 4 or 6 bits", found=found
        )
    size = ins if group == -1 else group
    if ins % size or (bits == 6 and (size != 32 or scale is not torch.uint8)):
        raise ConfigError(
            "there are no such groups of small floats",
            where=name,
            expected=f"whole groups{' of 32 with scales of uint8' if bits == 6 else f' of {ins} inputs'}",
            found=f"groups of {size} with scales of {str(scale).removeprefix('torch.')}",
        )
    if bits == 6:
        return Sixes(extra)
    whole = held.get(f"{name}.weight_global_scale")
    if whole is None and scheme.get("strategy") == "tensor_group":
        raise WeightsError(
            "a quantized layer lacks a tensor", where=name, expected="weight_global_scale", found="no such tensor"
        )
    if whole is None:
        return Fours(size, scale, whole="", extra=extra)
    return Fours(size, scale, whole_shape=tuple(whole.shape), extra=extra)


def _group(name: str, scheme: Scheme, shape: tuple[int, ...], ins: int) -> int:
    """Inputs that share a scale; -1 for all of them.

    Raises:
        WeightsError: the settings say another number of scales than there are.
    """
    groups = shape[1] if len(shape) == 2 else 0
    said, structure = scheme.get("group_size"), _structure(scheme, name)
    size = said if type(said) is int and said > 0 else None if structure is None else structure[1]
    if size is None and scheme.get("strategy") in ("channel", "tensor"):
        size = ins
    if size is None and groups and ins % groups == 0:
        size = ins // groups
    if size is None or groups != -(-ins // size):
        wanted = "scales of two axes" if size is None else f"{-(-ins // size)}, one for each {size} of {ins} inputs"
        raise WeightsError(
            "the number of scales does not fit the settings",
            where=f"{name}.weight_scale",
            expected=wanted,
            found=f"{groups or list(shape)} scales",
        )
    return -1 if groups == 1 else size


def _structure(scheme: Scheme, name: str) -> tuple[int, int] | None:
    """Outputs and inputs of a block, where the scheme says so: ``[128, 128]`` or ``"128x128"``.

    Raises:
        ConfigError: it is no two numbers above zero.
    """
    said = scheme.get("block_structure")
    if scheme.get("strategy") != "block":
        return None
    numbers = [int(n) for n in re.findall(r"\d+", said)] if isinstance(said, str) else said
    if isinstance(numbers, list | tuple) and len(numbers) == 2 and all(type(n) is int and n > 0 for n in numbers):
        return numbers[0], numbers[1]
    raise ConfigError(
        "no such blocks", where=f"block_structure of {name}", expected="two numbers above zero", found=brief(said)
    )


def rounding_of(held: Held, name: str, scheme: Scheme, ins: int) -> Rounding:
    """How a layer's inputs are rounded.

    Args:
        scheme: what the settings say of them.

    Raises:
        ConfigError: they cannot be rounded so.
        WeightsError: the file lacks their scales.
    """
    kind, bits = str(scheme.get("type", "int")), scheme.get("num_bits", 8)
    strategy, size = scheme.get("strategy") or "tensor", scheme.get("group_size")
    grouped, fixed = strategy in ("group", "tensor_group"), scheme.get("dynamic", False) is False
    group = {"token": 0, "tensor": -1}.get(str(strategy), size if grouped else None)
    good = type(group) is int and type(bits) is int and (kind, bits) in RANGES
    if not good or (fixed and grouped) or (grouped and ins % int(str(size))):
        raise ConfigError(
            "inputs cannot be rounded so",
            where=f"input_activations of {name}",
            expected="int or float of 4 or 8 bits, of a tensor, a token, or whole groups that are dynamic",
            found=f"{kind} of {brief(bits)} bits, {strategy}, groups of {brief(size)}, of {ins} inputs",
        )
    wanted = "input_global_scale" if strategy == "tensor_group" else "input_scale" if fixed else ""
    if wanted and f"{name}.{wanted}" not in held:
        raise WeightsError("a quantized layer lacks a tensor", where=name, expected=wanted, found="no such tensor")
    assert type(group) is int and type(bits) is int
    power = kind == "float" and str(scheme.get("scale_dtype")).removeprefix("torch.") == "uint8"
    even = scheme.get("symmetric", True) is True
    return Rounding(kind, bits, group, fixed, even, power, strategy == "tensor_group")
