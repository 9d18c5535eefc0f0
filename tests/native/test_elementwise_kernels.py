"""What happens between products, beside float64: norms, rotary positions, activations over all of float32, gates."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
from torch import Tensor

from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.rotary import turned, turned_neighbours
from omniform.native.abi import ACTS, Act
from omniform.native.library import Library, library
from omniform.native.matrix import rows_of

FOUND = library()
pytestmark = pytest.mark.skipif(FOUND is None, reason="no native kernels here")

WIDTHS = (1, 2, 15, 16, 17, 31, 64, 80, 100, 128, 577)


def c() -> Library:
    assert FOUND is not None
    return FOUND


def ref(x: Tensor) -> object:
    return ctypes.byref(rows_of(x))


def activated(act: Act, x: Tensor) -> Tensor:
    flat = x.reshape(1, -1) if x.dim() == 1 else x
    out = torch.empty_like(flat)
    c().call("of_activate", act, ref(flat), ref(out))
    return out.view_as(x)


def whole_range() -> Tensor:
    """Numbers of every magnitude that float32 has, of either sign."""
    bits = torch.arange(0, 0x7F800000, 9973, dtype=torch.int64).to(torch.int32)
    x = bits.view(torch.float32)
    near = torch.linspace(-30, 30, 200_001)
    return torch.cat((x, -x, near))


# ---------------------------------------------------------------- activations

EXACT = {"linear", "relu", "relu2", "relu6", "leaky_relu"}


def in_float64(name: str, x: Tensor) -> Tensor:
    wide = x.double()
    if name in {"gelu", "gelu_python", "gelu_10"}:  # torch's own loses the tail below zero by cancellation
        exact = wide * torch.special.erfc(-wide / math.sqrt(2)) / 2
        return exact.clamp(-10, 10) if name == "gelu_10" else exact
    if ACTS[name] is Act.GELU_TANH:
        inner = 2 * math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
        return torch.where(wide < -1e4, 0.0, wide * torch.sigmoid(inner))
    if name == "laplace":
        return torch.special.erfc(-(wide - 0.707107) / (0.282095 * math.sqrt(2))) / 2
    if name == "mish":
        return wide * torch.tanh(torch.nn.functional.softplus(wide, threshold=50))
    if name == "softplus":
        return torch.where(wide > 20, wide, torch.log1p(wide.clamp(max=20).exp()))
    if name == "selu":
        return torch.where(wide > 0, wide, 1.6732632423543772 * torch.expm1(wide)) * 1.0507009873554805
    if name == "leaky_relu":
        return torch.where(wide < 0, wide * torch.tensor(0.01).double(), wide)
    return ACTIVATIONS[name](wide)


UNITS = {Act.GELU: 4, Act.GELU_10: 4, Act.GELU_TANH: 80, Act.LAPLACE: 130, Act.QUICK_GELU: 40}
"""How many units of float32's last place off; three elsewhere. Those of many round the argument of a power, which
tells where the result is next to nothing."""


@pytest.mark.parametrize("name", sorted(ACTS))
def test_activations(name: str) -> None:
    x = whole_range()
    found, expected = activated(ACTS[name], x).double(), in_float64(name, x)
    held = expected.abs() <= torch.finfo(torch.float32).max
    assert torch.equal(found[~held], expected[~held].float().double())
    # What is next to the least of float32's numbers may become zero.
    off = ((found - expected).abs() - 1e-36).clamp(min=0)
    far = torch.where(held & (off > 0), off / (expected.abs() * 2.0**-23), 0.0).nan_to_num(nan=math.inf)
    worst = int(far.argmax())
    bound = 0.5 if name in EXACT else UNITS.get(ACTS[name], 3)
    assert far[worst] <= bound, (x[worst], found[worst], expected[worst])


@pytest.mark.parametrize("name", sorted(ACTS))
def test_what_is_no_number_stays_none(name: str) -> None:
    odd = torch.tensor([math.nan, 1.0, -math.nan, 2.0]).view(torch.int32)
    odd[2] += 3  # a payload
    found = activated(ACTS[name], odd.view(torch.float32))
    assert found.isnan().tolist() == [True, False, True, False]


@pytest.mark.parametrize("name", sorted(ACTS))
def test_infinities(name: str) -> None:
    found, expected = (
        activated(ACTS[name], torch.tensor([math.inf, -math.inf])),
        ACTIVATIONS[name](torch.tensor([math.inf, -1e30])),
    )
    assert found[0] == expected[0]
    assert found[1].isnan() or found[1] == -math.inf or abs(found[1] - expected[1]) < 1e-6


@pytest.mark.parametrize("width", WIDTHS)
def test_activations_of_parts_of_rows(width: int) -> None:
    whole = torch.randn(5, width + 9)
    x, out = whole[:, :width], torch.full((5, width + 3), 7.0)
    c().call("of_activate", Act.SILU, ref(x), ref(out[:, :width]))
    torch.testing.assert_close(out[:, :width], torch.nn.functional.silu(x), rtol=1e-6, atol=1e-7)
    assert (out[:, width:] == 7).all()


# ---------------------------------------------------------------- gates, sums


@pytest.mark.parametrize("width", (*WIDTHS, 5000))
@pytest.mark.parametrize("name", ("silu", "gelu_pytorch_tanh", "relu", "gelu"))
def test_gates(width: int, name: str) -> None:
    both = torch.randn(3, 2 * width)
    gate, up, out = both[:, :width], both[:, width:], torch.empty(3, width)
    c().call("of_gate", ACTS[name], 0.0, 0.0, 1, ref(gate), ref(up), ref(out))
    expected = ACTIVATIONS[name](gate.double()) * up.double()
    torch.testing.assert_close(out.double(), expected, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("width", WIDTHS)
def test_clamped_swish(width: int) -> None:
    mixed, out = torch.randn(3, 2 * width) * 6, torch.empty(3, width)
    c().call("of_gate", Act.CLAMPED_SWISH, 7.0, 1.702, 2, ref(mixed), ref(mixed[:, 1:]), ref(out))
    gate, up = mixed[:, ::2].double().clamp(max=7), mixed[:, 1::2].double().clamp(-7, 7)
    torch.testing.assert_close(out.double(), (up + 1) * gate * torch.sigmoid(gate * 1.702), rtol=3e-6, atol=3e-7)


@pytest.mark.parametrize("width", WIDTHS)
def test_sums_in_place(width: int) -> None:
    x, y = torch.randn(4, width), torch.randn(4, width)
    expected = x.double() + torch.tensor(0.3).double() * y.double()
    c().call("of_add", ref(x), ref(y), 0.3, ref(x))
    torch.testing.assert_close(x.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("width", WIDTHS)
def test_bounds(width: int) -> None:
    x = torch.randn(3, width) * 60
    out = torch.empty_like(x)
    c().call("of_bounded", 30.0, ref(x), ref(out))
    torch.testing.assert_close(out.double(), 30 * torch.tanh(x.double() / 30), rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------- norms


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("groups", (1, 3))
@pytest.mark.parametrize("centred", (False, True))
@pytest.mark.parametrize("shared", (False, True))
def test_norms(width: int, groups: int, centred: bool, shared: bool) -> None:
    x = torch.randn(5, groups * width + 2)[:, : groups * width] * 3 + 1
    weight, bias = (torch.randn(width if shared else groups * width) for _ in range(2))
    out = torch.empty(5, groups * width)
    step = 0 if shared else width
    c().call("of_normalise", ref(x), ref(out), groups, weight.data_ptr(), bias.data_ptr(), step, 1e-3, centred)
    wide = x.double().view(5, groups, width) if groups == 1 else x.double().reshape(5, groups, width)
    off = wide - wide.mean(-1, keepdim=True) if centred else wide
    normed = off * (off.square().mean(-1, keepdim=True) + 1e-3).rsqrt()
    w, b = (p.double().view(-1, width) for p in (weight, bias))
    torch.testing.assert_close(out.double(), (normed * w + b).reshape(5, -1), rtol=1e-5, atol=2e-6)


def test_norms_of_hostile_rows() -> None:
    x = torch.zeros(6, 100)
    x[1] = 1e18
    x[2] = 1e-30
    x[3, 5] = math.nan
    x[4] = torch.randn(100)
    out = torch.empty_like(x)
    c().call("of_normalise", ref(x), ref(out), 1, None, None, 0, 1e-6, False)
    assert (out[0] == 0).all()
    assert (out[1] - 1).abs().max() < 1e-6
    torch.testing.assert_close(out[2], torch.full((100,), 1e-27), rtol=1e-5, atol=0.0)
    assert out[3].isnan().all()
    assert torch.isfinite(out[4]).all()


@pytest.mark.parametrize("centred", (False, True))
def test_a_row_is_normed_alike_in_every_batch(centred: bool) -> None:
    x = torch.randn(300, 576)
    together, before = torch.empty_like(x), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        c().call("of_normalise", ref(x), ref(together), 1, None, None, 0, 1e-6, centred)
        torch.set_num_threads(1)
        for n in (0, 7, 299):
            alone = torch.empty(1, 576)
            c().call("of_normalise", ref(x[n : n + 1]), ref(alone), 1, None, None, 0, 1e-6, centred)
            assert torch.equal(alone[0], together[n])
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------- rotary positions


@pytest.mark.parametrize("neighbours", (False, True))
@pytest.mark.parametrize("dim", (2, 6, 30, 32, 64, 100))
@pytest.mark.parametrize("rest", (0, 5, 32))
def test_rotary(neighbours: bool, dim: int, rest: int) -> None:
    heads, rows = 3, 4
    x = torch.randn(rows, heads * (dim + rest))
    cos, sin = torch.randn(rows, dim), torch.randn(rows, dim)
    turn = turned_neighbours if neighbours else turned
    shaped = x.double().view(rows, heads, -1)
    expected = turn(shaped, cos.double()[:, None], sin.double()[:, None]).reshape(rows, -1)
    out = torch.empty_like(x)
    c().call("of_rotate", ref(x), ref(out), heads, ref(cos), ref(sin), neighbours)
    torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=1e-6)
    c().call("of_rotate", ref(x), ref(x), heads, ref(cos), ref(sin), neighbours)
    assert torch.equal(x, out)


# ---------------------------------------------------------------- softmax, conversions


@pytest.mark.parametrize("width", WIDTHS)
def test_softmax(width: int) -> None:
    x = torch.randn(6, width) * 10
    x[1] = 1e30
    x[2, : width // 2] = -math.inf
    x[3] -= 1e4
    out = torch.empty_like(x)
    c().call("of_softmax", ref(x), ref(out))
    torch.testing.assert_close(out.double(), x.double().softmax(-1), rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("source", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("target", (torch.float32, torch.bfloat16, torch.float16), ids=str)
def test_conversions(source: torch.dtype, target: torch.dtype) -> None:
    odd = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 65519.0, 65520.0, 1e-7, 3e-8, 1e-45, 3.4e38])
    x = torch.cat((whole_range(), odd)).to(source)
    for width in (len(x), 1, 17):
        out = torch.empty(1, width, dtype=target)
        c().call("of_convert", ref(x[None, -width:]), ref(out))
        torch.testing.assert_close(out[0], x[-width:].to(target), rtol=0.0, atol=0.0, equal_nan=True)
