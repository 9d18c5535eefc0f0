"""Floats of four and six bits with scales of groups, as compressed-tensors and NVIDIA's ModelOpt write them.

Four bits are E2M1, two to a byte, the even input's in the lower half. MXFP4's 32 neighbours share a power of two (OCP's
Microscaling Formats, v1.0); NVFP4's sixteen share a float of eight bits (E4M3), and all groups of a matrix one more,
which compressed-tensors divides by (``weight_global_scale``) and ModelOpt multiplies by (``weight_scale_2``). Six bits
are E2M3, four numbers in three bytes, the first lowest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch

from omniform.core.errors import ConfigError
from omniform.weights.formats.base import CodedFormat, Held, Part
from omniform.weights.formats.codes import Codes
from omniform.weights.formats.fp8 import Extra, powers, spare
from omniform.weights.formats.mxfp4 import MEANS
from omniform.weights.formats.rounding import Rounding, RoundsInputs

EIGHTHS = 8
"""All numbers of E2M3 are so many eighths, at most 60."""


@dataclass(frozen=True, slots=True)
class Fours(RoundsInputs, CodedFormat):
    """Floats of four bits.

    Attributes:
        group: inputs that share a scale.
        scale_dtype: of these scales; uint8 for powers of two.
        key: what a file calls the codes.
        whole: what it calls the scale of all groups; empty where there is none.
        whole_shape: its shape.
        divides: whether scales are divided by that one, not multiplied.
        extra: further tensors, which are kept; see :func:`omniform.weights.formats.fp8.spare`.
        rounding: how inputs are rounded; None where they stay floats.
    """

    group: int = 16
    scale_dtype: torch.dtype = torch.float8_e4m3fn
    key: str = "weight_packed"
    whole: str = "weight_global_scale"
    whole_shape: tuple[int, ...] = (1,)
    divides: bool = True
    extra: tuple[Extra, ...] = ()
    rounding: Rounding | None = None

    @property
    def name(self) -> str:
        kind = "NVFP4" if self.whole else "MXFP4" if self.scale_dtype is torch.uint8 else "FP4 e2m1"
        return f"{kind}, groups of {self.group}"

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        if ins % self.group or self.group % 2:
            raise ConfigError(
                f"{self.name}: there are whole groups only",
                where="group_size",
                expected=f"inputs in multiples of {self.group}",
                found=ins,
            )
        found = {
            "codes": Part((outs, ins // 2), torch.uint8, (0, 1), (1, 2), key=self.key),
            "weight_scale": Part((outs, ins // self.group), self.scale_dtype, (0, 1), (1, self.group)),
        }
        if self.whole:
            found[self.whole] = Part(self.whole_shape, torch.float32)
        return found | spare(self.extra)

    def codes(self, held: Held, outs: int, ins: int) -> Codes:
        packed, scales = held["codes"], powers(held["weight_scale"])
        if self.whole:
            of_all = held[self.whole].float().reshape(1, 1)
            scales = scales / of_all if self.divides else scales * of_all
        codes = torch.stack((packed & 15, packed >> 4), -1).reshape(outs, ins)
        return Codes(codes, scales.contiguous(), None, MEANS, self.group, 4)


@dataclass(frozen=True, slots=True)
class Sixes(RoundsInputs, CodedFormat):
    """Floats of six bits whose groups of 32 share a power of two (MXFP6), computed as eighths in eight bits.

    Attributes:
        extra: further tensors, which are kept; see :func:`omniform.weights.formats.fp8.spare`.
        rounding: how inputs are rounded; None where they stay floats.
    """

    extra: tuple[Extra, ...] = ()
    rounding: Rounding | None = None

    @property
    def name(self) -> str:
        return "MXFP6 e2m3, groups of 32"

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        if ins % 32:
            raise ConfigError(
                f"{self.name}: there are whole groups only",
                where="group_size",
                expected="inputs in multiples of 32",
                found=ins,
            )
        return {
            "weight_packed": Part((outs, ins // 4 * 3), torch.uint8, (0, 1), (1, Fraction(4, 3))),
            "weight_scale": Part((outs, ins // 32), torch.uint8, (0, 1), (1, 32)),
        } | spare(self.extra)

    def codes(self, held: Held, outs: int, ins: int) -> Codes:
        bytes_ = held["weight_packed"].int().unflatten(-1, (-1, 3))  # type: ignore[no-untyped-call]
        words = bytes_[..., 0] | bytes_[..., 1] << 8 | bytes_[..., 2] << 16
        codes = torch.stack([words >> shift & 63 for shift in (0, 6, 12, 18)], -1).reshape(outs, ins)
        exponent, mantissa = codes >> 3 & 3, codes & 7
        eighths = torch.where(exponent == 0, mantissa, (mantissa + 8) << (exponent - 1).clamp(min=0))
        signed = torch.where(codes >= 32, -eighths, eighths).to(torch.int8)
        return Codes(signed, powers(held["weight_scale"]) / EIGHTHS, None, None, 32, 8)
