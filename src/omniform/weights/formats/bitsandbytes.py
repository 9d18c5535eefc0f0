"""Four bits as bitsandbytes keeps them: FP4 and NF4 in blocks of the flattened matrix, scales in eight bits or floats.

The formats are those of QLoRA (Dettmers et al., 2023, arXiv:2305.14314); bytes, tables and rounding follow the
package's 0.50 on the CPU, with which the tests compare.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from omniform.core.errors import WeightsError, brief
from omniform.native.matrix import Matrix
from omniform.weights.formats.base import Format, Held, Part
from omniform.weights.formats.codes import Codes

Table = Literal["nf4", "fp4"]

TABLES: Mapping[str, tuple[float, ...]] = {
    "nf4": (
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ),
    # One bit of sign, two of exponent, one of fraction; the largest is 12.
    "fp4": tuple(sign * n / 12 for sign in (1, -1) for n in (0, 0.0625, 8, 12, 4, 6, 2, 3)),
}  # fmt: skip
"""What the sixteen codes stand for, times a block's largest magnitude."""

RISING: Mapping[str, tuple[int, ...]] = {
    "nf4": tuple(range(16)),
    "fp4": (11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3),
}
"""The codes in the order of what they stand for; of FP4's two zeros the first is that of the lesser half."""

SIZES = (64, 32, 128, 256, 512, 1024, 2048, 4096)
"""Numbers that a block may have; the usual first."""

OF_SCALES = 256
"""Scales of a block of double quantization."""

STEPS = 65535
"""Of the grid that scales are put on before the nearest of the 256 numbers is taken."""

TINY = 1e-38


@dataclass(frozen=True, slots=True)
class FourBit(Format):
    """A matrix of FP4 or NF4.

    Attributes:
        table: which of them.
        nested: whether scales are quantized too.
        block: numbers that share a scale, one after another, row by row.
        storage: dtype that the packed bytes are kept as.
        state_bytes: how long the JSON text that goes with a matrix is.
        compute: dtype in which floats are multiplied, where no kernel does it.
    """

    table: Table
    nested: bool = False
    block: int = 64
    storage: torch.dtype = torch.uint8
    state_bytes: int = 0
    compute: torch.dtype | None = None

    @property
    def name(self) -> str:
        return f"{self.table.upper()}{', scales in 8 bits' if self.nested else ''}, blocks of {self.block}"

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        count = outs * ins
        blocks = -(-count // self.block)
        each = 2 * self.storage.itemsize
        scale = torch.uint8 if self.nested else torch.float32
        found = {
            "packed": Part((-(-count // each), 1), self.storage, (0, Fraction(each, ins)), key="weight"),
            "absmax": Part((blocks,), scale, (0, Fraction(self.block, ins)), key="weight.absmax"),
            "quant_map": Part((16,), torch.float32, key="weight.quant_map"),
        }
        if self.nested:
            along = (0, Fraction(self.block * OF_SCALES, ins))
            outer = (-(-blocks // OF_SCALES),)
            found["nested_absmax"] = Part(outer, torch.float32, along, key="weight.nested_absmax")
            found["nested_quant_map"] = Part((256,), torch.float32, key="weight.nested_quant_map")
        key = f"weight.quant_state.bitsandbytes__{self.table}"
        found["quant_state"] = Part((self.state_bytes,), torch.uint8, key=key)
        return found

    def fitted(self, held: Held) -> FourBit:
        return replace(self, state_bytes=held["quant_state"].numel())

    def numbers(self, held: Held, outs: int, ins: int) -> Tensor:
        means = held["quant_map"].float()[self._codes(held, outs * ins).long()]
        scales = self._scales(held).repeat_interleave(self.block)[: outs * ins]
        return (means * scales).view(outs, ins)

    def matrix(self, held: Held, outs: int, ins: int) -> tuple[Matrix, Tensor | None]:
        """Groups are blocks where these lie within rows; else the largest parts of blocks that all rows have alike."""
        group = math.gcd(self.block, ins)
        if group % 8:
            return Matrix.pack(self.numbers(held, outs, ins)), None
        codes = self._codes(held, outs * ins).view(outs, ins)
        scales = self._scales(held).repeat_interleave(self.block // group)[: outs * ins // group]
        table = tuple(held["quant_map"].tolist())
        return Codes(codes, scales.view(outs, -1), None, table, group, 4).matrix(), None

    def inputs(self, x: Tensor, held: Held, *, training: bool) -> Tensor:
        return x if self.compute is None or not training else x.to(self.compute)

    def _codes(self, held: Held, count: int) -> Tensor:
        """One after another, the even number's in a byte's upper half. Shape: [count]; uint8."""
        packed = held["packed"].reshape(-1).view(torch.uint8)
        return torch.stack((packed >> 4, packed & 15), -1).flatten()[:count]

    def _scales(self, held: Held) -> Tensor:
        """Shape: [blocks]; float32."""
        absmax = held["absmax"]
        if not self.nested:
            return absmax.float()
        means = held["nested_quant_map"].float()[absmax.long()]
        outer = held["nested_absmax"].float().repeat_interleave(OF_SCALES)[: absmax.numel()]
        return means * outer + float(str(state_of(held)["nested_offset"]))

    def encoded(self, weight: Tensor) -> dict[str, Tensor]:
        """The nearest code of each number over its block's largest magnitude.

        Raises:
            WeightsError: a number is none.
        """
        x = weight.detach().reshape(-1).float()
        if not bool(torch.isfinite(x).all()):
            raise WeightsError("a weight is infinite or no number", expected="finite numbers")
        codes, absmax = nearest_codes(x, self.table, self.block)
        state: dict[str, object] = {
            "quant_type": self.table,
            "blocksize": self.block,
            "dtype": str(weight.dtype).removeprefix("torch."),
            "shape": list(weight.shape),
        }
        made = {"quant_map": torch.tensor(TABLES[self.table], dtype=torch.float32)}
        if self.nested:
            offset = absmax.mean()
            absmax, outer = quantized_scales(absmax - offset)
            made |= {"nested_absmax": outer, "nested_quant_map": dynamic_table()}
            state |= {"nested_blocksize": OF_SCALES, "nested_dtype": "float32", "nested_offset": offset.item()}
        text = json.dumps(state).encode()
        each = 2 * self.storage.itemsize
        codes = torch.nn.functional.pad(codes, (0, -codes.numel() % each))
        packed = (codes[::2] << 4 | codes[1::2]).view(self.storage).unsqueeze(1)
        state_tensor = torch.tensor(list(text), dtype=torch.uint8)
        return {"packed": packed, "absmax": absmax, "quant_state": state_tensor, **made}


def nearest_codes(x: Tensor, table: str, block: int) -> tuple[Tensor, Tensor]:
    """Codes of numbers, and each block's largest magnitude. Shape: [count] to [count], uint8, and [blocks], float32.

    What lies in the middle of two numbers of a table goes to the lesser.
    """
    count = x.numel()
    blocks = torch.nn.functional.pad(x, (0, -count % block)).view(-1, block)
    absmax = blocks.abs().amax(-1)
    least = absmax.clamp(min=TINY)
    scaled = blocks * (1.0 / least)[:, None]
    if count % block:  # the last, which is shorter, is divided, and remembers the least that it was divided by
        scaled[-1] = blocks[-1] / least[-1]
        absmax[-1] = least[-1]
    order = torch.tensor(RISING[table])
    means = torch.tensor(TABLES[table], dtype=torch.float32)[order]
    found = torch.bucketize(scaled.flatten()[:count].clamp(-1, 1), (means[:-1] + means[1:]) / 2)
    return order[found].to(torch.uint8), absmax


def dynamic_table() -> Tensor:
    """The 256 numbers that scales are kept as: an exponent of ten of 0 to 6 bits, and the rest of a byte a fraction.

    From "8-Bit Approximations for Parallelism in Deep Learning" (arXiv:1511.04561). Shape: [256], rising; float32.
    """
    found = [0.0, 1.0]
    for bits in range(7):
        edges = torch.linspace(0.1, 1, 2**bits + 1)
        middles = (edges[:-1] + edges[1:]) / 2.0
        found += [n for sign in (1, -1) for n in (sign * 10 ** (bits - 6) * middles).tolist()]
    return torch.tensor(sorted(found), dtype=torch.float32)


def quantized_scales(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scales in eight bits, in blocks of 256. Shape: [blocks] to the same, uint8, and [ceil(blocks / 256)], float32.

    The package's own kernel for the CPU looks numbers up on a grid of 65536 steps from -1 to 1; the nearest of the 256
    is that of the step.
    """
    count = x.numel()
    blocks = torch.nn.functional.pad(x, (0, -count % OF_SCALES)).view(-1, OF_SCALES)
    outer = blocks.abs().amax(-1)
    scaled = (blocks * (1.0 / outer)[:, None]).clamp(-1, 1)
    grid = ((scaled + 1) * 0.5 * STEPS + 0.5).floor() / STEPS * 2 - 1
    means = dynamic_table()
    codes = torch.bucketize(grid, (means[:-1] + means[1:]) / 2).to(torch.uint8)
    codes = torch.where(outer[:, None] == 0, 0, codes)
    return codes.flatten()[:count], outer


def state_of(held: Held) -> dict[str, object]:
    """What the JSON text that goes with a matrix says.

    Raises:
        WeightsError: it is damaged.
    """
    raw = bytes(held["quant_state"].cpu().tolist())
    try:
        found = json.loads(raw.decode())
    except ValueError as error:
        raise WeightsError(
            "quant_state is damaged", expected="JSON text in bytes", found=brief(raw[:40]), remedy=str(error)
        ) from error
    wanted = ("quant_type", "blocksize", "dtype", "shape", *(("nested_offset",) if "nested_absmax" in held else ()))
    lacks = [name for name in wanted if not isinstance(found, dict) or name not in found]
    if lacks:
        raise WeightsError("quant_state is damaged", expected=", ".join(wanted), found=f"no {', '.join(lacks)}")
    assert isinstance(found, dict)
    return found
