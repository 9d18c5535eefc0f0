"""GPTQ's files: whole numbers of 2, 3, 4 or 8 bits with a scale and a zero for every group of inputs.

The layout is AutoGPTQ's, which GPTQModel has taken on: ``qweight`` holds the codes of an output in words of 32 bits
along the inputs, the first input in the lowest bits, and ``qzeros`` likewise the zeros of a group along the outputs; a
number is ``scales * (code - zero)``, of the group that ``g_idx`` names for its input. Files of the first version
(``gptq``) hold each zero less one, those of the second (``gptq_v2``) as it is. Codes of three bits do not divide 32:
three words hold 32 of them, ten, the eleventh across words, ten, the twenty-second across words, ten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Self

import torch
from torch import Tensor

from omniform.core.errors import ConfigError, WeightsError
from omniform.weights.formats.base import CodedFormat, Held, Part
from omniform.weights.formats.codes import Codes, order_of

WORD = 32
BITS = (2, 3, 4, 8)


@dataclass(frozen=True, slots=True)
class Gptq(CodedFormat):
    """Matrices as GPTQ files hold them.

    Attributes:
        bits: 2, 3, 4 or 8.
        group: inputs that share a scale, a multiple of 8; -1 for all of them.
        version: 1 where zeros are stored less one, else 2.
        even: whether every zero is known to be the middle of the codes; see :meth:`settled`.
        ordered: whether ``g_idx`` is always there; files that are read may lack it.
    """

    bits: int
    group: int
    version: int = 1
    even: bool = False
    ordered: bool = False

    @property
    def name(self) -> str:
        groups = "a group of all inputs" if self.group == -1 else f"groups of {self.group}"
        return f"GPTQ, {self.bits} bits, {groups}"

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        if self.group != -1 and self.group % 8:
            raise ConfigError("no such groups", where="group_size", expected="-1 or a multiple of 8", found=self.group)
        each = Fraction(WORD, self.bits)
        for what, found in (("outputs", outs), ("inputs", ins)):
            if found % each.numerator:
                raise ConfigError("codes fill words", expected=f"{what} in multiples of {each.numerator}", found=found)
        groups = self.groups(ins)
        along = None if groups == 1 else (0, self.group)
        return {
            "qweight": Part((int(ins / each), outs), torch.int32, (1, 1), (0, each)),
            "qzeros": Part((groups, int(outs / each)), torch.int32, (1, each), along),
            "scales": Part((groups, outs), torch.float16, (1, 1), along),
            "g_idx": Part((ins,), torch.int32, None, (0, 1), optional=not self.ordered),
        }

    def groups(self, ins: int) -> int:
        """How many groups there are."""
        return 1 if self.group == -1 else -(-ins // self.group)

    def order(self, held: Held, ins: int) -> Tensor | None:
        """The inputs, those of one group side by side; None where they lie so already. Shape: [ins].

        Raises:
            WeightsError: a group has another number of inputs than the settings say, or is none.
        """
        said = held.get("g_idx")
        if said is None:
            return None
        return order_of(said, ins if self.group == -1 else self.group)

    def zeros(self, held: Held) -> Tensor:
        """The codes of nought. Shape: [groups, outs]; int32."""
        stored = unpacked(held["qzeros"].t(), self.bits).t()
        return stored if self.version == 2 else (stored + 1) & (2**self.bits - 1)

    def settled(self, held: Held) -> Self:
        middle = 2 ** (self.bits - 1)
        return replace(self, even=bool((self.zeros(held) == middle).all()))

    def codes(self, held: Held, outs: int, ins: int) -> Codes:
        codes = unpacked(held["qweight"], self.bits).t()
        scales, zeros = held["scales"].t(), self.zeros(held).t()
        order = self.order(held, ins)
        if order is not None:
            codes = codes[:, order]
        size = ins if self.group == -1 else self.group
        made = codes.to(torch.uint8) if self.bits < 8 else (codes - 128).to(torch.int8)
        if self.even:
            middle = 2 ** (self.bits - 1)
            means = tuple(float(code - middle) for code in range(16)) if self.bits < 8 else None
            kept = scales if scales.dtype is torch.float16 else scales.float()
            return Codes(made.contiguous(), kept.contiguous(), None, means, size, 8 if self.bits == 8 else 4, order)
        scales = scales.float().contiguous()
        minima = scales * ((128 if self.bits == 8 else 0) - zeros)
        return Codes(made.contiguous(), scales, minima, None, size, 8 if self.bits == 8 else 4, order)

    def packed(self, codes: Tensor, scales: Tensor, zeros: Tensor, groups: Tensor) -> dict[str, Tensor]:
        """The tensors of a file.

        Args:
            codes: Shape: [outs, ins]; from 0 to 2 ** bits - 1.
            scales: Shape: [outs, groups].
            zeros: codes of nought, from 1 on for files of the first version, which cannot hold 0 less one otherwise
                than as the largest. Shape: [outs, groups].
            groups: the group of each input. Shape: [ins].
        """
        kept = zeros.to(torch.int32) if self.version == 2 else (zeros.to(torch.int32) - 1) & (2**self.bits - 1)
        return {
            "qweight": packed(codes.to(torch.int32).t(), self.bits),
            "qzeros": packed(kept, self.bits).t().contiguous(),
            "scales": scales.half().t().contiguous(),
            "g_idx": groups.to(torch.int32),
        }

    def encoded(self, weight: Tensor) -> dict[str, Tensor]:
        """Each number to the nearest of its group's, with scales from the least to the most: what calibrating betters.

        Raises:
            WeightsError: a number is none.
        """
        outs, ins = weight.shape
        x = weight.detach().float()
        if not bool(torch.isfinite(x).all()):
            raise WeightsError("a weight is infinite or no number", expected="finite numbers")
        size, groups = (ins if self.group == -1 else self.group), self.groups(ins)
        wide = torch.nn.functional.pad(x, (0, groups * size - ins)).view(outs, groups, size)
        scales, zeros = ranges(wide, self.bits, sym=True)
        codes = rounded(wide, scales[..., None], zeros[..., None], self.bits).view(outs, -1)[:, :ins]
        return self.packed(codes, scales, zeros, torch.arange(ins) // size)


def ranges(x: Tensor, bits: int, *, sym: bool, least: int = 0) -> tuple[Tensor, Tensor]:
    """Scales and zeros by which codes reach from the least to the most of some numbers, and nought is one of them.

    Scales are such as float16 holds, since that is how they are kept.

    Args:
        x: Shape: [..., numbers]; float32.
        sym: whether the zero is the middle of the codes.
        least: the least zero.

    Returns:
        Shape: [...] each; float32, and zeros whole.
    """
    most = 2**bits - 1
    low, high = x.amin(-1).clamp(max=0), x.amax(-1).clamp(min=0)
    if sym:
        high = torch.maximum(low.abs(), high)
        low = -high
    elif least:
        low = torch.minimum(low, -high * least / (most - least))
    flat = low == high
    low, high = torch.where(flat, -1, low), torch.where(flat, 1, high)
    scales = ((high - low) / most).clamp(min=2.0**-24, max=65504.0).half().float()
    middle = torch.full_like(scales, (most + 1) // 2)
    return scales, middle if sym else (-low / scales).round().clamp(least, most)


def rounded(x: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """The nearest codes of some numbers; whole, of the dtype of ``x``."""
    return (x / scales + zeros).round().clamp(0, 2**bits - 1)


def unpacked(words: Tensor, bits: int) -> Tensor:
    """Codes of words along the first axis. Shape: [words, N] to [words * 32 / bits, N]; int32."""
    if WORD % bits:
        return _across(words.int(), bits)
    shifts = torch.arange(0, WORD, bits, dtype=torch.int32, device=words.device)
    return (words.int()[:, None] >> shifts[:, None]).bitwise_and_(2**bits - 1).flatten(0, 1)


def packed(codes: Tensor, bits: int) -> Tensor:
    """Words of codes along the first axis. Shape: [codes, N] to [codes * bits / 32, N]; int32."""
    count, step = codes.shape[0] * bits // WORD, 3 if bits == 3 else 1
    each = codes.long().reshape(count // step, WORD * step // bits, -1)
    made = torch.zeros(count // step, step, each.shape[-1], dtype=torch.int64, device=codes.device)
    for n in range(each.shape[1]):
        word, shift = divmod(n * bits, WORD)
        made[:, word] |= each[:, n] << shift
        if shift + bits > WORD:
            made[:, word + 1] |= each[:, n] >> (WORD - shift)
    made = made.flatten(0, 1) & 0xFFFFFFFF
    return torch.where(made >= 2**31, made - 2**32, made).to(torch.int32)


def _across(words: Tensor, bits: int) -> Tensor:
    """Codes of which some lie in two words: as many words as a code has bits hold 32."""
    every = words.unflatten(0, (-1, bits))  # type: ignore[no-untyped-call]
    made = torch.empty(every.shape[0], WORD, words.shape[1], dtype=torch.int32, device=words.device)
    for n in range(WORD):
        word, shift = divmod(n * bits, WORD)
        code = every[:, word] >> shift
        if shift > WORD - bits:  # the sign of the first word must not be in it
            code = (code & (2 ** (WORD - shift) - 1)) | (every[:, word + 1] << (WORD - shift))
        made[:, n] = code & (2**bits - 1)
    return made.flatten(0, 1)
