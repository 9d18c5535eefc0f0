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
from omniform.weights.pages import is_mapped

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
        return Matrix.pack(weight)


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
        return Matrix.quantize(weight, bits=self.bits, group=self.group)


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


def is_watched() -> bool:
    """Whether operations are recorded, counted or transformed now, so that only torch's own will do."""
    return (
        is_traced()
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0  # derivatives are carried beside the values, without gradients too
    )
