"""Packed matrices of floats: packed and unpacked bit for bit, products beside float64, rows beside any others alike."""

from __future__ import annotations

import pytest
import torch

from omniform.native.library import library
from omniform.native.matrix import Matrix

pytestmark = pytest.mark.skipif(library() is None, reason="no native kernels here")

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
SIZES = ((16, 8), (17, 7), (1, 1), (100, 300), (129, 1024), (5, 513), (64, 2))
ROWS = (1, 2, 3, 4, 5, 6, 7, 13, 24, 250)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products(dtype: torch.dtype, size: tuple[int, int]) -> None:
    weight = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)
    matrix = Matrix.pack(weight)
    assert torch.equal(matrix.unpack(), weight)
    bias = torch.randn(size[0])
    x = torch.randn(max(ROWS), size[1])
    expected = x.double() @ weight.double().T + bias.double()
    together = matrix.multiply(x, bias=bias)
    bound = 1e-6 * (x.double().abs() @ weight.double().abs().T + bias.abs()).max()
    assert (together - expected).abs().max() <= bound
    for rows in ROWS:
        assert torch.equal(matrix.multiply(x[:rows], bias=bias), together[:rows])


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
