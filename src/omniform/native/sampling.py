"""The scores of a large vocabulary in order, as torch's own stable sort has them, in a quarter of its time."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from omniform.native.library import library
from omniform.native.matrix import rows_of

WORTH = 4096
"""Numbers of a row from which on the library is asked."""


def ascending(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x.sort(dim=-1, stable=True)``: to the last bit, ties and NaN included. Shape: [..., V] to [..., V] each."""
    plain = type(x) is Tensor and x.dtype is torch.float32 and x.device.type == "cpu" and x.dim() == 2
    by = library() if plain and x.shape[1] >= WORTH and not torch.compiler.is_compiling() else None
    if by is None or (torch.is_grad_enabled() and x.requires_grad):
        found = x.sort(dim=-1, stable=True)
        return found.values, found.indices
    rows = x if x.stride(1) == 1 else x.contiguous()
    values = torch.empty(x.shape, dtype=torch.float32, device="cpu")
    places = torch.empty(x.shape, dtype=torch.int64, device="cpu")
    by.call("of_sort", ctypes.byref(rows_of(rows)), ctypes.byref(rows_of(values)), places.data_ptr())
    return values, places
