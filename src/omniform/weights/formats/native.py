"""This library's own format: whole numbers of eight or four bits, with a scale in float16 for every group of inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omniform.core.errors import ConfigError, WeightsError
from omniform.weights.formats.base import CodedFormat, Held, Part
from omniform.weights.formats.codes import SIGNED, Codes, along


@dataclass(frozen=True, slots=True)
class Native(CodedFormat):
    """Codes of a layer's inputs side by side, two in a byte where they are of four bits, the even input's first.

    Attributes:
        bits: 8 or 4.
        group: inputs that share a scale; a multiple of 8 that divides 256, or a multiple of 256.
    """

    bits: int
    group: int

    @property
    def name(self) -> str:
        return f"int{self.bits}, groups of {self.group}"

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        each = 8 // self.bits
        if ins % each:
            raise ConfigError("codes fill bytes", expected=f"inputs in multiples of {each}", found=ins)
        codes = Part((outs, ins // each), torch.uint8 if self.bits == 4 else torch.int8, (0, 1), (1, each))
        scales = Part((outs, -(-ins // self.group)), torch.float16, (0, 1), (1, self.group))
        return {"weight_codes": codes, "weight_scales": scales}

    def codes(self, held: Held, outs: int, ins: int) -> Codes:
        packed, scales = held["weight_codes"], held["weight_scales"]
        if self.bits == 8:
            return Codes(packed, scales, None, None, self.group, 8)
        codes = torch.stack((packed & 15, packed >> 4), -1).flatten(-2)
        return Codes(codes, scales, None, SIGNED, self.group, 4)

    def encoded(self, weight: Tensor) -> dict[str, Tensor]:
        """Each number to the nearest of its group's: of eight bits -127 to 127 times the scale, of four -8 to 7.

        Raises:
            WeightsError: a number is none.
        """
        outs, ins = weight.shape
        x = weight.detach().float()
        if not bool(torch.isfinite(x).all()):
            raise WeightsError("a weight is infinite or no number", expected="finite numbers")
        groups = -(-ins // self.group)
        padded = torch.nn.functional.pad(x, (0, groups * self.group - ins)).view(outs, groups, self.group)
        most = 2 ** (self.bits - 1) - 1
        if self.bits == 8:
            scales = padded.abs().amax(-1) / most
        else:  # the number farthest from zero is -8 times the scale
            farthest = padded.gather(-1, padded.abs().argmax(-1, keepdim=True))[..., 0]
            scales = farthest / -8
        scales = scales.half()
        wide = along(scales, self.group, ins)
        codes = (x / torch.where(wide == 0, 1, wide)).round().clamp(-most - (self.bits == 4), most)
        if self.bits == 8:
            return {"weight_codes": codes.to(torch.int8), "weight_scales": scales}
        found = (codes + 8).to(torch.uint8)
        return {"weight_codes": found[:, ::2] | found[:, 1::2] << 4, "weight_scales": scales}
