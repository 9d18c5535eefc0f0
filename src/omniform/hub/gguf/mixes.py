"""Which tensors of a GGUF file get which type, by the names that people know (``Q4_K_M``).

A name stands for a type, and for the tensors that are given more bits, since they tell most: the rows of the output,
values and the ways down out of feed-forward layers, in some layers or in all. Which, is as llama.cpp's own tool has it
(https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp, without an importance matrix).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from omniform.core.errors import InputError, nearest
from omniform.weights.gguf.types import TYPES, BlockType

KINDS: Final = {kind.name: kind for kind in TYPES.values()}


@dataclass(frozen=True, slots=True)
class Mix:
    """A name.

    Attributes:
        usual: the type of most matrices.
        number: of the name, as files keep it (``general.file_type``).
    """

    usual: str
    number: int


MIXES: Final[Mapping[str, Mix]] = {
    "F32": Mix("F32", 0), "F16": Mix("F16", 1), "BF16": Mix("BF16", 32),
    "Q4_0": Mix("Q4_0", 2), "Q4_1": Mix("Q4_1", 3), "Q5_0": Mix("Q5_0", 8), "Q5_1": Mix("Q5_1", 9),
    "Q8_0": Mix("Q8_0", 7), "Q2_K": Mix("Q2_K", 10), "Q2_K_S": Mix("Q2_K", 21), "Q3_K_S": Mix("Q3_K", 11),
    "Q3_K_M": Mix("Q3_K", 12), "Q3_K_L": Mix("Q3_K", 13), "Q4_K_S": Mix("Q4_K", 14), "Q4_K_M": Mix("Q4_K", 15),
    "Q5_K_S": Mix("Q5_K", 16), "Q5_K_M": Mix("Q5_K", 17), "Q6_K": Mix("Q6_K", 18), "IQ4_NL": Mix("IQ4_NL", 25),
    "IQ4_XS": Mix("IQ4_XS", 30), "MXFP4": Mix("MXFP4", 38),
}  # fmt: skip
SHORT: Final = {
    "Q3_K": "Q3_K_M",
    "Q4_K": "Q4_K_M",
    "Q5_K": "Q5_K_M",
    "MXFP4_MOE": "MXFP4",
    "FP16": "F16",
    "FP32": "F32",
}
"""Other words for names."""

FEWER: Final = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL",
}  # fmt: skip
"""What is taken for types of 256 numbers where rows are not whole blocks of those."""

UNTOUCHED: Final = ("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")
"""Ends of the names of matrices that stay float32; so do positions, and all that is no matrix of weights."""


def mix_named(name: object) -> str:
    """The name of a mix as it is spelled here.

    Raises:
        InputError: there is none of this name.
    """
    spelled = name.upper() if isinstance(name, str) else ""
    spelled = SHORT.get(spelled, spelled)
    if spelled not in MIXES:
        raise InputError(
            "GGUF files have no such type",
            where="type",
            expected=", ".join(MIXES),
            found=repr(name)[:80],
            remedy=nearest(spelled, MIXES),
        )
    return spelled


@dataclass(frozen=True, slots=True)
class Facts:
    """What of a model decides on types.

    Attributes:
        architecture: what the file calls it.
        layers: how many it has.
        experts: likewise, of a layer; 0 for none.
        shared: how many queries share a key.
        tied: whether the embedding is the output.
    """

    architecture: str
    layers: int
    experts: int
    shared: int
    tied: bool


def kind_of(name: str, shape: tuple[int, ...], mix: str, facts: Facts, odd: list[str]) -> BlockType:
    """The type of a tensor; one that its rows fit into.

    Args:
        mix: one of :data:`MIXES`.
        odd: gets the names of those that do not fit the type which the mix gives them.
    """
    usual = MIXES[mix].usual
    if not is_matrix(name, shape):
        return KINDS["F32"]
    if usual in ("F32", "F16", "BF16"):
        return KINDS[usual]
    return KINDS[_fitting(name, shape, _wanted(name, shape, mix, facts), odd)]


def nearest_mix(kinds: Mapping[str, BlockType], shapes: Mapping[str, tuple[int, ...]], facts: Facts) -> str:
    """The name for types that tensors have already: the first of those that would give the fewest another.

    Args:
        kinds: by the tensors' names.
    """

    def others(mix: str) -> int:
        return sum(kind_of(name, shapes[name], mix, facts, []) != kind for name, kind in kinds.items())

    return min(MIXES, key=others)


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is one that types are for."""
    whole = len(shape) > 1 and name.endswith(".weight") and not name.endswith(UNTOUCHED)
    return whole and not name.startswith(("position_embd", "rope_f"))


def _fitting(name: str, shape: tuple[int, ...], wanted: str, odd: list[str]) -> str:
    width = shape[-1]
    for found in (wanted, FEWER.get(wanted, "F16"), "F16"):
        if width % KINDS[found].numbers == 0:
            if found != wanted:
                odd.append(f"{name} in {found} for {wanted}")
            return found
    raise AssertionError("F16 fits any width")


def _wanted(name: str, shape: tuple[int, ...], mix: str, facts: Facts) -> str:
    usual = MIXES[mix].usual
    if name == "output.weight" or (name == "token_embd.weight" and facts.tied):
        odd = facts.architecture == "falcon" or shape[-1] % KINDS[usual].numbers
        return "Q8_0" if odd or usual in ("Q8_0", "MXFP4") else "Q6_K"
    if usual == "MXFP4":
        return "MXFP4" if len(shape) > 2 or not (facts.experts or name == "token_embd.weight") else "Q8_0"
    found = re.match(r"blk\.(\d+)\.", name)
    layer = int(found[1]) if found else 0
    if name.endswith(("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")):
        return _values(layer, mix, facts, usual)
    if name.endswith("attn_k.weight"):
        return "Q8_0" if facts.experts == 8 else usual
    if "ffn_down" in name:
        return _down(layer, mix, facts, usual)
    if name.endswith("attn_output.weight"):
        return _attended(mix, facts, usual)
    return usual


def _telling(layer: int, layers: int) -> bool:
    """Whether a layer is among the first and the last, or a third of the others."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _values(layer: int, mix: str, facts: Facts, usual: str) -> str:
    if facts.experts == 8:
        return "Q8_0"
    many = facts.shared >= 4
    found = {
        "Q2_K": "Q4_K" if many else "Q3_K",
        "Q2_K_S": "Q4_K" if many else usual,
        "Q3_K_M": "Q5_K" if layer < 2 else "Q4_K",
        "Q3_K_L": "Q5_K",
        "IQ4_NL": "Q5_K" if many else usual,
        "IQ4_XS": "Q5_K" if many else usual,
        "Q4_K_M": "Q6_K" if _telling(layer, facts.layers) else usual,
        "Q5_K_M": "Q6_K" if _telling(layer, facts.layers) else usual,
        "Q4_K_S": "Q5_K" if layer < 4 else usual,
    }.get(mix, usual)
    # Of eighty layers and eight queries to a key, as llama.cpp knows its model of 70B.
    large = facts.architecture == "llama" and facts.layers == 80 and facts.shared == 8
    return "Q5_K" if large and found in ("Q3_K", "Q4_K") else found


def _down(layer: int, mix: str, facts: Facts, usual: str) -> str:
    falcon, layers = facts.architecture == "falcon", facts.layers
    first, telling = layer < layers // 8, _telling(layer, layers)
    if mix == "Q4_K_M" and falcon:
        return "Q6_K" if layer < layers // 16 else "Q5_K" if telling else "Q4_K"
    if mix == "Q3_K_M":
        return "Q5_K" if layer < layers // 16 else "Q4_K" if not falcon or telling else "Q3_K"
    return {
        "Q2_K": "Q3_K",
        "Q2_K_S": "Q4_K" if first else usual,
        "Q3_K_L": "Q4_K" if falcon else "Q5_K",
        "Q4_K_M": "Q6_K" if telling else usual,
        "IQ4_NL": "Q5_K" if first else usual,
        "IQ4_XS": "Q5_K" if first else usual,
        "Q5_K_M": "Q6_K" if telling else usual,
        "Q4_K_S": "Q5_K" if first and not falcon else usual,
    }.get(mix, usual)


def _attended(mix: str, facts: Facts, usual: str) -> str:
    if facts.architecture == "falcon":
        return "Q4_K" if mix == "Q3_K_L" else usual
    if facts.experts == 8:
        finer = ("Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ4_XS")
        return "Q5_K" if mix in finer else usual
    return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(mix, usual)
