"""MXFP4: floats of four bits, of which 32 neighbours share a power of two (OCP's Microscaling Formats, v1.0).

A number has a sign, two bits of exponent and one of mantissa (E2M1); the power is a byte, 127 for one (E8M0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from omniform.core.errors import ConfigError, WeightsError
from omniform.weights.formats.base import CodedFormat, Held, Part
from omniform.weights.formats.codes import Codes
from omniform.weights.formats.fp8 import powers
from omniform.weights.formats.rounding import MAGNITUDES

MEANS = MAGNITUDES + tuple(-x for x in MAGNITUDES)
"""What codes mean: the highest bit is the sign."""

GROUP = 32
"""Numbers that share a power."""


@dataclass(frozen=True, slots=True)
class Mxfp4(CodedFormat):
    """Codes of a layer's inputs side by side, sixteen bytes to a group, the even input's in the lower half of each."""

    @property
    def name(self) -> str:
        return "MXFP4"

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        if ins % GROUP:
            raise ConfigError("MXFP4 has whole groups", expected=f"inputs in multiples of {GROUP}", found=ins)
        groups = ins // GROUP
        blocks = Part((outs, groups, GROUP // 2), torch.uint8, (0, 1), (1, GROUP))
        return {"blocks": blocks, "scales": Part((outs, groups), torch.uint8, (0, 1), (1, GROUP))}

    def codes(self, held: Held, outs: int, ins: int) -> Codes:
        blocks = held["blocks"]
        codes = torch.stack((blocks & 15, blocks >> 4), -1).reshape(outs, ins)
        return Codes(codes, powers(held["scales"]), None, MEANS, GROUP, 4)

    def encoded(self, weight: Tensor) -> dict[str, Tensor]:
        """The least power under which a group's largest number is at most 6; numbers to the nearest, halfway to even.

        Raises:
            WeightsError: a number is none.
        """
        outs, ins = weight.shape
        x = weight.detach().float()
        if not bool(torch.isfinite(x).all()):
            raise WeightsError("a weight is infinite or no number", expected="finite numbers")
        grouped = x.reshape(outs, ins // GROUP, GROUP)
        # frexp is exact where a logarithm may be off by a bit: a number is mantissa * 2 ** exponent, mantissa below 1.
        mantissa, exponent = torch.frexp(grouped.abs().amax(-1) / 6.0)
        power = (exponent - (mantissa == 0.5).int()).clamp(-127, 127)
        scaled = grouped * torch.ldexp(torch.ones_like(mantissa), -power)[..., None]
        size = scaled.abs().clamp(max=6.0).contiguous()
        # Halfway between two neighbours goes to the even code: bounds belong to the even one's side.
        middles = torch.tensor([(a + b) / 2 for a, b in pairwise(MAGNITUDES)])
        below, above = torch.bucketize(size, middles, right=False), torch.bucketize(size, middles, right=True)
        codes = torch.where(below % 2 == 0, below, above).to(torch.uint8) | scaled.signbit().to(torch.uint8) << 3
        return {"blocks": codes[..., ::2] | codes[..., 1::2] << 4, "scales": (power + 127).to(torch.uint8)}
