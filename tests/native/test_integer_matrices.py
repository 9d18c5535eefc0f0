"""Matrices of integers: made of floats or packed from a file's codes, beside float64 and beside any other rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from omniform.native.abi import Flag, Kind
from omniform.native.library import library
from omniform.native.matrix import Matrix

pytestmark = pytest.mark.skipif(library() is None, reason="no native kernels here")

NF4 = (
    *(-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)
MXFP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
FP4 = tuple(sign * n / 192 for sign in (1.0, -1.0) for n in (0, 1, 128, 192, 64, 96, 32, 48))
IQ4 = (-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0)
TABLES = {"nf4": NF4, "mxfp4": MXFP4, "fp4": FP4, "iq4": IQ4}

SIZES = ((16, 8), (17, 7), (1, 1), (100, 300), (33, 1024), (5, 513), (64, 2), (130, 1304))
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 13, 24, 25, 38)
GROUPS = (8, 16, 32, 64, 128, 256, 512, 1 << 20)


def _coded(size: tuple[int, int], group: int, bits: int, table: Sequence[float] | None, minima: bool) -> Matrix:
    """Any codes at all, with scales of either sign."""
    g = torch.Generator().manual_seed(size[0] * 1000 + group + bits)
    low, high, dtype = (-128, 128, torch.int8) if bits == 8 else (0, 16, torch.uint8)
    codes = torch.randint(low, high, size, generator=g).to(dtype)
    shape = (size[0], -(-size[1] // group))
    kind = torch.float16 if group % 64 else torch.float32
    scales = torch.randn(shape, generator=g).to(kind)
    lows = torch.randn(shape, generator=g).to(kind) if minima else None
    matrix = Matrix.quantized(codes, scales, minima=lows, table=table, group=group)
    means = codes.float() if table is None else torch.tensor(table)[codes.long()]
    each = torch.arange(size[1]) // group
    expected = means.double() * scales[:, each].double()
    if lows is not None:
        expected += lows[:, each].double()
    assert torch.equal(matrix.unpack(), expected.float()), "what it holds is not what it was made of"
    return matrix


def _made(bits: int, minima: bool) -> Callable[[tuple[int, int], int], Matrix]:
    def make(size: tuple[int, int], group: int) -> Matrix:
        weight = torch.randn(size, generator=torch.Generator().manual_seed(3))
        return Matrix.quantize(weight, bits=bits, group=group, minima=minima)

    return make


KINDS: dict[str, Callable[[tuple[int, int], int], Matrix]] = {
    "int8": _made(8, False),
    "int4": _made(4, False),
    "int4 with minima": _made(4, True),
    "int8 coded": lambda size, group: _coded(size, group, 8, None, False),
    "int8 coded with minima": lambda size, group: _coded(size, group, 8, None, True),
    "int4 coded": lambda size, group: _coded(size, group, 4, None, False),
    "int4 coded with minima": lambda size, group: _coded(size, group, 4, None, True),
    "nf4 with minima": lambda size, group: _coded(size, group, 4, NF4, True),
    **{
        name: lambda size, group, table=table: _coded(size, group, 4, table, False)  # type: ignore[misc]
        for name, table in TABLES.items()
    },
}


def _bound(matrix: Matrix, x: Tensor) -> Tensor:
    """What 12 bits of each row and 13 of a table may lose. Shape: [rows, outs]."""
    weight = matrix.unpack().double().abs()
    most = x.double().abs().amax(1, keepdim=True)
    rounding = most * weight.sum(1) * (0.5 / 2047 + 1e-6)
    if matrix.c.table and matrix.kind is Kind.N4:  # the greatest of a group may stand for no code of it
        rounding += x.double().abs().sum(1, keepdim=True) * weight.amax() * 12 / 8190
    return rounding


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products(name: str, size: tuple[int, int]) -> None:
    groups = GROUPS if size[1] in (300, 1304) else (32, 1 << 20)
    x = torch.randn(max(ROWS), size[1], generator=torch.Generator().manual_seed(5))
    bias = torch.randn(size[0])
    for group in groups:
        matrix = KINDS[name](size, group)
        together = matrix.multiply(x, bias=bias)
        expected = x.double() @ matrix.unpack().double().T + bias.double()
        assert ((together - expected).abs() <= _bound(matrix, x) + 1e-6 * bias.abs()).all(), group
        for rows in ROWS:
            assert torch.equal(matrix.multiply(x[:rows], bias=bias), together[:rows]), (group, rows)
        exact = matrix.multiply(x, bias=bias, flags=Flag.EXACT)
        assert torch.equal(exact, Matrix.pack(matrix.unpack()).multiply(x, bias=bias))
        assert torch.equal(matrix.multiply(x[:1], bias=bias, flags=Flag.EXACT), exact[:1])


@pytest.mark.parametrize("name", KINDS)
def test_threads_change_nothing(name: str) -> None:
    matrix, x, before = KINDS[name]((300, 700), 32), torch.randn(40, 700), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = matrix.multiply(x)
        torch.set_num_threads(2)
        assert torch.equal(matrix.multiply(x), alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["int8", "int4", "int4 with minima", "nf4"])
def test_rows_of_every_kind(name: str) -> None:
    matrix = KINDS[name]((40, 96), 32)
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.randn(9, 96).to(dtype)
        out = torch.empty(9, 40, dtype=torch.float32)
        assert torch.equal(matrix.multiply(x, out=out), matrix.multiply(x.float()))
        assert torch.equal(matrix.multiply(x), out.to(dtype))


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("name", KINDS)
def test_hostile_rows(name: str, rows: int) -> None:
    matrix = KINDS[name]((33, 264), 32)
    usual = torch.randn(264, generator=torch.Generator().manual_seed(7))
    hostile = {
        "zero": torch.zeros(264),
        "minus zero": torch.full((264,), -0.0),
        "great": usual * 1e33,
        "greatest": torch.full((264,), torch.finfo(torch.float32).max / 2**20),
        "small": usual * 1e-30,
        "smaller": usual * 1e-36,
        "subnormal": usual * 1e-41,
        "least": torch.full((264,), 1e-45),
        "one": torch.nn.functional.one_hot(torch.tensor(263), 264) * 3.0,
    }
    together = matrix.multiply(torch.stack([usual, *hostile.values()]).repeat(4, 1)[:40])
    for n, (what, row) in enumerate(hostile.items(), 1):
        x = torch.stack([row, *[usual] * (rows - 1)])
        y = matrix.multiply(x)
        assert torch.equal(y[0], together[n]), what
        assert torch.equal(y[1:], together[:1].expand(rows - 1, -1)), what
        expected = row.double() @ matrix.unpack().double().T
        if "zero" in what:
            assert (y[0] == 0).all()
        # A scale that is subnormal has lost digits: by at most half of the smallest number at each of 2047 steps.
        lost = 2.0**-149 * 2048 * matrix.unpack().double().abs().sum(1)
        assert ((y[0] - expected).abs() <= _bound(matrix, x)[0] + lost).all(), what
    for bad in (float("inf"), float("-inf"), float("nan")):
        spoilt = usual.clone()
        spoilt[200] = bad
        x = torch.stack([spoilt, *[usual] * (rows - 1)])
        y = matrix.multiply(x)
        assert y[0].isnan().all()
        assert torch.equal(y[1:], together[:1].expand(rows - 1, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("ins", [33, 256, 500])
def test_bytes_lie_within_half_a_step(dtype: torch.dtype, ins: int) -> None:
    g = torch.Generator().manual_seed(ins)
    weight = (torch.randn(50, ins, generator=g) * torch.rand(50, 1, generator=g)).to(dtype)
    weight[3] = 0
    off = (Matrix.quantize(weight).unpack() - weight.float()).abs()
    most = torch.nn.functional.pad(weight.float().abs(), (0, -ins % 32)).view(50, -1, 32).amax(2)
    # Scales of float16 are off by 2^-11 of themselves, or by 2^-25 where they are subnormal.
    assert (off <= most[:, torch.arange(ins) // 32] / 254 * 1.002 + 127 * 2**-25).all()
    assert (off[3] == 0).all()


def test_nibbles_lose_less_than_plain_rounding() -> None:
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(9))
    in_groups = weight.view(-1, 32)
    far = in_groups.gather(1, in_groups.abs().argmax(1, keepdim=True))
    plain = ((in_groups / (far / -8)).round().clamp(-8, 7) * (far / -8) - in_groups).norm() / weight.norm()
    even = (Matrix.quantize(weight, bits=4).unpack() - weight).norm() / weight.norm()
    with_minima = (Matrix.quantize(weight, bits=4, minima=True).unpack() - weight).norm() / weight.norm()
    assert with_minima < even < 0.95 * plain
    shifted = weight + 5  # what minima are for
    assert (Matrix.quantize(shifted, bits=4, minima=True).unpack() - shifted).norm() < 0.08 * weight.norm()


@pytest.mark.parametrize("bits", [8, 4])
def test_scales_too_small_or_great_for_halves(bits: int) -> None:
    for factor in (1e-7, 1e-20, 1e9, 1e30):
        weight = torch.randn(20, 100) * factor
        matrix = Matrix.quantize(weight, bits=bits)
        assert matrix.c.scale_kind == Kind.F32
        assert (matrix.unpack() - weight).norm() <= (0.01 if bits == 8 else 0.1) * weight.norm()
    assert Matrix.quantize(torch.randn(20, 100), bits=bits).c.scale_kind == Kind.F16


@pytest.mark.parametrize("minima", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_bad_weights_spoil_their_outputs_alone(bits: int, minima: bool, bad: float) -> None:
    if minima and bits == 8:
        return
    weight = torch.randn(40, 96)
    good = Matrix.quantize(weight, bits=bits, minima=minima)
    weight[17, 70] = bad
    spoilt, x = Matrix.quantize(weight, bits=bits, minima=minima), torch.randn(9, 96)
    assert spoilt.unpack()[17, 64:].isnan().all()
    assert torch.equal(spoilt.unpack()[17, :64], good.unpack()[17, :64])
    y, expected = spoilt.multiply(x), good.multiply(x)
    assert y[:, 17].isnan().all()
    y[:, 17] = expected[:, 17]
    assert torch.equal(y, expected)
