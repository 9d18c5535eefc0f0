"""Codes: a matrix of whole numbers with scales, as files of all formats mean it and as the kernels take it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omniform.core.errors import WeightsError
from omniform.native.matrix import Matrix

SIGNED = tuple(float(n) for n in range(-8, 8))
"""The table of codes of four bits that are eight too many."""


@dataclass(frozen=True, slots=True)
class Codes:
    """A matrix in codes: a number is ``value(code) * scale + minimum``.

    Attributes:
        codes: Shape: [N, K]; uint8 from 0 to 15 for codes of four bits, else int8.
        scales: Shape: [N, ceil(K / group)]; float16 or float32.
        minima: likewise and of the same dtype, added to every number of a group; None for none.
        codebook: what the sixteen codes of four bits stand for; None for themselves.
        group: how many numbers share a scale.
        bits: 4 or 8, what a code takes.
        order: which input each column is, where columns that share a scale are no neighbours. Shape: [K]; None where
            columns are in the order of the inputs.
    """

    codes: Tensor
    scales: Tensor
    minima: Tensor | None
    codebook: tuple[float, ...] | None
    group: int
    bits: int
    order: Tensor | None = None

    def dequantized(self) -> Tensor:
        """The numbers, columns in the order of the inputs. Shape: [N, K]; float32."""
        codes = self.codes.float() if self.codebook is None else looked_up(self.codes, self.codebook)
        ins = codes.shape[-1]
        made = codes * along(self.scales, self.group, ins)
        if self.minima is not None:
            made = made + along(self.minima, self.group, ins)
        return made if self.order is None else torch.empty_like(made).index_copy_(-1, self.order, made)

    def matrix(self) -> Matrix:
        """The same for the kernels, columns as they are here.

        Groups of a size that they do not know become smaller ones; where no such size divides them, numbers are packed.

        Raises:
            NativeError: there is no library.
        """
        ins, group = self.codes.shape[-1], self.group
        if group < ins and group % 256 and 256 % group:
            group = math.gcd(group, 256)
            if group % 8:
                return Matrix.pack(replace(self, order=None).dequantized())
        scales, minima = (None if x is None else self._finer(x, group) for x in (self.scales, self.minima))
        assert scales is not None
        return Matrix.quantized(self.codes, scales, group=group, minima=minima, table=self.codebook)

    def _finer(self, of_groups: Tensor, group: int) -> Tensor:
        """A number of each group as one of each of the smaller groups that it is made of."""
        if group == self.group:
            return of_groups
        return of_groups.repeat_interleave(self.group // group, -1)[..., : -(-self.codes.shape[-1] // group)]

    def halved(self) -> Codes:
        """The same with scales and minima in float16: a relative error of each of at most 2 ** -11.

        Raises:
            WeightsError: a scale or a minimum is finite and beyond float16.
        """
        scales, minima = self.scales.half(), None if self.minima is None else self.minima.half()
        pairs = ((self.scales, scales), *([] if self.minima is None or minima is None else [(self.minima, minima)]))
        if any(bool((made.isinf() & ~whole.isinf()).any()) for whole, made in pairs):
            raise WeightsError("a scale is too large for float16", expected="at most 65504")
        return replace(self, scales=scales, minima=minima)


def along(of_groups: Tensor, group: int, ins: int) -> Tensor:
    """A number of each group as one of each input. Shape: [N, groups] to [N, ins]; float32."""
    return of_groups.float().repeat_interleave(group, -1)[..., :ins]


def looked_up(codes: Tensor, codebook: Sequence[float]) -> Tensor:
    """What codes stand for; float32."""
    return torch.tensor(codebook, dtype=torch.float32, device=codes.device)[codes.long()]


def order_of(group_K: Tensor, size: int) -> Tensor | None:
    """The inputs, those of one group side by side; None where they lie so already. Shape: [K].

    Args:
        group_K: the group of each input.
        size: inputs of a group; the last may have fewer.

    Raises:
        WeightsError: a group has another number of inputs, or is none.
    """
    told = group_K.long()
    expected = torch.arange(len(told), device=told.device) // size
    if torch.equal(told, expected):
        return None
    order = told.argsort(stable=True)
    wrong = (told[order] != expected).nonzero()
    if len(wrong):
        group = int(expected[int(wrong[0])])
        raise WeightsError(
            f"g_idx does not part the inputs into {int(expected[-1]) + 1} groups",
            where="g_idx",
            expected=f"{int((expected == group).sum())} inputs in group {group}",
            found=f"{int((told == group).sum())}, and groups from {int(told.min())} to {int(told.max())}",
        )
    return order
