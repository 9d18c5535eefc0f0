"""Packed matrices: the layout that the kernels read, and products with them."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from omniform.native import abi
from omniform.native.abi import Flag, Kind
from omniform.native.library import Library, NativeError, library

KINDS: dict[torch.dtype, Kind] = {
    torch.float32: Kind.F32,
    torch.bfloat16: Kind.BF16,
    torch.float16: Kind.F16,
}
"""Floats that rows and matrices are made of."""

PLAIN = Flag(0)

ALIGNED = 64
"""Bytes at whose multiples codes begin: a line of the cache, and the widest register."""


def rows_of(x: Tensor) -> abi.Rows:
    """Rows as the library takes them. Shape: [rows, width], neighbours within a row side by side."""
    assert x.dim() == 2 and (x.stride(1) == 1 or x.shape[1] < 2), "rows lie side by side"
    return abi.Rows(x.data_ptr(), x.shape[0], x.shape[1], x.stride(0), KINDS[x.dtype], 0)


def aligned(size: int) -> Tensor:
    """So many bytes, of which the first lies at a multiple of :data:`ALIGNED`."""
    whole = torch.empty(size + ALIGNED, dtype=torch.uint8, device="cpu")
    skip = -whole.data_ptr() % ALIGNED
    return whole[skip : skip + size]


class Matrix:
    """A matrix in panels of sixteen outputs; immutable.

    Attributes:
        outs: how many outputs it has.
        ins: how many inputs.
        kind: its layout.
        c: what the library is given.
    """

    __slots__ = ("_kept", "_library", "c", "ins", "kind", "outs")

    def __init__(self, c: abi.PackedMatrix, kept: tuple[Tensor, ...], by: Library) -> None:
        self.c, self._kept, self._library = c, kept, by
        self.outs, self.ins, self.kind = int(c.outs), int(c.ins), Kind(c.kind)

    @classmethod
    def pack(cls, weight: Tensor) -> Matrix:
        """Pack a matrix of floats, every number as it is. Shape: [outs, ins].

        Raises:
            NativeError: there is no library, or no memory.
        """
        by = library()
        if by is None:
            raise NativeError("there are no native kernels here")
        weight = weight.detach()
        kind, (outs, ins) = KINDS[weight.dtype], weight.shape
        if weight.stride(1) != 1:
            weight = weight.contiguous()
        codes = aligned(by.c.of_packed_bytes(kind, outs, ins))
        by.call("of_pack", ctypes.byref(rows_of(weight)), kind, codes.data_ptr())
        return cls(abi.PackedMatrix(codes.data_ptr(), None, None, None, outs, ins, ins, kind, 0), (codes,), by)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(x.nbytes for x in self._kept)

    def unpack(self) -> Tensor:
        """The matrix of floats that was packed, bit for bit. Shape: [outs, ins]."""
        dtype = next(dtype for dtype, kind in KINDS.items() if kind == self.kind)
        out = torch.empty(self.outs, self.ins, dtype=dtype, device="cpu")
        self._library.call("of_unpack", ctypes.byref(self.c), ctypes.byref(rows_of(out)))
        return out

    def multiply(
        self, x: Tensor, *, bias: Tensor | None = None, out: Tensor | None = None, flags: Flag = PLAIN
    ) -> Tensor:
        """``x @ matrix.T + bias``, each number one chain of additions in the order of the inputs.

        Args:
            x: Shape: [rows, ins], of any kind of floats.
            bias: Shape: [outs], float32.
            out: where the result goes. Shape: [rows, outs]; made, in the dtype of ``x``, by default.
            flags: see :class:`~omniform.native.abi.Flag`.
        """
        assert x.shape[-1] == self.ins, (x.shape, self.ins)
        if x.stride(1) != 1:
            x = x.contiguous()
        if out is None:
            out = torch.empty(x.shape[0], self.outs, dtype=x.dtype, device="cpu")
        assert out.shape == (x.shape[0], self.outs), (out.shape, x.shape, self.outs)
        added = None if bias is None else ctypes.cast(bias.data_ptr(), ctypes.POINTER(ctypes.c_float))
        self._library.call(
            "of_matmul", ctypes.byref(self.c), ctypes.byref(rows_of(x)), added, ctypes.byref(rows_of(out)), flags
        )
        return out
