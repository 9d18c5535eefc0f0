"""As what numbers matrices are packed, which may be, and when only torch's own operations will do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from omniform.core.host import is_traced
from omniform.native.library import library
from omniform.native.matrix import KINDS, Matrix
from omniform.transforms.widen import slow_dtypes
from omniform.weights.pages import is_mapped, release

LEAST = 64
"""Matrices of fewer rows or columns are left alone: there is nothing to win."""

SMALL = 2**20
"""Bytes of a matrix that may well be held twice."""

WORDS = 2**9
"""Words of eight bytes that are looked at in every matrix whose memory is no file's."""


class Precision(Protocol):
    """As what numbers a matrix is packed."""

    def packed(self, weight: Tensor) -> Matrix:
        """Pack a matrix of floats. Shape: [outs, ins]."""
        ...


@dataclass(frozen=True, slots=True)
class AsLoaded:
    """Every number as it is."""

    def packed(self, weight: Tensor) -> Matrix:
        return Matrix.pack(weight, release)


@dataclass(frozen=True, slots=True)
class Integers:
    """Whole numbers with a scale for every few inputs, made at load; the checkpoint's own stay beside them, mapped.

    Attributes:
        bits: 8 or 4.
        group: inputs that share a scale.
    """

    bits: int
    group: int = 32

    def packed(self, weight: Tensor) -> Matrix:
        return Matrix.quantize(weight, bits=self.bits, group=self.group, done=release)

    def nbytes(self, outs: int, ins: int) -> int:
        """Bytes of such a matrix, its scales being float16."""
        rows = -(-outs // 16) * 16
        codes, scales = rows * -(-ins // 8) * self.bits, rows * -(-ins // self.group) * 2
        return codes + scales + (64 if self.bits == 4 else 0)


INTEGERS: dict[str, Integers] = {"int8": Integers(8), "int4": Integers(4)}
"""What ``dtype=`` of ``from_pretrained`` means that is no dtype of torch's."""


def can_pack(weight: Tensor, precision: Precision) -> bool:
    """Whether a parameter is one for the kernels, which must have it where other numbers are asked for."""
    asked = not isinstance(precision, AsLoaded)
    return (
        library() is not None
        and type(weight) in (nn.Parameter, Tensor)
        and weight.device.type == "cpu"
        and weight.layout is torch.strided
        and weight.dtype in KINDS
        and weight.numel() > 0
        and (asked or weight.nbytes <= SMALL or weight.dtype in slow_dtypes() or is_mapped(weight))
    )


def held_bytes(weight: Tensor, precision: Precision, packed: int) -> int:
    """Bytes that a matrix, or a stack of them, takes in memory, packed or, as whole numbers, once it is used.

    Args:
        weight: Shape: [..., outs, ins].
        packed: bytes of what was packed of it; 0 if nothing was yet.
    """
    if not packed and isinstance(precision, Integers):
        outs, ins = weight.shape[-2:]
        packed = weight.numel() // (outs * ins) * precision.nbytes(outs, ins)
    if not packed:
        return weight.nbytes
    own = 0 if weight.device.type == "meta" or is_mapped(weight) else weight.nbytes
    return own + packed


def is_watched() -> bool:
    """Whether operations are recorded, counted or transformed now, so that only torch's own will do."""
    return (
        is_traced()
        or torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0  # derivatives are carried beside the values, without gradients too
    )
