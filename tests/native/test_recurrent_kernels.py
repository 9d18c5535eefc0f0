"""Kernels of recurrences beside float64; and the same bits however a row is cut, and whatever is beside it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omniform.blocks.builder import Builder
from omniform.blocks.recurrent import GatedDeltaRule, ShortConv
from omniform.blocks.state_space import StateSpace, StateSpaceDual
from omniform.core.context import StepContext
from omniform.core.state import DenseState, number_mixers
from omniform.native.library import library
from omniform.transforms.compiled import Compiled
from omniform.transforms.runnable import Runnable

pytestmark = pytest.mark.skipif(library() is None, reason="there are no native kernels")


def no_matrix(layer):
    raise AssertionError(layer)


class Recurring:
    """A program of one recurrence, whose inputs are the columns of its first buffer."""

    def __init__(self, module: nn.Module, widths: tuple[int, ...], lower) -> None:
        number_mixers(nn.ModuleList([module]))
        b = Builder(sum(widths), memory=False)
        steps = b.finish(lower(b, *b.x.split(widths)))
        self.program, self.widths, self.width = Runnable(Compiled(steps, no_matrix, no_matrix)), widths, sum(widths)

    def __call__(self, x, state=None, padding=None):
        past = 0 if state is None else state.length
        positions = torch.arange(past, past + x.shape[1])[None]
        out = self.program.run(library(), x, StepContext(positions=positions, past=past, state=state, padding=padding))
        if state is not None:
            state.advance(x.shape[1])
        return out


def heads(kind, q_heads, count, dk, dv):
    """A recurrence of heads, and what it is in float64."""
    module = kind(count, dk, dv) if kind is GatedDeltaRule else kind(count, dv, dk)
    widths = (q_heads * dk, q_heads * dk, count * dv, count, count)

    def lower(b, q, k, v, g, beta):
        q, k, v = q.in_heads(dk), k.in_heads(dk), v.in_heads(dv)
        return b.recur(q, k, v, g, beta, module, corrects=kind is GatedDeltaRule).flatten(-2)

    def exact(x):
        q, k, v, g, beta = x.double().split(widths, -1)
        q, k = (y.unflatten(-1, (q_heads, dk)).repeat_interleave(count // q_heads, -2) for y in (q, k))
        v, s, outs = v.unflatten(-1, (count, dv)), torch.zeros(len(x), count, dk, dv, dtype=torch.double), []
        for t in range(x.shape[1]):
            s = s * g[:, t].exp()[..., None, None]
            known = torch.einsum("bhkv,bhk->bhv", s, k[:, t]) if kind is GatedDeltaRule else 0
            s = s + k[:, t][..., None] * ((v[:, t] - known) * beta[:, t][..., None])[:, :, None]
            outs.append(torch.einsum("bhkv,bhk->bhv", s, q[:, t]).flatten(1))
        return torch.stack(outs, 1)

    def inputs(*shape):
        q, k, v, g, beta = torch.randn(*shape, sum(widths)).split(widths, -1)
        return torch.cat([q * dk**-0.5, k * dk**-0.5, v, -g.abs(), beta.sigmoid()], -1)

    return Recurring(module, widths, lower), exact, inputs


def channels(count, size):
    module = StateSpace(count, size)
    module.A_log.data.normal_()
    widths, rates = (count, size, size, count), -module.A_log.detach().double().exp()

    def exact(x):
        x, b, c, dt = x.double().split(widths, -1)
        s, outs = torch.zeros(len(x), count, size, dtype=torch.double), []
        for t in range(x.shape[1]):
            s = s * (dt[:, t, :, None] * rates).exp() + (dt[:, t] * x[:, t])[..., None] * b[:, t, None]
            outs.append((s * c[:, t, None]).sum(-1))
        return torch.stack(outs, 1)

    def inputs(*shape):
        x, b, c, dt = torch.randn(*shape, sum(widths)).split(widths, -1)
        return torch.cat([x, b, c, dt.exp()], -1)

    return Recurring(module, widths, lambda b, *given: module.lower_channels(b, *given)), exact, inputs


def convolution(count, taps, *, bias=True):
    module = ShortConv(count, taps, bias=bias)
    for p in module.parameters():
        p.data.normal_()

    def exact(x):
        made = torch.nn.functional.conv1d(
            x.double().transpose(1, 2), module.weight.detach().double(), None, padding=taps - 1, groups=count
        )[..., : x.shape[1]].transpose(1, 2)
        return made + module.bias.detach().double() if bias else made

    return Recurring(module, (count,), lambda b, x: module.lower(b, x)), exact, lambda *s: torch.randn(*s, count)


KINDS = {
    "delta": lambda: heads(GatedDeltaRule, 2, 4, 24, 40),
    "delta, narrow": lambda: heads(GatedDeltaRule, 3, 3, 5, 7),
    "delta, of three vectors": lambda: heads(GatedDeltaRule, 1, 2, 16, 48),
    "dual": lambda: heads(StateSpaceDual, 1, 4, 32, 64),
    "dual, narrow": lambda: heads(StateSpaceDual, 2, 2, 3, 17),
    "channels": lambda: channels(40, 16),
    "channels, wide states": lambda: channels(18, 21),
    "convolution": lambda: convolution(64, 4),
    "convolution, odd": lambda: convolution(75, 3, bias=False),
    "convolution of one": lambda: convolution(5, 1),
    "convolution, long": lambda: convolution(17, 16),
}


@pytest.fixture(params=KINDS)
def kind(request):
    torch.manual_seed(5)
    return KINDS[request.param]()


def test_beside_float64(kind):
    run, exact, inputs = kind
    x = inputs(3, 150)
    expected = exact(x)
    off = (run(x) - expected).abs() / expected.abs().clamp(min=1)
    assert off.max() < 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_is_the_same_however_it_is_cut(kind, dtype):
    run, _, inputs = kind
    x = inputs(4, 60).to(dtype)
    whole = run(x, DenseState())
    for cut in ([1] * 60, [7, 30, 1, 1, 21], [59, 1]):
        state = DenseState()
        assert torch.equal(torch.cat([run(part, state) for part in x.split(cut, 1)], 1), whole)
    for row in range(4):
        assert torch.equal(run(x[row : row + 1], DenseState())[0], whole[row])


def test_padding_on_any_side_is_nothing(kind):
    run, _, inputs = kind
    x, real = inputs(3, 20), torch.ones(3, 20, dtype=torch.bool)
    real[0, :6], real[1, 13:], real[2, :] = False, False, False
    real[2, 4:9] = True
    state = DenseState()
    padded = run(x, state, real)
    for row in range(3):
        own = DenseState()
        alone = run(x[row, real[row]][None], own)
        assert torch.equal(padded[row, real[row]], alone[0]) and not padded[row, ~real[row]].any()
        assert torch.equal(state.tensors(0)[0][row], own.tensors(0)[0][0])


def test_threads_change_nothing(kind):
    run, _, inputs = kind
    x = inputs(5, 400)
    whole = run(x)
    torch.set_num_threads(2)
    try:
        assert torch.equal(run(x), whole)
    finally:
        torch.set_num_threads(1)


def test_who_keeps_a_state_may_go_back_to_it():
    run, _, inputs = KINDS["delta"]()
    x, state = inputs(1, 9), DenseState()
    run(x[:, :5], state)
    (before,) = state.tensors(0)
    copy = before.clone()
    run(x[:, 5:], state)
    assert torch.equal(before, copy) and not torch.equal(state.tensors(0)[0], copy)
