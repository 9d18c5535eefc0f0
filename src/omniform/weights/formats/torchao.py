"""What torchao's tensors of eight bits are in a file: codes with a scale, and maybe a zero point, for each group.

torchao flattens a weight into ``_weight_qdata``, ``_weight_scale`` and ``_weight_zero_point`` beside each other
(`torchao/prototype/safetensors`, 0.18): a number is ``(code - zero_point) * scale``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from omniform.native.matrix import Matrix
from omniform.weights.formats.base import Format, Held, Part
from omniform.weights.formats.codes import Codes, along


@dataclass(frozen=True, slots=True)
class AoEight(Format):
    """Matrices of int8, or of floats of eight bits.

    Attributes:
        dtype: of the codes.
        groups: how many scales an output has; 0 where all outputs share one.
        scale_dtype: of the scales.
        zero_dtype: of the zero points; None for none.
        shape: of a scale that all share.
        even: whether every zero point is known to be nought; see :meth:`settled`.
    """

    dtype: torch.dtype
    groups: int
    scale_dtype: torch.dtype
    zero_dtype: torch.dtype | None = None
    shape: tuple[int, ...] = ()
    even: bool = False

    @property
    def name(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"torchao {kind}, {f'{self.groups} scales for each output' if self.groups else 'one scale'}"

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        found = {"qdata": Part((outs, ins), self.dtype, (0, 1), (1, 1), key="_weight_qdata")}
        for name, dtype in (("scale", self.scale_dtype), ("zero_point", self.zero_dtype)):
            if dtype is not None:
                shape, out = ((outs, self.groups), (0, 1)) if self.groups else (self.shape, None)
                found[name] = Part(shape, dtype, out, key=f"_weight_{name}")
        return found

    def fitted(self, held: Held) -> AoEight:
        scale, zero = held["scale"], held.get("zero_point")
        shared = scale.numel() == 1
        return AoEight(
            held["qdata"].dtype,
            0 if shared else scale.shape[1],
            scale.dtype,
            None if zero is None else zero.dtype,
            tuple(scale.shape) if shared else (),
        )

    def settled(self, held: Held) -> Self:
        return replace(self, even="zero_point" not in held or not bool(held["zero_point"].any()))

    def numbers(self, held: Held, outs: int, ins: int) -> Tensor:
        group = ins // max(1, self.groups)
        codes = held["qdata"].float()
        if "zero_point" in held:
            codes = codes - along(self._each(held["zero_point"], outs), group, ins)
        return codes * along(self._each(held["scale"], outs), group, ins)

    def matrix(self, held: Held, outs: int, ins: int) -> tuple[Matrix, Tensor | None]:
        group = ins // max(1, self.groups)
        scales = self._each(held["scale"], outs).float().contiguous()
        if self.dtype is torch.int8:
            minima = None if self.even else -self._each(held["zero_point"], outs).float() * scales
            return Codes(held["qdata"], scales, minima, None, group, 8).matrix(), None
        if group < ins or not self.even:
            return Matrix.pack(self.numbers(held, outs, ins)), None
        return Matrix.scaled(held["qdata"], scales, group=group), None

    def _each(self, one: Tensor, outs: int) -> Tensor:
        """Of each output. Shape: [outs, groups]."""
        return one if self.groups else one.reshape(1, 1).expand(outs, 1)
