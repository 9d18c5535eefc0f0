"""Matrices of floats of eight bits with scales: of square blocks (DeepSeek-V3), of outputs, or one for all.

The numbers are OCP's (https://arxiv.org/abs/2209.05433): ``e4m3fn`` or ``e5m2``. What multiplies them is called an
*inverse* scale where a quantizer would multiply by the scale itself (https://arxiv.org/abs/2412.19437, 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omniform.core.errors import ConfigError, WeightsError
from omniform.native.matrix import Matrix
from omniform.weights.formats.base import Format, Held, Part
from omniform.weights.formats.rounding import Rounding, RoundsInputs

MOST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}
"""The largest number of each kind of floats."""

Extra = tuple[str, tuple[int, ...], torch.dtype]
"""A tensor that a file holds beside a matrix's own: what it is called, its shape and dtype."""


def spare(extra: Sequence[Extra]) -> dict[str, Part]:
    """The parts of what a file holds beside a matrix's own: of activations, or of keys and values."""
    return {name: Part(shape, dtype, optional=True) for name, shape, dtype in extra}


GROUPS = (256, 128, 64, 32, 16, 8)
"""Inputs that kernels have a scale for."""


@dataclass(frozen=True, slots=True)
class Fp8(RoundsInputs, Format):
    """Floats of eight bits.

    Attributes:
        dtype: ``torch.float8_e4m3fn`` or ``torch.float8_e5m2``.
        block: outputs and inputs that share a scale; 0 for all there are.
        scales: what a file calls the scales.
        scale_dtype: float32, bfloat16 or float16; ``torch.float8_e8m0fnu`` or uint8 for powers of two.
        shape: of one scale for all; of others the blocks tell.
        extra: further tensors, which are kept; see :func:`spare`.
        rounding: how inputs are rounded; None where they stay floats.
    """

    dtype: torch.dtype = torch.float8_e4m3fn
    block: tuple[int, int] = (128, 128)
    scales: str = "weight_scale_inv"
    scale_dtype: torch.dtype = torch.float32
    shape: tuple[int, ...] = ()
    extra: tuple[Extra, ...] = ()
    rounding: Rounding | None = None

    @property
    def name(self) -> str:
        kind = "e5m2" if self.dtype is torch.float8_e5m2 else "e4m3"
        outs, ins = self.block
        if outs and ins:
            return f"FP8 {kind}, blocks of {outs} x {ins}"
        return f"FP8 {kind}, a scale for each output" if outs else f"FP8 {kind}, one scale"

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        rows, columns = self.block
        if not rows:
            scales = Part(self.shape, self.scale_dtype, key=self.scales)
        else:
            width = -(-ins // columns) if columns else 1
            scales = Part(
                (-(-outs // rows), width),
                self.scale_dtype,
                (0, rows),
                (1, columns) if columns else None,
                key=self.scales,
            )
        found = {"scales": scales, "codes": Part((outs, ins), self.dtype, (0, 1), (1, 1), key="weight")}
        return found | spare(self.extra)

    def numbers(self, held: Held, outs: int, ins: int) -> Tensor:
        codes = self._codes(held)
        scales = powers(held["scales"])
        if self.block[0]:
            scales = spread(scales, self.block, outs, ins)
        return codes.float() * scales

    def matrix(self, held: Held, outs: int, ins: int) -> tuple[Matrix, Tensor | None]:
        codes, columns = self._codes(held), self.block[1]
        group = ins if not columns or columns >= ins else next((g for g in GROUPS if columns % g == 0), 0)
        if not group:  # no kernel has scales of so few inputs
            return Matrix.pack(self.numbers(held, outs, ins)), None
        scales = powers(held["scales"])
        if not self.block[0]:
            scales = scales.reshape(1, 1).expand(outs, 1)
        else:
            scales = scales.repeat_interleave(self.block[0], 0)[:outs]
            if group < ins:
                scales = scales.repeat_interleave(columns // group, 1)[:, : -(-ins // group)]
        return Matrix.scaled(codes, scales.contiguous(), group=group), None

    def encoded(self, weight: Tensor) -> dict[str, Tensor]:
        """Each block's largest number becomes the largest that there is; what lies between goes to the nearest.

        Raises:
            WeightsError: a number is none.
        """
        outs, ins = weight.shape
        x = weight.detach().float()
        if not bool(torch.isfinite(x).all()):
            raise WeightsError("a weight is infinite or no number", expected="finite numbers")
        rows, columns = self.block[0] or outs, self.block[1] or ins
        down, across = -(-outs // rows), -(-ins // columns)
        padded = torch.nn.functional.pad(x, (0, across * columns - ins, 0, down * rows - outs))
        most = padded.view(down, rows, across, columns).abs().amax((1, 3))
        up = torch.where(most > 0, MOST[self.dtype] / most, 1.0)
        scales = 1.0 / up
        if self.scale_dtype in (torch.float8_e8m0fnu, torch.uint8):
            scales = torch.exp2(torch.ceil(torch.log2(scales.clamp(min=torch.finfo(torch.float32).tiny))))
            up = 1.0 / scales
        wide = spread(up, (rows, columns), outs, ins)
        codes = (x * wide).clamp(-MOST[self.dtype], MOST[self.dtype]).to(self.dtype)
        if self.scale_dtype is torch.uint8:
            kept = (torch.log2(scales) + 127).round().to(torch.uint8)
        else:
            kept = scales.to(self.scale_dtype)
        return {"scales": kept.reshape(self.parts(outs, ins)["scales"].shape), "codes": codes}

    @staticmethod
    def _codes(held: Held) -> Tensor:
        codes = held["codes"]
        if codes.dtype not in MOST:
            raise WeightsError(
                "the matrix of a layer with scales is not of eight bits",
                expected=" or ".join(str(kind).removeprefix("torch.") for kind in MOST),
                found=str(codes.dtype).removeprefix("torch."),
            )
        return codes


def powers(scales: Tensor) -> Tensor:
    """Scales as float32: bytes are exponents of two, 127 for one (https://arxiv.org/abs/2310.10537, E8M0)."""
    if scales.dtype is not torch.uint8:
        return scales.float()
    made = torch.ldexp(torch.ones_like(scales, dtype=torch.float32), scales.int() - 127)
    return torch.where(scales == 255, math.nan, made)


def spread(scales: Tensor, block: tuple[int, int], outs: int, ins: int) -> Tensor:
    """A number of each block as one of each of its own; the last blocks may be smaller. Shape: to [outs, ins]."""
    tall = scales.repeat_interleave(block[0], 0)[:outs]
    return tall.repeat_interleave(block[1], 1)[:, :ins] if block[1] else tall


def block_of(given: object) -> tuple[int, int]:
    """Outputs and inputs that share a scale, as a config says them; zeros where it says that all do.

    Raises:
        ConfigError: they are no two numbers above zero.
    """
    if given is None:
        return 0, 0
    good = isinstance(given, list | tuple) and len(given) == 2 and all(type(n) is int and n > 0 for n in given)
    if not good:
        raise ConfigError(
            "no such blocks", where="weight_block_size", expected="two numbers above zero, or null", found=repr(given)
        )
    assert isinstance(given, list | tuple)
    return given[0], given[1]
