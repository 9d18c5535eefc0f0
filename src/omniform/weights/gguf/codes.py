"""Blocks as a matrix kernel takes them: whole-number codes, and scales and minima for every group of them.

A number is ``value(code) * scale + minimum``, where ``value`` looks codes up in a table of sixteen entries if there is
one. That is exactly what a block means, so nothing is lost on the way: only the two levels of scales that some types
have become one, in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

from omniform.core.errors import WeightsError
from omniform.weights.formats.codes import SIGNED, Codes
from omniform.weights.gguf.dequantize import (
    FP4,
    IQ4,
    check_read,
    fives,
    half,
    iq4_scales,
    k_scales,
    mx_scales,
    nibbles,
    q2_codes,
    q3_codes,
    q3_scales,
    q5_codes,
    q6_codes,
    q6_scales,
)
from omniform.weights.gguf.types import BlockType

THIRDS = tuple(range(-4, 12))
"""The table of codes that are four too many (Q3_K); the last eight are never used."""


def codes_of(raw: Tensor, kind: BlockType, where: str = "") -> Codes:
    """A matrix's blocks as codes.

    Args:
        raw: its bytes. Shape: [N, bytes of a row]; uint8.
        kind: its type, one whose numbers share blocks.
        where: the tensor's name, for errors.

    Raises:
        WeightsError: the type is known by name only, or its numbers are floats.
    """
    check_read(kind, where)
    if kind.name not in BY_NAME:
        raise WeightsError("this type has no codes", where=where, expected=", ".join(BY_NAME), found=kind.name)
    made = BY_NAME[kind.name](raw.reshape(-1, kind.nbytes))
    rows = raw.shape[0]

    def along(x: Tensor) -> Tensor:
        return x.reshape(rows, -1)

    minima = None if made.minima is None else along(made.minima)
    return Codes(along(made.codes), along(made.scales), minima, made.codebook, made.group, made.bits)


@cache
def codes_of_zeros(kind: BlockType) -> Codes:
    """What the blocks of a type become, told by one of zeros."""
    return codes_of(torch.zeros(1, kind.nbytes, dtype=torch.uint8, device="cpu"), kind)


def _own(b: Tensor, start: int) -> Tensor:
    """One float16 of every block as it is. Shape: [N, 1]."""
    return b[:, start : start + 2].view(torch.float16)


def _signed(codes: Tensor, offset: int) -> Tensor:
    return codes.view(torch.int8) - offset


def _q4_0(b: Tensor) -> Codes:
    return Codes(nibbles(b[:, None, 2:]), _own(b, 0), None, SIGNED, 32, 4)


def _q4_1(b: Tensor) -> Codes:
    return Codes(nibbles(b[:, None, 4:]), _own(b, 0), _own(b, 2), None, 32, 4)


def _q5_0(b: Tensor) -> Codes:
    return Codes(_signed(fives(b, 2), 16), _own(b, 0), None, None, 32, 8)


def _q5_1(b: Tensor) -> Codes:
    return Codes(_signed(fives(b, 4), 0), _own(b, 0), _own(b, 2), None, 32, 8)


def _q8_0(b: Tensor) -> Codes:
    return Codes(b[:, 2:].view(torch.int8), _own(b, 0), None, None, 32, 8)


def _q2_k(b: Tensor) -> Codes:
    scale, minimum = half(b, 80) * (b[:, :16] & 15).float(), half(b, 82) * (b[:, :16] >> 4).float()
    return Codes(q2_codes(b), scale, -minimum, None, 16, 4)


def _q3_k(b: Tensor) -> Codes:
    return Codes(q3_codes(b), q3_scales(b), None, THIRDS, 16, 4)


def _q4_k(b: Tensor) -> Codes:
    scale, minimum = k_scales(b)
    return Codes(nibbles(b[:, 16:].view(-1, 4, 32)), scale, -minimum, None, 32, 4)


def _q5_k(b: Tensor) -> Codes:
    scale, minimum = k_scales(b)
    return Codes(_signed(q5_codes(b), 0), scale, -minimum, None, 32, 8)


def _q6_k(b: Tensor) -> Codes:
    return Codes(_signed(q6_codes(b), 32), q6_scales(b), None, None, 16, 8)


def _iq4_nl(b: Tensor) -> Codes:
    return Codes(nibbles(b[:, None, 2:]), _own(b, 0), None, IQ4, 32, 4)


def _iq4_xs(b: Tensor) -> Codes:
    return Codes(nibbles(b[:, 8:].view(-1, 8, 16)), iq4_scales(b), None, IQ4, 32, 4)


def _mxfp4(b: Tensor) -> Codes:
    return Codes(nibbles(b[:, None, 1:]), mx_scales(b), None, FP4, 32, 4)


BY_NAME: Mapping[str, Callable[[Tensor], Codes]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0,
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs, "MXFP4": _mxfp4,
}  # fmt: skip
