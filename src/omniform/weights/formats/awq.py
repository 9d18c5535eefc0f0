"""AWQ: codes of four bits, eight in an int32, with a scale and a zero point for every group of inputs.

A number is ``(code - zero) * scale``. How the codes lie is AutoAWQ's (`awq/modules/linear`) and llm-awq's
(`awq/quantize/qmodule.py`): GEMM packs outputs, GEMV inputs, and the fast GEMV, which newer files of llm-awq have too,
four outputs' codes of an input in an int16, blocks of 32 inputs shuffled, with zero points in float16 already scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omniform.core.errors import ConfigError
from omniform.native.matrix import Matrix
from omniform.weights.formats.base import CodedFormat, Held, Part
from omniform.weights.formats.codes import SIGNED, Codes

SHUFFLED = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of its eight outputs each nibble of an int32 is, the lowest first."""

IN_ORDER = tuple(range(8))


@dataclass(frozen=True, slots=True)
class AwqFormat(CodedFormat):
    """What all layouts share.

    Attributes:
        group: inputs that share a scale; -1 for all.
        zeros: whether a file has to hold zero points; where it holds none, codes mean -8 to 7.
    """

    group: int
    zeros: bool = True

    layout = ""

    @property
    def name(self) -> str:
        every = "one group" if self.group == -1 else f"groups of {self.group}"
        return f"AWQ {self.layout}, 4 bits, {every}"

    def grouped(self, outs: int, ins: int) -> tuple[int, int]:
        """How many inputs share a scale, and how many groups there are.

        Raises:
            ConfigError: groups do not fill the inputs, or outputs no elements.
        """
        group = ins if self.group == -1 else self.group
        if ins % group:
            raise ConfigError("groups do not fill a layer's inputs", expected=f"a divisor of {ins}", found=group)
        if outs % 8 or ins % 8:
            raise ConfigError(
                "AWQ packs eight numbers at a time",
                expected="inputs and outputs in multiples of 8",
                found=f"{ins} inputs, {outs} outputs",
            )
        return group, ins // group

    def of(self, codes: Tensor, scales: Tensor, zeros: Tensor | None, group: int) -> Codes:
        """Codes of these; all but the codes of shape [outs, groups]."""
        if zeros is None:
            return Codes(codes, scales, None, SIGNED, group, 4)
        scales = scales.float()
        return Codes(codes, scales, -zeros.float() * scales, None, group, 4)

    def matrix(self, held: Held, outs: int, ins: int) -> tuple[Matrix, Tensor | None]:
        """With scales and minima in halves where groups are small: a minimum is off by a 4096th of itself then."""
        made = self.codes(held, outs, ins)
        return (made.halved() if made.minima is not None and made.group < 128 else made).matrix(), None


class Gemm(AwqFormat):
    """``qweight`` [ins, outs / 8], ``qzeros`` [groups, outs / 8], ``scales`` [groups, outs]."""

    layout = "GEMM"
    __slots__ = ()

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        group, groups = self.grouped(outs, ins)
        return {
            "qweight": Part((ins, outs // 8), torch.int32, (1, 8), (0, 1)),
            "qzeros": Part((groups, outs // 8), torch.int32, (1, 8), (0, group), optional=not self.zeros),
            "scales": Part((groups, outs), torch.float16, (1, 1), (0, group)),
        }

    def codes(self, held: Held, outs: int, ins: int) -> Codes:
        group, _ = self.grouped(outs, ins)
        codes = unpacked(held["qweight"], SHUFFLED).t().contiguous()
        zeros = unpacked(held["qzeros"], SHUFFLED).t() if "qzeros" in held else None
        return self.of(codes, held["scales"].t().contiguous(), zeros, group)


class Gemv(AwqFormat):
    """``qweight`` [outs, ins / 8], ``qzeros`` [outs, width], ``scales`` [outs, 8 * width].

    The width is an eighth of the groups, rounded up to whole bytes of a kernel's loads.
    """

    layout = "GEMV"
    __slots__ = ()

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        width = zeros_width(*self.grouped(outs, ins))
        return {
            "qweight": Part((outs, ins // 8), torch.int32, (0, 1), (1, 8)),
            "qzeros": Part((outs, width), torch.int32, (0, 1), optional=not self.zeros),
            "scales": Part((outs, width * 8), torch.float16, (0, 1)),
        }

    def codes(self, held: Held, outs: int, ins: int) -> Codes:
        group, groups = self.grouped(outs, ins)
        zeros = unpacked(held["qzeros"], IN_ORDER)[:, :groups] if "qzeros" in held else None
        return self.of(unpacked(held["qweight"], IN_ORDER), held["scales"][:, :groups].contiguous(), zeros, group)


class GemvFast(AwqFormat):
    """``qweight`` int16 [outs / 4, ins], ``scales`` and ``scaled_zeros`` [8 * width, outs]."""

    layout = "fast GEMV"
    __slots__ = ()

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        rows = 8 * zeros_width(*self.grouped(outs, ins))
        if ins % 64:
            raise ConfigError(
                "AWQ's fast GEMV shuffles blocks of inputs", expected="inputs in multiples of 64", found=ins
            )
        return {
            "qweight": Part((outs // 4, ins), torch.int16, (0, 4), (1, 1)),
            "scales": Part((rows, outs), torch.float16, (1, 1)),
            "scaled_zeros": Part((rows, outs), torch.float16, (1, 1)),
        }

    def codes(self, held: Held, outs: int, ins: int) -> Codes:
        group, groups = self.grouped(outs, ins)
        scales, lows = (held[name][:groups].t().float().contiguous() for name in ("scales", "scaled_zeros"))
        return Codes(_unshuffled(held["qweight"], outs, ins), scales, lows, None, group, 4)


def unpacked(packed: Tensor, order: tuple[int, ...]) -> Tensor:
    """Nibbles of int32 along the last axis, put in order. Shape: [..., n] to [..., 8 * n]; uint8."""
    found = torch.empty((*packed.shape, 8), dtype=torch.uint8, device=packed.device)
    for at, which in enumerate(order):
        found[..., which] = (packed >> (4 * at) & 15).to(torch.uint8)
    return found.flatten(-2)


def zeros_width(group: int, groups: int) -> int:
    """How many int32 hold the zero points of an output: an eighth of the groups, in ones, twos (64) or fours (32)."""
    unit = 1 if group >= 128 else 2 if group >= 64 else 4
    return -(-groups // (8 * unit)) * unit


def _unshuffled(packed: Tensor, outs: int, ins: int) -> Tensor:
    """Shape: int16 [outs / 4, ins] to uint8 [outs, ins]."""
    nibbles = torch.stack([(packed >> at & 15).to(torch.uint8) for at in (0, 4, 8, 12)], -1)  # [outs / 4, ins, 4]
    rows = nibbles.view(outs // 4, ins // 64, 4, 64).transpose(1, 2).reshape(outs, ins // 32, 4, 2, 4)
    # Within each 8 even ones come first; within each 32 pairs of four runs of 8 take turns.
    pairs = rows.transpose(3, 4).reshape(outs, ins // 32, 4, 4, 2)
    return pairs.transpose(2, 3).reshape(outs, ins)
