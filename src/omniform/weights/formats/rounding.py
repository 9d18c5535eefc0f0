"""Activations rounded to few bits before they are multiplied, as compressed-tensors rounds them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from omniform.weights.formats.base import Held

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The floats of four bits (E2M1)."""

RANGES = {
    ("int", 8): (-128.0, 127.0),
    ("int", 4): (-8.0, 7.0),
    ("float", 8): (-448.0, 448.0),
    ("float", 4): (-6.0, 6.0),
}
"""The least and the largest of each kind of numbers."""

LEAST = 0.125
"""The scale in eight bits of numbers that are all nought."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """How inputs are rounded.

    Attributes:
        kind: ``"int"`` or ``"float"``.
        bits: 4 or 8.
        group: inputs that share a scale; 0 for a token's, -1 for all of all tokens.
        fixed: whether the scale is the file's (``input_scale``), else the inputs' own.
        even: whether it is of a range that is even about nought.
        power: whether scales are powers of two (MX).
        whole: whether the file has a scale of scales in eight bits (``input_global_scale``).
    """

    kind: str
    bits: int
    group: int = 0
    fixed: bool = False
    even: bool = True
    power: bool = False
    whole: bool = False

    def __call__(self, x: Tensor, held: Held) -> Tensor:
        """What the inputs' codes stand for. Shape: [..., ins] to the same, and of the same dtype.

        Args:
            held: the layer's tensors.
        """
        given = x.unflatten(-1, (-1, self.group)) if self.group > 0 else x  # type: ignore[no-untyped-call]
        least, most = RANGES[self.kind, self.bits]
        zero: Tensor | None = None
        if self.fixed:
            scale, zero = held["input_scale"], held.get("input_zero_point")
        else:
            scale, zero = self._own(given, held, least, most)
        if self.whole:
            scale = scale / held["input_global_scale"].float()
        codes = given / scale
        if zero is not None:
            codes = codes + zero.to(codes.dtype)
        codes = self._nearest(codes.clamp(least, most))
        if zero is not None:
            codes = codes - zero.to(codes.dtype)
        return (codes * scale).to(x.dtype).reshape(x.shape)

    def _own(self, x: Tensor, held: Held, least: float, most: float) -> tuple[Tensor, Tensor | None]:
        """The inputs' own scales, and the codes of nought."""
        if self.group == -1:
            low, high = x.amin(), x.amax()
        else:
            low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
        low, high = low.clamp(max=0), high.clamp(min=0)
        tiny = torch.finfo(x.dtype).eps
        if not self.even:
            scale = (high - low) / (most - least)
            scale = torch.where(scale == 0, tiny, scale)
            return scale, (least - low / scale).clamp(least, most).round()
        largest = torch.maximum(-low, high)
        if self.power:
            return _power(largest, most), None
        scale = largest / ((most - least) / 2)
        if not self.whole:
            return torch.where(scale == 0, tiny, scale), None
        scale = held["input_global_scale"].float() * scale
        scale = scale.clamp(max=448.0).to(torch.float8_e4m3fn).float()
        return torch.where(scale == 0, LEAST, scale), None

    def _nearest(self, codes: Tensor) -> Tensor:
        """The nearest codes; halfway between two goes to the even one."""
        if self.kind == "int":
            return codes.round()
        if self.bits == 8:
            return codes.to(torch.float8_e4m3fn).to(codes.dtype)
        known = torch.tensor(MAGNITUDES, dtype=torch.float32, device=codes.device)
        middles = torch.tensor([(a + b) / 2 for a, b in pairwise(MAGNITUDES)], device=codes.device)
        size = codes.abs().float().contiguous()
        below, above = torch.bucketize(size, middles, right=False), torch.bucketize(size, middles, right=True)
        return (known[torch.where(below % 2 == 0, below, above)] * codes.sign()).to(codes.dtype)


def _power(largest: Tensor, most: float) -> Tensor:
    """The power of two that groups share: the largest number's (from 7/8 of the next on, the next) over the most's."""
    mantissa, exponent = torch.frexp(largest.float())
    top = torch.frexp(torch.tensor(most))[1] - 1
    power = exponent - 1 + (mantissa >= 0.875).int() - top
    power = torch.where(largest == 0, -127, power).clamp(-127, 127)
    return torch.ldexp(torch.ones_like(mantissa), power)


class RoundsInputs:
    """What formats of matrices have in common whose inputs are rounded too.

    Attributes:
        rounding: how; None where inputs stay floats.
    """

    rounding: Rounding | None

    @property
    def rounds_inputs(self) -> bool:
        """Whether what is multiplied is not the input itself."""
        return self.rounding is not None

    def inputs(self, x: Tensor, held: Held, *, training: bool) -> Tensor:
        """What the inputs' codes stand for; in training, where rounding would stop the gradients, the inputs."""
        return x if self.rounding is None or training else self.rounding(x, held)
