"""Feed-forwards of fused kernels are the plain ones, and step aside where somebody watches."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from omniform.blocks import fused
from omniform.blocks.fused import AVAILABLE, FUSED, FusedMLP, activated, applied, is_plain
from omniform.blocks.mlp import ACTIVATIONS, MLP

X = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))


def pair(act: str, bias: bool = True) -> tuple[FusedMLP, MLP]:
    made = FusedMLP(16, 24, act, bias=bias).eval()
    plain = MLP(16, 24, act, bias=bias).eval()
    plain.load_state_dict(made.state_dict())
    return made, plain


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("act", [*FUSED, "relu", "quick_gelu"])
def test_as_the_plain_one(act, bias):
    made, plain = pair(act, bias)
    torch.testing.assert_close(made(X), plain(X), atol=0, rtol=0)  # gradients are on
    with torch.no_grad():
        torch.testing.assert_close(made(X), plain(X), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(made(X[:0]), plain(X[:0]))
        (one,) = applied(X, plain.fc1)
        torch.testing.assert_close(one, plain.fc1(X), atol=1e-6, rtol=1e-5)
        known = ACTIVATIONS[act]
        torch.testing.assert_close(activated(X, plain.fc1, known), known(plain.fc1(X)), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_it_steps_aside(monkeypatch):
    made, plain = pair("gelu")
    if AVAILABLE:
        assert is_plain(made.fc1, X)
    monkeypatch.setattr(fused, "projected", None)
    seen: list[object] = []
    for hook in (nn.Module.register_forward_hook, nn.Module.register_forward_pre_hook):
        handles = [
            hook(m, lambda *given: seen.append(given) if len(given) == 3 else None) for m in (made.fc1, made.fc2)
        ]
        torch.testing.assert_close(made(X), plain(X))
        for handle in handles:
            handle.remove()
    assert len(seen) == 2
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


@torch.no_grad()
def test_other_weights_are_as_fast_and_the_same():
    made, _ = pair("gelu")
    other, _ = pair("gelu")
    found = torch.func.functional_call(made, {name: p.detach() for name, p in other.named_parameters()}, (X,))
    assert torch.equal(found, other(X))


@pytest.mark.parametrize("act", ["gelu", "gelu_new", "relu"])
@torch.no_grad()
def test_what_is_no_number_stays_so(act):
    made, plain = pair(act)
    x = X.clone()
    x[0, 0, 0], x[1, 1, 1] = float("nan"), float("inf")
    torch.testing.assert_close(made(x), plain(x), equal_nan=True)
    assert made(x)[0, 0].isnan().all()


def spread(values: torch.Tensor) -> torch.Tensor:
    """The same values, others between them."""
    wide = torch.full((*values.shape, 2), 7.0)
    wide[..., 0] = values.detach()
    return wide[..., 0]


class Marked(torch.Tensor):
    pass


@torch.no_grad()
def test_parameters_of_other_kinds_are_the_layers_own_affair():
    made, plain = pair("gelu")
    linear = made.fc1
    for name in ("weight", "bias"):
        odd = copy.deepcopy(linear)
        setattr(odd, name, nn.Parameter(spread(getattr(linear, name))))
        assert not is_plain(odd, X) and torch.equal(applied(X, odd)[0], odd(X))
    for name, value in {
        "bias": torch.zeros(1).expand(24),  # its other 23 numbers lie nowhere
        "weight": linear.weight.to_sparse_csr(),
    }.items():
        odd = copy.deepcopy(linear)
        setattr(odd, name, nn.Parameter(value, requires_grad=False))
        torch.testing.assert_close(applied(X, odd)[0], odd(X))
    for change in (lambda p: p.as_subclass(Marked), lambda p: p.double(), lambda p: p.to("meta")):
        odd = copy.deepcopy(linear)
        odd.bias = nn.Parameter(change(linear.bias), requires_grad=False)
        assert not is_plain(odd, X)
    short = copy.deepcopy(linear)
    short.bias = nn.Parameter(torch.zeros(3))
    assert not is_plain(short, X) and not is_plain(linear, X[..., :5]) and not is_plain(nn.Linear(0, 3), X[..., :0])
    nn.utils.parametrizations.weight_norm(made.fc2)
    torch.testing.assert_close(made(X), plain(X))
    assert not is_plain(made.fc2, torch.zeros(1, 24)) and not is_plain(linear, X.as_subclass(Marked))


@torch.no_grad()
def test_inputs_that_lie_otherwise():
    made, plain = pair("gelu")
    for x in (spread(X), X[0, 0], X.transpose(0, 1), X[:1].expand(4, -1, -1), torch._neg_view(X)):
        torch.testing.assert_close(made(x), plain(x), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_derivatives_that_are_carried_forward_are_kept():
    made, plain = pair("gelu")
    with forward_ad.dual_level():
        ahead, expected = (forward_ad.unpack_dual(m(forward_ad.make_dual(X, X))).tangent for m in (made, plain))
    torch.testing.assert_close(ahead, expected)
    assert ahead is not None
    _, tangent = torch.func.jvp(made, (X,), (X,))
    torch.testing.assert_close(tangent, expected)


@torch.no_grad()
def test_whoever_replaces_what_a_call_goes_through_is_asked(monkeypatch):
    made, _ = pair("gelu")
    calls: list[object] = []
    linear = F.linear

    def counted(*given):
        calls.append(given)
        return linear(*given)

    with monkeypatch.context() as changed:
        changed.setattr(F, "linear", counted)
        made(X)
    assert len(calls) == 2
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, given: calls.append(module))
    made(X)
    handle.remove()
    assert calls[-2:] == [made.fc1, made.fc2]
    with torch.backends.mkldnn.flags(enabled=False):
        assert not is_plain(made.fc1, X)
    assert is_plain(made.fc1, X)


@torch.no_grad()
def test_it_is_exported_and_compiled_as_plain_layers():
    made, plain = pair("gelu")
    program = torch.export.export(made, (X,))
    assert "mkldnn" not in str(program.graph)
    torch.testing.assert_close(program.module()(X), plain(X))
    torch.testing.assert_close(torch.compile(made, backend="eager", fullgraph=True)(X), plain(X))
    traced = torch.jit.trace(made, (X,))
    assert "mkldnn" not in str(traced.inlined_graph)


def test_threads_with_and_without_gradients_do_not_disturb_one_another():
    made, plain = pair("gelu")
    expected = plain(X).detach()

    def run(number: int) -> None:
        for _ in range(20):
            with torch.set_grad_enabled(bool(number % 2)):
                out = made(X)
            assert out.requires_grad is bool(number % 2)
            torch.testing.assert_close(out.detach(), expected, atol=1e-6, rtol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
