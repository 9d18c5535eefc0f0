"""Codes of few bits into bytes: the inverses of what :mod:`omniform.weights.gguf.dequantize` unpacks."""

from __future__ import annotations

import torch
from torch import Tensor


def half_bytes(x: Tensor) -> Tensor:
    """One float16 of every block. Shape: [N, 1] to [N, 2]; uint8."""
    return x.half().view(torch.uint8)


def nibbles_packed(codes: Tensor) -> Tensor:
    """Codes of four bits, the first half of a run in low ones. Shape: [N, R, 2 * B] to [N, R, B]; uint8."""
    low, high = codes.chunk(2, -1)
    return (low & 15) | ((high & 15) << 4)


def fields_packed(codes: Tensor, bits: int) -> Tensor:
    """Codes of fewer bits, the first of all bytes lowest. Shape: [N, R, 8 / bits, B] to [N, R, B]; uint8."""
    made = codes[:, :, 0] & ((1 << bits) - 1)
    for i in range(1, 8 // bits):
        made = made | ((codes[:, :, i] & ((1 << bits) - 1)) << (bits * i))
    return made


def fives_packed(codes: Tensor) -> Tensor:
    """Codes of Q5_0 and Q5_1: their fifth bits, then the others. Shape: [N, 32] to [N, 20]; uint8."""
    fifth = fields_packed((codes >> 4).view(-1, 4, 8, 1), 1)[:, :, 0]
    return torch.cat((fifth, nibbles_packed(codes[:, None])[:, 0]), 1)
