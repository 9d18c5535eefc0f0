"""The integers of compressed-tensors (https://github.com/vllm-project/compressed-tensors): packed, or a byte each.

A number is ``(code - zero) * scale``. Packed codes have half their range added to them, so that none is negative, and
lie in words of 32 bits along the inputs, the first input lowest, across two words where their bits do not divide 32;
zeros likewise, along the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from omniform.core.errors import ConfigError, WeightsError
from omniform.weights.formats.base import CodedFormat, Held, Part
from omniform.weights.formats.codes import Codes, order_of
from omniform.weights.formats.fp8 import Extra, spare
from omniform.weights.formats.gptq import WORD, unpacked
from omniform.weights.formats.rounding import Rounding, RoundsInputs

BITS = range(1, 9)


@dataclass(frozen=True, slots=True)
class Scaled:
    """How scales and zeros lie.

    Attributes:
        group: inputs that share a scale; -1 for all.
        shape: of a scale that all outputs share; None where each has its own.
        dtype: of the scales.
        zeros: the dtype of the zeros: int32 where they are packed, else int8; None where a file holds none.
    """

    group: int = -1
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype = torch.bfloat16
    zeros: torch.dtype | None = None

    def size(self, ins: int) -> int:
        """Inputs that share a scale."""
        return ins if self.group == -1 else self.group

    def parts(self, outs: int, ins: int, bits: int) -> dict[str, Part]:
        """The tensors of scales, and of zeros of so many bits."""
        groups = -(-ins // self.size(ins))
        into = (1, self.group) if groups > 1 else None
        scales = Part((outs, groups), self.dtype, (0, 1), into)
        if self.shape is not None:
            scales = Part(self.shape, self.dtype)
        if self.zeros is None:
            return {"weight_scale": scales}
        if self.shape is not None:
            return {"weight_scale": scales, "weight_zero_point": Part(self.shape, self.zeros)}
        each = Fraction(WORD, bits) if self.zeros is torch.int32 else 1
        noughts = Part((-(-outs // each), groups), self.zeros, (0, each), into)
        return {"weight_scale": scales, "weight_zero_point": noughts}

    def of(self, held: Held, outs: int) -> Tensor:
        """A scale for each output and group. Shape: [outs, groups]."""
        scales = held["weight_scale"]
        return scales.reshape(1, 1).expand(outs, 1) if self.shape is not None else scales

    def zeros_of(self, held: Held, outs: int, bits: int) -> Tensor | None:
        """The codes of nought, likewise; int32. None where it is 0."""
        if self.zeros is None:
            return None
        zeros = held["weight_zero_point"]
        if self.shape is not None:
            return zeros.int().reshape(1, 1).expand(outs, 1)
        return _codes(zeros, bits)[:outs] if self.zeros is torch.int32 else zeros.int()


@dataclass(frozen=True, slots=True)
class Integers(RoundsInputs, CodedFormat):
    """Whole numbers.

    Attributes:
        bits: from 1 to 8.
        packed: whether several are in a word; else each is a byte.
        scaled: how scales and zeros lie.
        ordered: whether a file says the group of each input.
        extra: further tensors, which are kept; see :func:`omniform.weights.formats.fp8.spare`.
        rounding: how inputs are rounded; None where they stay floats.
    """

    bits: int
    packed: bool
    scaled: Scaled
    ordered: bool = False
    extra: tuple[Extra, ...] = ()
    rounding: Rounding | None = None

    @property
    def name(self) -> str:
        groups = "a scale for each output" if self.scaled.group == -1 else f"groups of {self.scaled.group}"
        groups = "one scale" if self.scaled.shape is not None else groups
        return f"compressed-tensors, int{self.bits}, {groups}"

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        if self.bits not in BITS:
            raise ConfigError("no such whole numbers", where="num_bits", expected="1 to 8", found=self.bits)
        if self.packed:
            each = Fraction(WORD, self.bits)
            codes = Part((outs, -(-ins // each)), torch.int32, (0, 1), (1, each))
            found = {"weight_packed": codes, **self.scaled.parts(outs, ins, self.bits)}
            found["weight_shape"] = Part((2,), torch.int64, optional=True)
        else:
            codes = Part((outs, ins), torch.int8, (0, 1), (1, 1), key="weight")
            found = {"weight_codes": codes, **self.scaled.parts(outs, ins, self.bits)}
        if self.ordered:
            found["weight_g_idx"] = Part((ins,), torch.int32, None, (0, 1))
        return found | spare(self.extra)

    def whole(self, held: Held, ins: int) -> Tensor:
        """The codes, in the order of the inputs. Shape: [outs, ins]; int32.

        Raises:
            WeightsError: one is beyond the bits.
        """
        half = 2 ** (self.bits - 1)
        if self.packed:
            return _codes(held["weight_packed"].t(), self.bits).t()[:, :ins]
        codes = held["weight_codes"].int()
        if self.bits < 8 and bool(((codes < -half) | (codes >= half)).any()):
            raise WeightsError(
                f"a code is none of {self.bits} bits",
                expected=f"{-half} to {half - 1}",
                found=f"{int(codes.min())} to {int(codes.max())}",
            )
        return codes

    def order(self, held: Held, ins: int) -> Tensor | None:
        """The inputs, those of one group side by side; None where they lie so already. Shape: [ins]."""
        if not self.ordered or bool((held["weight_g_idx"] == -1).any()):  # which the tool means as: in order
            return None
        return order_of(held["weight_g_idx"], self.scaled.size(ins))

    def numbers(self, held: Held, outs: int, ins: int) -> Tensor:
        """As the tool makes them: nought is taken off the code, before the scale rounds anything."""
        whole, zeros = self.whole(held, ins), self.scaled.zeros_of(held, outs, self.bits)
        order, size = self.order(held, ins), self.scaled.size(ins)
        groups = torch.arange(ins, device=whole.device) // size
        if order is not None:
            groups = torch.empty_like(groups).index_copy_(0, order, groups)
        codes = whole.float() if zeros is None else (whole - zeros[:, groups]).float()
        return codes * self.scaled.of(held, outs).float()[:, groups]

    def codes(self, held: Held, outs: int, ins: int) -> Codes:
        half, size = 2 ** (self.bits - 1), self.scaled.size(ins)
        codes, order = self.whole(held, ins), self.order(held, ins)
        if order is not None:
            codes = codes[:, order]
        scales, zeros = self.scaled.of(held, outs), self.scaled.zeros_of(held, outs, self.bits)
        small = self.bits <= 4
        made = (codes + half).to(torch.uint8) if small else codes.to(torch.int8)
        if zeros is None:
            means = tuple(float(n - half) for n in range(16)) if small else None
            kept = scales if scales.dtype is torch.float16 else scales.float()
            return Codes(made.contiguous(), kept.contiguous(), None, means, size, 4 if small else 8, order)
        scales = scales.float()
        minima = -scales * (zeros + (half if small else 0))
        return Codes(made.contiguous(), scales.contiguous(), minima.contiguous(), None, size, 4 if small else 8, order)


def _codes(words: Tensor, bits: int) -> Tensor:
    """Codes of words along the first axis, half their range taken off. Shape: [words, N] to [codes, N]; int32."""
    if WORD % bits:  # as many words as a code has bits hold 32; the last of a matrix may be fewer
        words = torch.nn.functional.pad(words, (0, 0, 0, -words.shape[0] % bits))
    return unpacked(words, bits) - (1 << (bits - 1))
