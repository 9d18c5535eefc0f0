"""A few sums that a library has to get right before it is believed.

Variants for instructions that no machine of ours has are compiled from the same sources as the others, and tested by
standing in for the instructions; this is the last look, on the machine that has them. It takes some milliseconds.
"""

from __future__ import annotations

from ctypes import byref

import torch
from torch import Tensor

from omniform.native import abi
from omniform.native.abi import Kind
from omniform.native.library import Library
from omniform.native.matrix import KINDS, aligned, rows_of

OUTS, INS, ROWS, GROUP = 37, 200, 15, 8
"""Of the matrices: odd enough to have remainders, and larger than a tile of rows."""

OFF: dict[Kind, float] = {Kind.F32: 1e-5, Kind.F16: 1e-5, Kind.BF16: 1e-2, Kind.I8: 2e-3, Kind.N4: 2e-3}
"""How far a product may be off, beside the largest: some round rows to bfloat16, integers to twelve bits."""


def disproved(by: Library) -> str:
    """What a library gets wrong; empty where nothing is."""
    generator = torch.Generator().manual_seed(16)
    x = torch.randn(ROWS, INS, generator=generator)
    weight = torch.randn(OUTS, INS, generator=generator)
    for dtype, kind in KINDS.items():
        rounded = weight.to(dtype)
        codes = aligned(by.c.of_packed_bytes(kind, OUTS, INS))
        by.call("of_pack", byref(rows_of(rounded)), kind, codes.data_ptr())
        matrix = abi.PackedMatrix(codes.data_ptr(), None, None, None, OUTS, INS, INS, kind, 0)
        if wrong := _wrong(by, matrix, x, rounded.double()):
            return wrong
    for kind in (Kind.I8, Kind.N4):
        codes = aligned(by.c.of_packed_bytes(kind, OUTS, INS))
        scales, minima = (aligned((OUTS + 15) // 16 * 16 * (INS // GROUP) * 4) for _ in range(2))
        low = minima.data_ptr() if kind is Kind.N4 else None
        matrix = abi.PackedMatrix(codes.data_ptr(), scales.data_ptr(), low, None, OUTS, INS, GROUP, kind, Kind.F32)
        by.call("of_quantize", byref(rows_of(weight)), byref(matrix))
        made = torch.empty(OUTS, INS, device="cpu")
        by.call("of_unpack", byref(matrix), byref(rows_of(made)))
        if (made - weight).abs().max() > (0.03 if kind is Kind.I8 else 0.3):
            return f"{kind.name} matrices of other numbers than they are to hold"
        if wrong := _wrong(by, matrix, x, made.double()):
            return wrong
    return _wrong_between(by, x)


def _wrong(by: Library, matrix: abi.PackedMatrix, x: Tensor, weight: Tensor) -> str:
    kind = Kind(matrix.kind)
    exact = x.double() @ weight.T
    together = torch.empty(ROWS, OUTS, device="cpu")
    by.call("of_matmul", byref(matrix), byref(rows_of(x)), None, byref(rows_of(together)), 0)
    if not bool(((together - exact).abs() <= OFF[kind] * exact.abs().max()).all()):
        return f"products with {kind.name} matrices wrongly (by {float((together - exact).abs().max()):.3g})"
    for count in range(1, 5):
        few = torch.empty(count, OUTS, device="cpu")
        by.call("of_matmul", byref(matrix), byref(rows_of(x[:count])), None, byref(rows_of(few)), 0)
        if not torch.equal(few, together[:count]):
            return f"a row's product with a {kind.name} matrix otherwise beside other rows"
    return ""


def _wrong_between(by: Library, x: Tensor) -> str:
    """Of what is computed between products: a function made of polynomials, and sums along a row."""
    found = torch.empty_like(x)
    by.call("of_softmax", byref(rows_of(x)), byref(rows_of(found)))
    if not torch.allclose(found, x.softmax(-1), rtol=1e-5, atol=1e-7):
        return "a softmax wrongly"
    by.call("of_activate", abi.ACTS["silu"], byref(rows_of(x)), byref(rows_of(found)))
    return "" if torch.allclose(found, torch.nn.functional.silu(x), rtol=1e-5, atol=1e-6) else "an activation wrongly"
