"""Feed-forwards of fused kernels are the plain ones, and step aside where somebody watches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from omniform.blocks import fused
from omniform.blocks.fused import AVAILABLE, FUSED, FusedMLP, applied, is_plain
from omniform.blocks.mlp import MLP

X = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))


def pair(act: str, bias: bool = True) -> tuple[FusedMLP, MLP]:
    made = FusedMLP(16, 24, act, bias=bias).eval()
    plain = MLP(16, 24, act, bias=bias).eval()
    plain.load_state_dict(made.state_dict())
    return made, plain


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("act", [*FUSED, "quick_gelu"])
def test_as_the_plain_one(act, bias):
    made, plain = pair(act, bias)
    torch.testing.assert_close(made(X), plain(X), atol=0, rtol=0)  # gradients are on
    with torch.no_grad():
        torch.testing.assert_close(made(X), plain(X), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(made(X[:0]), plain(X[:0]))
        (one,) = applied(X, plain.fc1)
        torch.testing.assert_close(one, plain.fc1(X), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_it_steps_aside(monkeypatch):
    made, plain = pair("gelu")
    if AVAILABLE:
        assert is_plain(made.fc1, X)
    monkeypatch.setattr(fused, "projected", None)
    seen: list[object] = []
    for hook in (nn.Module.register_forward_hook, nn.Module.register_forward_pre_hook):
        handle = hook(made.fc2, lambda *given: seen.append(given) if len(given) == 3 else None)
        torch.testing.assert_close(made(X), plain(X))
        handle.remove()
    assert len(seen) == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert made(X).dtype is torch.bfloat16
    half = copy.deepcopy(made).bfloat16()
    assert half(X.bfloat16()).dtype is torch.bfloat16
    torch.testing.assert_close(torch.func.vmap(made)(X), plain(X))
    with FlopCounterMode(display=False) as counted:
        made(X)
    assert counted.get_total_flops() == 2 * 2 * 15 * 16 * 24
    made.fc1 = nn.Sequential(made.fc1)
    torch.testing.assert_close(made(X), plain(X))
