"""Triton's small kernels against torch's operations: on a GPU, or by Triton's interpreter on a CPU."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch
import torch.nn.functional as F

from omniform.blocks import small
from omniform.blocks.mlp import GatedMLP
from omniform.blocks.norms import RMSNorm, WideRMSNorm, ZeroCentredRMSNorm
from omniform.blocks.rotary import turned

HAS_TRITON = importlib.util.find_spec("triton") is not None
ON = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(
    not HAS_TRITON or (ON == "cpu" and os.environ.get("TRITON_INTERPRET") != "1"),
    reason="no GPU, and not asked to interpret",
)
# The interpreter computes in numpy, which has no bfloat16.
DTYPES = [torch.float32, torch.bfloat16, torch.float16] if ON == "cuda" else [torch.float32, torch.float16]
NEAR = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.fixture(autouse=True)
def _of_few_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "MANY", 1)


def here(monkeypatch: pytest.MonkeyPatch, on: bool) -> None:
    monkeypatch.setattr(small, "DEVICES", frozenset({ON} if on else ()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [RMSNorm, WideRMSNorm, ZeroCentredRMSNorm])
@pytest.mark.parametrize("width", [64, 96])
@torch.no_grad()
def test_norms(monkeypatch: pytest.MonkeyPatch, kind: type, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = kind(width, 1e-5).to(ON, dtype)
    norm.weight.normal_(1, 0.3)
    x = torch.randn(2, 5, 3 * width, device=ON).to(dtype)[..., width : 2 * width]
    here(monkeypatch, True)
    got = norm(x)
    assert small.fused_norm(x, norm.weight, 1e-5, dtype) is not None
    here(monkeypatch, False)
    want = norm(x)
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want, rtol=NEAR[dtype], atol=NEAR[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("width", "dim"), [(32, 32), (24, 16), (48, 48)])
@torch.no_grad()
def test_turns(monkeypatch: pytest.MonkeyPatch, width: int, dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 7, 6, width, device=ON).to(dtype)[:, :, 1:5]
    angles = torch.randn(1, 7, 1, dim, device=ON)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    here(monkeypatch, True)
    got = turned(x, cos, sin)
    assert small.fused_turn(x, cos, sin) is not None
    here(monkeypatch, False)
    want, exact = turned(x, cos, sin), turned(x.double(), cos.double(), sin.double())
    # Where the compiler leaves a rounding out, it is nearer to what is right.
    assert float((got - exact).abs().max()) <= float((want - exact).abs().max()) + NEAR[dtype] / 8


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.no_grad()
def test_gates(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gate, up = torch.randn(2, 3, 2, 1100, device=ON).to(dtype).unbind(2)
    here(monkeypatch, True)
    got = small.fused_gate("silu", gate, up)
    assert got is not None
    torch.testing.assert_close(got, F.silu(gate) * up, rtol=NEAR[dtype], atol=NEAR[dtype])
    assert GatedMLP(8, 16, "silu").to(ON, dtype)(torch.randn(3, 8, device=ON).to(dtype)).shape == (3, 8)


@torch.no_grad()
def test_keys_are_written_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, True)
    k, v = torch.randn(1, 5, 3, 24, device=ON).transpose(1, 2), torch.randn(1, 5, 3, 16, device=ON).transpose(1, 2)
    kept_k, kept_v = torch.zeros(1, 3, 40, 24, device=ON), torch.zeros(1, 3, 40, 16, device=ON)
    slots = torch.tensor([31, 2, 39, 0, 7], device=ON)
    assert small.fused_write((kept_k, kept_v), (k, v), slots)
    wanted = torch.zeros_like(kept_k).index_copy(2, slots, k), torch.zeros_like(kept_v).index_copy(2, slots, v)
    assert torch.equal(kept_k, wanted[0]) and torch.equal(kept_v, wanted[1])


def test_who_learns_or_watches_gets_torchs_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, True)
    x = torch.randn(2, 8, device=ON)
    assert small.fused_gate("silu", x, x) is None
    with torch.no_grad():
        assert small.fused_gate("silu", x, x) is not None
        assert small.fused_gate("silu", x.double(), x.double()) is None
