"""From float32 to blocks, the inverse of :mod:`omniform.weights.gguf.dequantize`.

Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and MXFP4 are rounded as ggml's reference does, to the last bit
(https://github.com/ggml-org/ggml, ``ggml-quants.c``); the types whose scales are searched for are in
:mod:`omniform.weights.gguf.search`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from omniform.core.errors import WeightsError
from omniform.weights.gguf import search
from omniform.weights.gguf.bits import fives_packed, half_bytes, nibbles_packed
from omniform.weights.gguf.dequantize import check_read
from omniform.weights.gguf.types import BlockType

AT_ONCE: Final = 1 << 18
"""So many numbers are quantized at a time: what is made on the way stays in a core's cache."""


def quantize(x: Tensor, kind: BlockType, where: str = "") -> Tensor:
    """A matrix in the blocks of a type.

    Args:
        x: its numbers. Shape: [..., width]; a float.
        kind: the type; a float's, or one whose blocks divide the width.
        where: the tensor's name, for errors.

    Returns:
        Shape: [..., bytes of a row]; uint8.

    Raises:
        WeightsError: the type is not written, its blocks do not divide the width, a number is none or is infinite, or
            the type cannot hold it.
    """
    check_read(kind, where)
    if x.shape[-1] % kind.numbers:
        raise WeightsError(
            f"rows of {kind.name} are whole blocks",
            where=where,
            expected=f"a multiple of {kind.numbers} numbers",
            found=str(x.shape[-1]),
        )
    if kind.dtype is None and kind.name not in BY_NAME:
        raise WeightsError("this type is not written", where=where, expected=", ".join(BY_NAME), found=kind.name)
    if kind.dtype is not None:
        made = x.to(kind.dtype).contiguous()
        if kind.dtype.is_floating_point and not bool(made.isfinite().all()):
            _refuse(x, kind, where)
        return made.view(torch.uint8).view(*x.shape[:-1], x.shape[-1] * kind.nbytes)
    blocks = x.reshape(-1, kind.numbers)
    made = torch.empty(blocks.shape[0], kind.nbytes, dtype=torch.uint8)
    step = max(1, AT_ONCE // kind.numbers)
    for first in range(0, blocks.shape[0], step):
        part = blocks[first : first + step].float()
        if not bool(part.isfinite().all()):
            _refuse(part, kind, where)
        made[first : first + step] = BY_NAME[kind.name](part)
    return made.view(*x.shape[:-1], x.shape[-1] // kind.numbers * kind.nbytes)


def _refuse(x: Tensor, kind: BlockType, where: str) -> None:
    worst = float(x.float().nan_to_num(nan=torch.inf).abs().max())
    finite = bool(x.isfinite().all())
    raise WeightsError(
        f"{kind.name} cannot hold this" if finite else "there are numbers that are none, or infinite",
        where=where,
        found=f"a number of size {worst:.3g}" if finite else "NaN or infinity",
        remedy="Write BF16 or F32." if finite else "Look at the checkpoint: this model cannot answer.",
    )


def _inverse(d: Tensor) -> Tensor:
    return torch.where(d == 0, torch.zeros_like(d), 1 / d)


def _furthest(x: Tensor) -> Tensor:
    """Of every block the number that is furthest from zero, the first of several. Shape: [N, 1]."""
    return x.gather(1, x.abs().argmax(1, keepdim=True))


def _q4_0(x: Tensor) -> Tensor:
    d = _furthest(x) / -8
    codes = (x * _inverse(d) + 8.5).to(torch.uint8).clamp(max=15)
    return torch.cat((half_bytes(d), nibbles_packed(codes[:, None])[:, 0]), 1)


def _q5_0(x: Tensor) -> Tensor:
    d = _furthest(x) / -16
    codes = (x * _inverse(d) + 16.5).to(torch.uint8).clamp(max=31)
    return torch.cat((half_bytes(d), fives_packed(codes)), 1)


def _spread(x: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    least = x.amin(1, keepdim=True)
    d = (x.amax(1, keepdim=True) - least) / most
    return d, least, ((x - least) * _inverse(d) + 0.5).to(torch.uint8).clamp(max=most)


def _q4_1(x: Tensor) -> Tensor:
    d, least, codes = _spread(x, 15)
    return torch.cat((half_bytes(d), half_bytes(least), nibbles_packed(codes[:, None])[:, 0]), 1)


def _q5_1(x: Tensor) -> Tensor:
    d, least, codes = _spread(x, 31)
    return torch.cat((half_bytes(d), half_bytes(least), fives_packed(codes)), 1)


def _q8_0(x: Tensor) -> Tensor:
    d = x.abs().amax(1, keepdim=True) / 127
    scaled = x * _inverse(d)
    whole = scaled.abs().floor()  # halves are rounded away from zero, as torch.round does not
    codes = ((whole + ((scaled.abs() - whole) >= 0.5)) * scaled.sign()).to(torch.int8)
    return torch.cat((half_bytes(d), codes.view(torch.uint8)), 1)


_FP4_MIDDLES: Final = (0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0)
"""Between the sizes that codes of MXFP4 stand for."""


def _mxfp4(x: Tensor) -> Tensor:
    most = x.abs().amax(1, keepdim=True)
    _, above = torch.frexp(most)  # most is a half up to one, times two to this power
    power = torch.where(most > 0, above - 1 - 2 + 127, 0).clamp(0, 254)
    sizes = torch.ldexp(x.abs(), 128 - power)
    codes = torch.bucketize(sizes, torch.tensor(_FP4_MIDDLES)).to(torch.uint8)
    codes |= ((x < 0) & (codes > 0)).to(torch.uint8) << 3
    return torch.cat((power.to(torch.uint8), nibbles_packed(codes[:, None])[:, 0]), 1)


BY_NAME: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "MXFP4": _mxfp4,
    **search.BY_NAME,
}  # fmt: skip
"""From float32, Shape: [N, numbers of a block], to bytes, Shape: [N, bytes of a block]."""
