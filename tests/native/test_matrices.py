"""Packed matrices of floats: packed and unpacked bit for bit, products beside float64, rows beside any others alike."""

from __future__ import annotations

import pytest
import torch

from omniform.native import matrix
from omniform.native.abi import Flag
from omniform.native.library import library
from omniform.native.matrix import Matrix

pytestmark = pytest.mark.skipif(library() is None, reason="no native kernels here")

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
SIZES = ((16, 8), (17, 7), (1, 1), (100, 300), (129, 1024), (5, 513), (64, 2))
ROWS = (1, 2, 3, 4, 5, 6, 7, 13, 24, 25, 250)


def _inputs(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As a matrix of this dtype is multiplied by: processors with dot products of bf16 round inputs to that."""
    return x.bfloat16().float() if dtype == torch.bfloat16 else x


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products(dtype: torch.dtype, size: tuple[int, int]) -> None:
    weight = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)
    matrix = Matrix.pack(weight)
    assert torch.equal(matrix.unpack(), weight)
    bias = torch.randn(size[0])
    x = _inputs(torch.randn(max(ROWS), size[1]), dtype)
    expected = x.double() @ weight.double().T + bias.double()
    together = matrix.multiply(x, bias=bias)
    bound = 1e-6 * (x.double().abs() @ weight.double().abs().T + bias.abs()).max()
    assert (together - expected).abs().max() <= bound
    for rows in ROWS:
        assert torch.equal(matrix.multiply(x[:rows], bias=bias), together[:rows])
    as_it_is = torch.randn(9, size[1])
    exact = matrix.multiply(as_it_is, bias=bias, flags=Flag.EXACT)
    assert torch.equal(exact, Matrix.pack(weight.float()).multiply(as_it_is, bias=bias))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_threads_change_nothing(dtype: torch.dtype) -> None:
    matrix, x, before = Matrix.pack(torch.randn(300, 700).to(dtype)), torch.randn(40, 700), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = matrix.multiply(x)
        torch.set_num_threads(2)
        assert torch.equal(matrix.multiply(x), alone)
    finally:
        torch.set_num_threads(before)


EIGHTHS = (torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.mark.parametrize("dtype", EIGHTHS, ids=str)
def test_every_number_of_eight_bits(dtype: torch.dtype) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(dtype)[:, None]
    matrix = Matrix.pack(every)
    assert torch.equal(matrix.unpack().view(torch.uint8), every.view(torch.uint8))
    for rows in (1, 8):
        y = matrix.multiply(torch.ones(rows, 1))
        assert torch.equal(y.nan_to_num(-12345.0), every.float().T.nan_to_num(-12345.0).expand(rows, -1))
        assert torch.equal(y.isnan(), every.float().isnan().T.expand(rows, -1))
        assert torch.equal(y.isinf(), every.float().isinf().T.expand(rows, -1))


@pytest.mark.parametrize("dtype", EIGHTHS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products_of_eight_bits(dtype: torch.dtype, size: tuple[int, int]) -> None:
    weight = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)
    matrix, x = Matrix.pack(weight), torch.randn(31, size[1])
    assert torch.equal(matrix.unpack().view(torch.uint8), weight.view(torch.uint8))
    together = matrix.multiply(x)
    assert torch.equal(together, Matrix.pack(weight.float()).multiply(x))
    for rows in ROWS[:9]:
        assert torch.equal(matrix.multiply(x[:rows]), together[:rows])


@pytest.mark.parametrize("rows", [1, 4, 30])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_hostile_floats(dtype: torch.dtype, rows: int) -> None:
    weight = torch.randn(33, 100, generator=torch.Generator().manual_seed(2)).to(dtype)
    for at, bad in enumerate((float("inf"), float("nan"), torch.finfo(dtype).max, torch.finfo(dtype).tiny / 4)):
        weight[at, 50 + at] = bad
    x = torch.randn(rows, 100, generator=torch.Generator().manual_seed(3))
    x[0] *= 1e-38  # subnormal, most of them
    x = _inputs(x, dtype)
    y, expected = Matrix.pack(weight).multiply(x), x.double() @ weight.double().T
    assert torch.equal(y[:, :2].isnan(), expected[:, :2].isnan())
    assert torch.equal(y[:, 0].isinf(), expected[:, 0].isinf())
    bound = 1e-5 * (x.double().abs() @ weight.double().abs().T) + 1e-43
    if dtype == torch.bfloat16 and library().variant.endswith("bf16"):  # subnormal numbers are zeros to its instruction
        bound += 1.2e-38 * weight.double().abs().sum(1)
    fine = expected.abs() < 1e38
    assert ((y - expected).abs()[fine] <= bound[fine]).all()
    clean = torch.randn(1, 100)
    assert torch.equal(
        Matrix.pack(weight[4:]).multiply(torch.cat([x, clean]))[-1:], Matrix.pack(weight[4:]).multiply(clean)
    )


@pytest.mark.parametrize(("outs", "ins"), [(100, 70), (16, 256), (33, 8), (1, 1), (160, 96)])
def test_packed_in_parts_it_is_the_same(outs, ins, monkeypatch):
    """However many rows are packed at a time; told of each row once, in order."""
    weight = torch.randn(outs, ins, generator=torch.Generator().manual_seed(0)).bfloat16()
    makers = [
        lambda done: Matrix.pack(weight, done),
        lambda done: Matrix.quantize(weight, bits=8, done=done),
        lambda done: Matrix.quantize(weight, bits=4, minima=True, done=done),
        lambda done: Matrix.quantize(weight, bits=4, group=8, done=done),
        lambda done: Matrix.pack(weight.t().contiguous().t(), done),
    ]
    for make in makers:
        whole, told = make(lambda rows: None), []
        monkeypatch.setattr(matrix, "AT_ONCE", 1)
        parts = make(lambda rows: told.append(len(rows)))  # noqa: B023
        monkeypatch.undo()
        assert sum(told) == outs and (len(told) == -(-outs // 16) or make is makers[-1])
        for one, other in zip(whole.kept, parts.kept, strict=True):
            assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("bits", [8, 4])
def test_matrices_below_one_another(bits):
    weight = torch.randn(83, 96, generator=torch.Generator().manual_seed(0))
    whole = Matrix.quantize(weight, bits=bits)
    parts = (Matrix.quantize(part, bits=bits) for part in torch.split(weight, 32))
    joined = Matrix.below_one_another(83, parts)
    assert (joined.outs, joined.ins, joined.kind) == (83, 96, whole.kind)
    assert torch.equal(joined.unpack(), whole.unpack())
    x = torch.randn(3, 96)
    assert torch.equal(joined.multiply(x), whole.multiply(x))
