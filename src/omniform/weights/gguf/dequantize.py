"""From blocks to float32, as ggml defines each type (https://github.com/ggml-org/ggml, ``ggml-quants.c``).

Every function takes blocks as bytes, Shape: [N, bytes of a block], and gives their numbers, Shape: [N, numbers]. The
arithmetic is ggml's to the last bit: products of scales first, then of codes, then the minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from omniform.core.errors import WeightsError
from omniform.weights.formats.codes import looked_up
from omniform.weights.gguf.types import READ, BlockType

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What the codes of IQ4_NL and IQ4_XS stand for."""

FP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""What the codes of MXFP4 stand for: twice the values of E2M1
(https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf), whose scales count half."""


def dequantize(raw: Tensor, kind: BlockType, where: str = "") -> Tensor:
    """A tensor's numbers.

    Args:
        raw: its bytes, rows of blocks. Shape: [..., bytes of a row]; uint8.
        kind: its type.
        where: the tensor's name, for errors.

    Returns:
        Shape: [..., numbers of a row]; float32 for packed types, the type's own dtype for others.

    Raises:
        WeightsError: the type is known by name only.
    """
    check_read(kind, where)
    if kind.dtype is not None:
        return raw.contiguous().view(kind.dtype)
    blocks = raw.reshape(-1, kind.nbytes)
    return BY_NAME[kind.name](blocks).view(*raw.shape[:-1], raw.shape[-1] // kind.nbytes * kind.numbers)


def check_read(kind: BlockType, where: str) -> None:
    """Raise :class:`WeightsError` for a type that is known by name only."""
    if not kind.read:
        raise WeightsError(
            "this GGUF type is not read",
            where=where,
            expected=", ".join(READ),
            found=kind.name,
            remedy="Take the file of another quantization.",
        )


def half(blocks: Tensor, start: int) -> Tensor:
    """One float16 of every block, as float32. Shape: [N, 1]."""
    return blocks[:, start : start + 2].view(torch.float16).float()


def nibbles(packed: Tensor) -> Tensor:
    """Codes of four bits, all low ones of a run before its high ones. Shape: [N, R, B] to [N, R, 2 * B]."""
    return torch.cat((packed & 15, packed >> 4), dim=-1)


def fields(packed: Tensor, bits: int) -> Tensor:
    """Codes of fewer bits, the lowest of all bytes first. Shape: [N, R, B] to [N, R, 8 / bits, B]."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device).view(-1, 1)
    return (packed[:, :, None, :] >> shifts) & ((1 << bits) - 1)


def _q4_0(b: Tensor) -> Tensor:
    return half(b, 0) * (nibbles(b[:, None, 2:])[:, 0].float() - 8)


def _q4_1(b: Tensor) -> Tensor:
    return half(b, 0) * nibbles(b[:, None, 4:])[:, 0].float() + half(b, 2)


def fives(b: Tensor, high: int) -> Tensor:
    """Codes of Q5_0 and Q5_1: four bits each, and the fifth bits together. Shape: [N, 32]; uint8."""
    # Bit j of the 32 belongs to the j-th number: byte by byte, the lowest bit first.
    fifth = fields(b[:, high : high + 4, None], 1).reshape(-1, 32)
    return nibbles(b[:, None, high + 4 :])[:, 0] | (fifth << 4)


def _q5_0(b: Tensor) -> Tensor:
    return half(b, 0) * (fives(b, 2).float() - 16)


def _q5_1(b: Tensor) -> Tensor:
    return half(b, 0) * fives(b, 4).float() + half(b, 2)


def _q8_0(b: Tensor) -> Tensor:
    return half(b, 0) * b[:, 2:].view(torch.int8).float()


def q2_codes(b: Tensor) -> Tensor:
    """Shape: [N, 16, 16]; uint8 from 0 to 3."""
    return fields(b[:, 16:80].view(-1, 2, 32), 2).reshape(-1, 16, 16)


def _q2_k(b: Tensor) -> Tensor:
    scale, minimum = half(b, 80) * (b[:, :16] & 15).float(), half(b, 82) * (b[:, :16] >> 4).float()
    return (scale[..., None] * q2_codes(b).float() - minimum[..., None]).view(-1, 256)


def q3_codes(b: Tensor) -> Tensor:
    """Shape: [N, 16, 16]; uint8 from 0 to 7, four too many."""
    low = fields(b[:, 32:96].view(-1, 2, 32), 2).reshape(-1, 256)
    third = fields(b[:, None, :32], 1).reshape(-1, 256)
    return (low | (third << 2)).view(-1, 16, 16)


def q3_scales(b: Tensor) -> Tensor:
    """The scales in a block. Shape: [N, 16]; float32."""
    low = nibbles(b[:, None, 96:104])[:, 0]
    high = fields(b[:, None, 104:108], 2).reshape(-1, 16)
    return half(b, 108) * ((low | (high << 4)).float() - 32)


def _q3_k(b: Tensor) -> Tensor:
    return (q3_scales(b)[..., None] * (q3_codes(b).float() - 4)).view(-1, 256)


def k_scales(b: Tensor) -> tuple[Tensor, Tensor]:
    """The scales and minima of Q4_K and Q5_K: eight of each, of six bits, in twelve bytes. Shape: [N, 8]; float32."""
    s = b[:, 4:16]
    scale = torch.cat((s[:, :4] & 63, (s[:, 8:] & 15) | ((s[:, :4] >> 6) << 4)), dim=1)
    minimum = torch.cat((s[:, 4:8] & 63, (s[:, 8:] >> 4) | ((s[:, 4:8] >> 6) << 4)), dim=1)
    return half(b, 0) * scale.float(), half(b, 2) * minimum.float()


def _q4_k(b: Tensor) -> Tensor:
    scale, minimum = k_scales(b)
    codes = nibbles(b[:, 16:].view(-1, 4, 32)).view(-1, 8, 32)
    return (scale[..., None] * codes.float() - minimum[..., None]).view(-1, 256)


def q5_codes(b: Tensor) -> Tensor:
    """Shape: [N, 8, 32]; uint8 from 0 to 31."""
    fifth = fields(b[:, None, 16:48], 1)[:, 0]
    return nibbles(b[:, 48:].view(-1, 4, 32)).view(-1, 8, 32) | (fifth << 4)


def _q5_k(b: Tensor) -> Tensor:
    scale, minimum = k_scales(b)
    return (scale[..., None] * q5_codes(b).float() - minimum[..., None]).view(-1, 256)


def q6_codes(b: Tensor) -> Tensor:
    """Shape: [N, 16, 16]; uint8 from 0 to 63, 32 too many."""
    low = nibbles(b[:, :128].view(-1, 2, 64)).view(-1, 256)
    high = fields(b[:, 128:192].view(-1, 2, 32), 2).reshape(-1, 256)
    return (low | (high << 4)).view(-1, 16, 16)


def q6_scales(b: Tensor) -> Tensor:
    """Shape: [N, 16]; float32."""
    return half(b, 208) * b[:, 192:208].view(torch.int8).float()


def _q6_k(b: Tensor) -> Tensor:
    return (q6_scales(b)[..., None] * (q6_codes(b).float() - 32)).view(-1, 256)


def _iq4_nl(b: Tensor) -> Tensor:
    return half(b, 0) * looked_up(nibbles(b[:, None, 2:])[:, 0], IQ4)


def iq4_scales(b: Tensor) -> Tensor:
    """Shape: [N, 8]; float32."""
    low = fields(b[:, 4:8, None], 4).reshape(-1, 8)
    high = fields(b[:, 2:4, None], 2).reshape(-1, 8)
    return half(b, 0) * ((low | (high << 4)).float() - 32)


def _iq4_xs(b: Tensor) -> Tensor:
    codes = nibbles(b[:, 8:].view(-1, 8, 16))
    return (iq4_scales(b)[..., None] * looked_up(codes, IQ4)).view(-1, 256)


def mx_scales(b: Tensor) -> Tensor:
    """Half of two to the power that a block's first byte says. Shape: [N, 1]; float32."""
    exponent = b[:, :1].int()
    # Below the smallest power that is normal, the bits of the fraction are set.
    bits = torch.where(exponent < 2, 0x00200000 << exponent.clamp(max=2), (exponent - 1) << 23)
    return bits.view(torch.float32)


def _mxfp4(b: Tensor) -> Tensor:
    return mx_scales(b) * looked_up(nibbles(b[:, None, 1:])[:, 0], FP4)


BY_NAME: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0,
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs, "MXFP4": _mxfp4,
}  # fmt: skip
