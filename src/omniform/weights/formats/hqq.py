"""HQQ: whole numbers of 1 to 8 bits, each group's zero point found by half-quadratic splitting, without any texts.

The method is Badri and Shaji's "Half-Quadratic Quantization of Large Machine Learning Models" (2023); layout and order
of computing are those of the package's 0.2.8 on the CPU, with whose files the tests compare. A matrix is taken as one
of groups, [groups, numbers] along its inputs (axis 1) or [numbers, groups] across its outputs (axis 0), and a number is
``(code - zero) * scale``. Codes are packed by putting the halves (quarters, ...) of *that* matrix's rows into the bits
of one byte, so no output of a packed matrix lies by itself: matrices of this format are held as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omniform.core.errors import ConfigError, WeightsError
from omniform.native.matrix import Matrix
from omniform.weights.formats.base import Format, Held, Part
from omniform.weights.formats.codes import Codes
from omniform.weights.links import Link

BITS = (8, 6, 5, 4, 3, 2, 1.58, 1)
"""What a code may have; those of 6 and 5 lie in a byte each, and those of 1.58 (three of them) in two bits."""

BY_BITS: Mapping[float, str] = {
    8: "8bit_u8", 6: "8bit_u8", 5: "8bit_u8", 4: "4bit_u8", 3: "3bit_32", 2: "2bit_u8", 1.58: "2bit_u8", 1: "1bit_u8",
}  # fmt: skip
"""What the package calls the way codes are packed."""

PER: Mapping[str, tuple[int, int]] = {
    "8bit_u8": (1, 8), "4bit_u8": (2, 4), "3bit_32": (10, 3), "2bit_u8": (4, 2), "1bit_u8": (8, 1),
}  # fmt: skip
"""Codes in a word, and the bits of one."""

MATRIX = ("W_q", "scale", "zero")
"""What every file has of a matrix, beside its settings."""

OWN = "said_"

TURNS = 20
"""Of the solver, at most."""

BETA, NORM = 10.0, 0.7
"""How much errors are held to, and the power of them that is summed; the package does not let the first grow either."""

NARROWEST, STEEPEST = 1e-4, 2e4
"""A group's width at or below which it has no scale of its own, and the most codes to a unit."""

LEAST_HALF = 2.0**-14
"""The least number that float16 holds to all its bits."""

Entry = tuple[str, tuple[int, ...], torch.dtype]


@dataclass(frozen=True, slots=True)
class Hqq(Format):
    """Matrices as the package's files hold them.

    Attributes:
        bits: of a code; see :data:`BITS`.
        group: numbers that share a scale; None for all of an output's (axis 1) or of an input's (axis 0).
        axis: 1 where these are neighbours along the inputs, 0 where they lie across the outputs.
        compute: dtype that scales and zero points are kept as.
        as_float: whether packed codes are kept as numbers of that dtype.
        entries: what a file holds, as its headers say; none for a matrix that is yet to be made.
        fused: which outputs of a larger matrix these are; None for a matrix by itself.
    """

    bits: float
    group: int | None
    axis: int
    compute: torch.dtype
    as_float: bool = False
    entries: tuple[Entry, ...] = ()
    fused: Link | None = None

    @property
    def name(self) -> str:
        groups = "one group" if self.group is None else f"groups of {self.group}"
        return f"HQQ, {self.bits} bits, {groups} {'along the inputs' if self.axis else 'across the outputs'}"

    @property
    def packing(self) -> str:
        return BY_BITS[self.bits]

    def parts(self, outs: int, ins: int) -> Mapping[str, Part]:
        """None of them runs along the outputs."""
        if self.entries:
            return {own(name): _part(name, shape, dtype) for name, shape, dtype in self.entries}
        if self.fused is not None:
            raise ConfigError("a part of a fused matrix is known by its file alone", found=self.name)
        said = {name: (tuple(x.shape), x.dtype) for name, x in self.said(outs, ins).items()}
        return {own(name): _part(name, *laid) for name, laid in (self.layout(outs, ins) | said).items()}

    def fitted(self, held: Held) -> Hqq:
        """With the shapes of the fused matrix that it is a part of, which its own do not tell."""
        if self.fused is None:
            return self
        entries = ((name.removeprefix(OWN), tuple(x.shape), x.dtype) for name, x in held.items())
        return replace(self, entries=tuple(entries))

    def grouped(self, outs: int, ins: int) -> tuple[int, int]:
        """The shape of a matrix of groups.

        Raises:
            ConfigError: groups do not fill the matrix, or do not fill words.
        """
        size = self.group or (ins if self.axis else outs)
        if outs * ins % size:
            raise ConfigError(
                "groups do not fill a matrix",
                expected=f"a divisor of {outs * ins}",
                found=size,
                remedy="Name the layer in skip_modules, or choose another group_size.",
            )
        rows, columns = (outs * ins // size, size) if self.axis else (size, outs * ins // size)
        per, bits = PER[self.packing]
        if bits != 3 and rows % per:
            raise ConfigError("codes do not fill bytes", expected=f"groups in multiples of {per}", found=rows)
        return rows, columns

    def layout(self, outs: int, ins: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shapes and dtypes of the codes, the scales and the zero points.

        Raises:
            ConfigError: see :meth:`grouped`, or the packed codes cannot be seen as floats.
        """
        rows, columns = self.grouped(outs, ins)
        words = -(-rows // PER[self.packing][0])
        dtype = torch.int32 if self.packing == "3bit_32" else torch.uint8
        if self.as_float:
            if columns * dtype.itemsize % self.compute.itemsize:
                multiple = f"rows in multiples of {self.compute.itemsize} bytes"
                raise ConfigError("packed codes cannot be seen as floats", expected=multiple, found=columns)
            columns, dtype = columns * dtype.itemsize // self.compute.itemsize, self.compute
        count = (rows, 1) if self.axis else (1, outs * ins // rows)
        return {"W_q": ((words, columns), dtype), "scale": (count, self.compute), "zero": (count, self.compute)}

    def said(self, outs: int, ins: int) -> dict[str, Tensor]:
        """What a file says of a matrix beside its numbers: the package keeps each setting as a tensor."""
        size = self.group or (ins if self.axis else outs)
        word = "int32" if self.packing == "3bit_32" else "uint8"
        flags = {"view_as_float": self.as_float, "quant_scale": False, "quant_zero": False, "offload_meta": False,
                 "encoded_state_dict": True, "stores_quant_config": True, "channel_wise": True, "optimize": True,
                 "round_zero": self.bits == 4}  # fmt: skip
        texts = {"packing": self.packing, "unpack_view_dtype": f"torch.{word}", "compute_dtype": str(self.compute)}
        bits = torch.tensor(self.bits, dtype=torch.int32 if isinstance(self.bits, int) else torch.float32)
        return {
            "nbits": bits,
            "group_size": torch.tensor(size, dtype=torch.int32),
            "axis": torch.tensor(self.axis, dtype=torch.int32),
            "shape": torch.tensor([outs, ins]),
            **{name: torch.tensor(list(text.encode()), dtype=torch.uint8) for name, text in texts.items()},
            **{name: torch.tensor(int(flag), dtype=torch.uint8) for name, flag in flags.items()},
        }

    def numbers(self, held: Held, outs: int, ins: int) -> Tensor:
        codes = self._codes(held, ins).float()
        made = (codes - held["zero"].float()) * held["scale"].float()
        return self._own(made.reshape(-1, ins), outs)

    def matrix(self, held: Held, outs: int, ins: int) -> tuple[Matrix, Tensor | None]:
        """In codes where groups lie along the inputs; across the outputs every input has a scale, and floats are it."""
        if not self.axis:
            return Matrix.pack(self.numbers(held, outs, ins)), None
        codes = self._codes(held, ins)
        size = codes.shape[1]
        group = math.gcd(size, ins)
        codes, scales, zeros = (
            self._own(x.repeat_interleave(each, 0).view(-1, width), outs)
            for x, each, width in (
                (codes.reshape(-1, ins), 1, ins),
                (held["scale"].float(), size // group, ins // group),
                (held["zero"].float(), size // group, ins // group),
            )
        )
        wide = PER[self.packing][1] == 8
        kept = (codes.to(torch.int16) - 128).to(torch.int8) if wide else codes
        minima = scales * ((128 if wide else 0) - zeros)
        made = Codes(kept.contiguous(), scales.contiguous(), minima.contiguous(), None, group, 8 if wide else 4)
        # A minimum in a half is off by a 2048th of itself, which is at most fifteen steps: nothing beside a step.
        small = group < 128 and not wide and float(minima.abs().max()) <= 65504
        exact = small and bool((scales.half().float() == scales).all()) and float(scales.abs().min()) >= LEAST_HALF
        return (made.halved() if exact else made).matrix(), None

    def _codes(self, held: Held, ins: int) -> Tensor:
        """The matrix of groups, in codes. Shape: [groups, numbers], or across the outputs [numbers, groups]; uint8."""
        words = held["W_q"]
        words = words.view(torch.int32 if self.packing == "3bit_32" else torch.uint8) if self.as_float else words
        groups = held["scale"].numel()
        rows = groups if self.axis else words.shape[0] * PER[self.packing][0]
        rows = self.group if not self.axis and self.group else rows
        return unpacked(words, self.packing)[:rows]

    def _own(self, whole: Tensor, outs: int) -> Tensor:
        """The rows of a fused matrix that are this one's. Shape: [all, N] to [outs, N]."""
        if self.fused is None:
            return whole
        made = torch.empty((outs, whole.shape[1]), dtype=whole.dtype, device=whole.device)
        self.fused.of_ours(made).copy_(self.fused.of_theirs(whole))
        return made

    def encoded(self, weight: Tensor) -> dict[str, Tensor]:
        """The codes and zero points that the solver finds.

        Raises:
            ConfigError: the matrix cannot be parted so.
            WeightsError: a number is none.
        """
        outs, ins = weight.shape
        layout = self.layout(outs, ins)
        x = weight.detach().float().reshape(self.grouped(outs, ins))
        if not bool(torch.isfinite(x).all()):
            raise WeightsError("a weight is infinite or no number", expected="finite numbers")
        codes, scales, zeros = solved(x, round(2**self.bits - 1), self.axis, rounds=self.bits == 4)
        words = packed(codes, self.packing)
        held = {
            "W_q": words.view(self.compute) if self.as_float else words,
            "scale": scales.to(self.compute),
            "zero": zeros.to(self.compute),
        }
        assert all(tuple(held[name].shape) == shape for name, (shape, _) in layout.items())
        return held | {own(name): one for name, one in self.said(outs, ins).items()}


def own(name: str) -> str:
    """What a layer calls a tensor of the file's: others take ``compute_dtype`` of a layer for a dtype."""
    return name if name in MATRIX else OWN + name


def _part(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Part:
    return Part(shape, dtype, key=name)


def solved(x: Tensor, most: int, axis: int, *, rounds: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales and zero points of groups.

    Scales stay those that reach from a group's least number to its most; the zero point is moved so that the sum of
    errors to the power of 0.7 shrinks: in turns, errors are shrunk by the norm's proximal step, and the zero is the
    mean of what they leave. It ends where the mean error grows.

    Args:
        x: Shape: [groups, numbers] with ``axis`` 1, else [numbers, groups]; float32.
        most: the largest code.
        rounds: whether the zero point is whole at first.
    """
    low, high = x.amin(axis, keepdim=True), x.amax(axis, keepdim=True)
    width = high - low
    steps = torch.where(width.abs() <= NARROWEST, torch.ones_like(width), most / width).clamp(max=STEEPEST)
    zeros = -low * steps
    zeros = zeros.round() if rounds else zeros
    best = math.inf
    for _ in range(TURNS):
        codes = (x * steps + zeros).round().clamp_(0, most)
        wrong = x - (codes - zeros) / steps
        size = wrong.abs()
        error = float(size.mean())
        kept = (size - (1.0 / BETA) * size.pow(NORM - 1)).clamp_(min=0.0) * wrong.sign()
        zeros = (codes - (x - kept) * steps).mean(axis, keepdim=True)
        if error >= best:
            break
        best = error
    return (x * steps + zeros).round().clamp_(0, most), 1.0 / steps, zeros


def packed(codes: Tensor, packing: str) -> Tensor:
    """Codes as words, the first of as many equal parts in the highest bits. Shape: [rows, N] to [words, N]."""
    per, bits = PER[packing]
    dtype = torch.int32 if packing == "3bit_32" else torch.uint8
    codes = torch.nn.functional.pad(codes, (0, 0, 0, -codes.shape[0] % per)).to(dtype)
    made = torch.zeros((codes.shape[0] // per, codes.shape[1]), dtype=dtype, device=codes.device)
    for n, part in enumerate(codes.chunk(per)):
        made |= part << (bits * (per - 1 - n))
    return made


def unpacked(words: Tensor, packing: str) -> Tensor:
    """The same the other way; uint8."""
    per, bits = PER[packing]
    return torch.cat([(words >> (bits * (per - 1 - n)) & (2**bits - 1)).to(torch.uint8) for n in range(per)])
