"""The integers of compressed-tensors (https://github.com/vllm-project/compressed-tensors): packed, or a byte each.

A number is ``(code - zero) * scale``. Packed codes have half their range added to them, so that none is negative, and
lie in words of 32 bits along the inputs, the first input lowest; zeros likewise, along the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omniform.core.errors import ConfigError, WeightsError
from omniform.weights.formats.base import CodedFormat, Held, Part
from omniform.weights.formats.codes import Codes, order_of
from omniform.weights.formats.gptq import WORD, unpacked

BITS = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class Scaled:
    """How scales and zeros lie.

    Attributes:
        group: inputs that share a scale; -1 for all.
        shape: of a scale that all outputs share; None where each has its own.
        dtype: of the scales.
        zeros: whether a file holds zeros.
    """

    group: int = -1
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype = torch.bfloat16
    zeros: bool = False

    def size(self, ins: int) -> int:
        """Inputs that share a scale."""
        return ins if self.group == -1 else self.group

    def parts(self, outs: int, ins: int, zeros: tuple[torch.dtype, int]) -> dict[str, Part]:
        """The tensors of scales and zeros; these of a dtype, so many outputs in an element."""
        groups = -(-ins // self.size(ins))
        into = (1, self.group) if groups > 1 else None
        dtype, each = zeros
        if self.shape is not None:
            scales, noughts = Part(self.shape, self.dtype), Part(self.shape, dtype)
        else:
            scales = Part((outs, groups), self.dtype, (0, 1), into)
            noughts = Part((-(-outs // each), groups), dtype, (0, each), into)
        return {"weight_scale": scales, **({"weight_zero_point": noughts} if self.zeros else {})}

    def of(self, held: Held, outs: int) -> Tensor:
        """A scale for each output and group. Shape: [outs, groups]."""
        scales = held["weight_scale"]
        return scales.reshape(1, 1).expand(outs, 1) if self.shape is not None else scales


@dataclass(frozen=True, slots=True)
class Integers(CodedFormat):
    """Whole numbers.

    Attributes:
        bits: 2, 4 or 8.
        packed: whether several are in a word; else each is a byte.
        scaled: how scales and zeros lie.
        ordered: whether a file says the group of each input.
        extra: further tensors, with their shapes and dtypes, which are kept and not used (of activations).
    """

    bits: int
    packed: bool
    scaled: Scaled
    ordered: bool = False
    extra: tuple[tuple[str, tuple[int, ...], torch.dtype], ...] = ()

    @property
    def name(self) -> str:
        groups = "a scale for each output" if self.scaled.group == -1 else f"groups of {self.scaled.group}"
        return f"compressed-tensors, int{self.bits}, {groups}"

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        if self.bits not in BITS:
            raise ConfigError("no such whole numbers", where="num_bits", expected="2, 4 or 8", found=self.bits)
        each = WORD // self.bits
        if self.packed:
            codes = Part((outs, -(-ins // each)), torch.int32, (0, 1), (1, each))
            found = {"weight_packed": codes, **self.scaled.parts(outs, ins, (torch.int32, each))}
            found["weight_shape"] = Part((2,), torch.int64, optional=True)
        else:
            codes = Part((outs, ins), torch.int8, (0, 1), (1, 1), key="weight")
            found = {"weight_codes": codes, **self.scaled.parts(outs, ins, (torch.int8, 1))}
        if self.ordered:
            found["weight_g_idx"] = Part((ins,), torch.int32, None, (0, 1))
        for name, shape, dtype in self.extra:
            found[name] = Part(shape, dtype, optional=True)
        return found

    def codes(self, held: Held, outs: int, ins: int) -> Codes:
        half, size = 2 ** (self.bits - 1), self.scaled.size(ins)
        if self.packed:
            codes = unpacked(held["weight_packed"].t(), self.bits).t()[:, :ins] - half
        else:
            codes = held["weight_codes"].int()
            if self.bits < 8 and bool(((codes < -half) | (codes >= half)).any()):
                raise WeightsError(
                    f"a code is none of {self.bits} bits",
                    expected=f"{-half} to {half - 1}",
                    found=f"{int(codes.min())} to {int(codes.max())}",
                )
        order = order_of(held["weight_g_idx"], size) if self.ordered else None
        if order is not None:
            codes = codes[:, order]
        scales = self.scaled.of(held, outs)
        small = self.bits < 8
        made = (codes + half).to(torch.uint8) if small else codes.to(torch.int8)
        if not self.scaled.zeros:
            means = tuple(float(n - half) for n in range(16)) if small else None
            kept = scales if scales.dtype is torch.float16 else scales.float()
            return Codes(made.contiguous(), kept.contiguous(), None, means, size, 4 if small else 8, order)
        scales = scales.float()
        zeros = self._zeros(held, outs, half)
        minima = -scales * (zeros + (half if small else 0))
        return Codes(made.contiguous(), scales.contiguous(), minima.contiguous(), None, size, 4 if small else 8, order)

    def _zeros(self, held: Held, outs: int, half: int) -> Tensor:
        """The codes of nought. Shape: [outs, groups]."""
        zeros = held["weight_zero_point"]
        if self.scaled.shape is not None:
            return zeros.int().reshape(1, 1).expand(outs, 1)
        return unpacked(zeros, self.bits)[:outs] - half if self.packed else zeros.int()
