"""Causal convolutions and the gated delta rule: the reference's numbers, and the same whatever the layout."""

from importlib import import_module

import pytest
import torch

from omniform.blocks.recurrent import GatedDeltaRule, ShortConv
from omniform.blocks.state_space import StateSpace, StateSpaceDual
from omniform.core.context import StepContext
from omniform.core.errors import InputError
from omniform.core.packed import PackedContext, Segment
from omniform.core.state import Conv, DenseState, Recurrent, number_mixers
from omniform.engine.paged_state import ROWS, PagedState
from reference import close

theirs = import_module("transformers.models.qwen3_next.modeling_qwen3_next")  # once reference has made it importable
mamba2 = import_module("transformers.models.mamba2.modeling_mamba2")

HEADS, GROUPS, DK, DV, WIDTH = 4, 2, 8, 6, 4
CHANNELS = 5


def inputs(rows, tokens, seed=0):
    """Queries, keys, values, log decays and shares."""
    r = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(rows, tokens, GROUPS, DK, generator=r) for _ in range(2))
    v = torch.randn(rows, tokens, HEADS, DV, generator=r)
    g = -torch.rand(rows, tokens, HEADS, generator=r) * 3
    return q, k, v, g, torch.rand(rows, tokens, HEADS, generator=r)


def conv(bias=True):
    """A convolution with random weights."""
    module = ShortConv(CHANNELS, WIDTH, bias=bias)
    torch.manual_seed(1)
    for p in module.parameters():
        torch.nn.init.normal_(p)
    return module


def rule():
    return GatedDeltaRule(HEADS, DK, DV)


def sounds(rows, tokens, seed=0):
    """What a convolution reads."""
    return (torch.randn(rows, tokens, CHANNELS, generator=torch.Generator().manual_seed(seed)),)


def spaces(rows, tokens, seed=0):
    """What a state space reads: values, directions to write and to read in, steps, logarithms of what is kept."""
    r = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, tokens, HEADS, DV, generator=r)
    b, c = (torch.randn(rows, tokens, GROUPS, DK, generator=r) for _ in range(2))
    dt = torch.rand(rows, tokens, HEADS, generator=r)
    return x, b, c, dt, -dt * torch.arange(1, HEADS + 1) * 0.3


def channels():
    """A state space whose rates are random."""
    module = StateSpace(CHANNELS, 3)
    torch.manual_seed(1)
    torch.nn.init.normal_(module.A_log)
    return module


def steps(rows, tokens, seed=0):
    """What it reads: values, places to write and to read, steps."""
    r = torch.Generator().manual_seed(seed)
    b, c = (torch.randn(rows, tokens, 3, generator=r) for _ in range(2))
    return torch.randn(rows, tokens, CHANNELS, generator=r), b, c, torch.rand(rows, tokens, CHANNELS, generator=r)


MIXERS = {
    "conv": (conv, sounds), "delta": (rule, inputs), "space": (lambda: StateSpaceDual(HEADS, DV, DK), spaces),
    "channels": (channels, steps),
}  # fmt: skip


@pytest.mark.parametrize("tokens", [1, 2, 63, 64, 65, 150])
def test_the_state_space_is_the_references(tokens):
    x, b, c, dt, g = spaces(2, tokens)
    state = torch.randn(2, HEADS, DK, DV, generator=torch.Generator().manual_seed(3))
    ours, after = StateSpaceDual(HEADS, DV, DK).advance(state, None, x, b, c, dt, g)
    out, last = mamba2.mamba2_chunk_scan(
        x, dt, -torch.arange(1, HEADS + 1) * 0.3, b, c, 16, initial_states=state.mT.contiguous(),
        return_final_states=True,
    )  # fmt: skip
    close(ours, out)
    close(after, last.mT)


def step(state=None, past=0, padding=None):
    return StepContext(torch.zeros(1, 1, dtype=torch.long), past=past, padding=padding, state=state)


def whole(module, xs, **ctx):
    with torch.no_grad():
        return module(*xs, step(**ctx))


@pytest.mark.parametrize("tokens", [1, 2, 63, 64, 65, 150])
def test_the_delta_rule_is_the_references(tokens):
    q, k, v, g, beta = inputs(2, tokens)
    state = torch.randn(2, HEADS, DK, DV, generator=torch.Generator().manual_seed(3))
    ours, after = rule().advance(state, None, q, k, v, g, beta)
    for reference in (theirs.torch_chunk_gated_delta_rule, theirs.torch_recurrent_gated_delta_rule):
        out, last = reference(
            q, k, v, g=g, beta=beta, initial_state=state, output_final_state=True, use_qk_l2norm_in_kernel=True
        )
        close(ours, out)
        close(after, last)


@pytest.mark.parametrize("tokens", [3, 12, 20, 63, 150])
def test_the_delta_rule_is_as_exact_as_the_references(tokens):
    """Both against the definition in float64, token by token."""
    q, k, v, g, beta = inputs(2, tokens)
    reference = theirs.torch_chunk_gated_delta_rule(
        q, k, v, g=g, beta=beta, initial_state=None, output_final_state=True, use_qk_l2norm_in_kernel=True
    )
    ours = rule().advance(torch.zeros(2, HEADS, DK, DV), None, q, k, v, g, beta)
    wide = by_definition(*(x.double() for x in (q, k, v, g, beta)))
    for mine, other, true in zip(ours, reference, wide, strict=True):
        off, theirs_off = (mine - true).abs().max(), (other - true).abs().max()
        assert off <= 2 * theirs_off and off < 5e-6, (off, theirs_off)


def by_definition(q, k, v, g, beta):
    """The rule as the paper writes it, and the state after it."""
    q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    q, k = (x.repeat_interleave(HEADS // GROUPS, dim=2) for x in (q * DK**-0.5, k))
    state, outs = q.new_zeros(len(q), HEADS, DK, DV), []
    for t in range(q.shape[1]):
        state = state * g[:, t, :, None, None].exp()
        told = torch.einsum("bhk,bhkv->bhv", k[:, t], state)
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], beta[:, t, :, None] * (v[:, t] - told))
        outs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(outs, 1), state


@pytest.mark.parametrize("bias", [True, False])
def test_the_convolution_is_torchs(bias):
    module, x = conv(bias), torch.randn(2, 9, CHANNELS)
    out = torch.nn.functional.conv1d(x.transpose(1, 2), module.weight, module.bias, padding=WIDTH - 1, groups=CHANNELS)
    close(whole(module, (x,)), out[:, :, :9].transpose(1, 2))


def test_a_convolution_in_bfloat16_is_rounded_once():
    module, x = conv().bfloat16(), torch.randn(2, 9, CHANNELS).bfloat16()
    wide = conv()
    with torch.no_grad():
        for p, q in zip(wide.parameters(), module.parameters(), strict=True):
            p.copy_(q)
    assert torch.equal(whole(module, (x,)), whole(wide, (x.float(),)).bfloat16())


@pytest.mark.parametrize("kind", MIXERS)
@pytest.mark.parametrize("sizes", [[1] * 12, [5, 7], [2, 1, 9], [11, 1], [3, 3, 3, 3]])
def test_in_pieces_as_whole(kind, sizes):
    make, of = MIXERS[kind]
    module, xs = make(), of(2, sum(sizes))
    expected, state, parts, past = whole(module, xs), DenseState(), [], 0
    module.slot = 0
    for size in sizes:
        parts.append(whole(module, [x[:, past : past + size] for x in xs], state=state, past=past))
        state.advance(size)
        past += size
    close(torch.cat(parts, 1), expected)


@pytest.mark.parametrize("kind", MIXERS)
@pytest.mark.parametrize("mask", ["0011111", "1111100", "0111110", "1101011", "0000001", "0100000"])
def test_padding_leaves_no_trace(kind, mask):
    """Wherever padding stands, a row's tokens and those that come after are as if the row were alone."""
    make, of = MIXERS[kind]
    module, xs, more = make(), of(2, 7), of(2, 5)
    module.slot = 0
    real = torch.tensor([int(c) for c in mask]).bool()
    padding = torch.stack([real, torch.ones(7).bool()])
    state = DenseState()
    first = whole(module, xs, state=state, padding=padding)
    state.advance(7)
    padded_on = torch.cat([padding, torch.ones(2, 2).bool()], 1)
    second = whole(module, [x[:, :2] for x in more], state=state, past=7, padding=padded_on)
    state.advance(2)
    third = whole(module, [x[:, 2:] for x in more], state=state, past=9)
    alone = whole(module, [torch.cat([x[:1, real], m[:1]], 1) for x, m in zip(xs, more, strict=True)])
    count = int(real.sum())
    close(first[:1, real], alone[:, :count])
    close(torch.cat([second[:1], third[:1]], 1), alone[:, count:])
    full = whole(module, [torch.cat([x[1:], m[1:, :2]], 1) for x, m in zip(xs, more, strict=True)])
    close(torch.cat([first[1:], second[1:]], 1), full)


@pytest.mark.parametrize("kind", MIXERS)
@pytest.mark.parametrize("steps", [[(3, 3, 3)], [(5, 1, 2), (1, 1, 1), (4, 9, 1)], [(1, 2, 0), (0, 2, 1), (7, 0, 7)]])
def test_packed_rows_are_rows_alone(kind, steps):
    """Rows of any lengths end to end, in steps in which some of them take no part."""
    make, of = MIXERS[kind]
    module = make()
    number_mixers(module)
    lengths = [sum(column) for column in zip(*steps, strict=True)]
    xs = [of(1, n) for n in lengths]
    blocks, past, parts = [4, 0, 2], [0] * 3, [[], [], []]
    state = PagedState({0: module.state_spec()}, {ROWS: 5}, 8, torch.float32, torch.device("cpu"))
    for view in state._fixed.values():
        view.whole.fill_(float("nan"))
    for counts in steps:
        rows = [r for r, count in enumerate(counts) if count]
        segments, at = [], 0
        for r in rows:
            segments.append(Segment(at, counts[r], past[r]))
            at += counts[r]
        state.begin_rows([blocks[r] for r in rows], [blocks[r] for r in rows if past[r] == 0])
        joined = [torch.cat([xs[r][i][:, past[r] : past[r] + counts[r]] for r in rows], 1) for i in range(len(xs[0]))]
        ctx = PackedContext(torch.zeros(1, at, dtype=torch.long), segments=tuple(segments), state=state)
        last = ctx.with_(tables={}, wanted=(at - 1,)).last_layer()
        assert last.alike() == ctx.alike() or len(rows) > 1, "a last layer reads all rows, whatever is wanted of it"
        with torch.no_grad():
            out = module(*joined, ctx)
        for r, s in zip(rows, segments, strict=True):
            parts[r].append(out[:, s.start : s.start + s.count])
            past[r] += s.count
    for r in range(3):
        close(torch.cat(parts[r], 1), whole(module, xs[r]))


def test_states_are_declared_and_rows_selected():
    assert conv().state_spec() == Conv(CHANNELS, WIDTH)
    assert rule().state_spec() == Recurrent((HEADS, DK, DV))
    assert Conv(CHANNELS, WIDTH).nbytes(torch.bfloat16) == 2 * CHANNELS * (WIDTH - 1)
    assert Recurrent((HEADS, DK, DV)).nbytes(torch.bfloat16) == 4 * HEADS * DK * DV
    module, xs, state = rule(), inputs(3, 4), DenseState()
    whole(module, xs, state=state)
    assert state.nbytes() == 3 * 4 * HEADS * DK * DV
    state.select(torch.tensor([2, 2, 0]))
    more = [x[[2, 2, 0]] for x in inputs(3, 2, seed=5)]
    expected = whole(module, [torch.cat([x[[2, 2, 0]], m], 1) for x, m in zip(xs, more, strict=True)])
    close(whole(module, more, state=state, past=4), expected[:, 4:])


def test_a_mask_of_pairs_is_refused():
    ctx = StepContext(torch.zeros(1, 1, dtype=torch.long), allowed=torch.ones(1, 1, 3, 3).bool())
    with pytest.raises(InputError, match="in turn"):
        rule()(*inputs(1, 3), ctx)


class Padded(torch.nn.Module):
    """A mixer as the layer of a padded step."""

    def __init__(self, mixer):
        super().__init__()
        self.mixer = mixer

    def forward(self, real, *xs):
        return self.mixer(*xs, step(padding=real))


@pytest.mark.parametrize("kind", MIXERS)
def test_exported_it_holds_for_any_number_of_rows_and_tokens(kind):
    make, given = MIXERS[kind]
    module, rows, tokens = Padded(make()), torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    xs = given(2, 6)
    shapes = {"real": {0: rows, 1: tokens}, "xs": tuple({0: rows, 1: tokens} for _ in xs)}
    with torch.no_grad():
        program = torch.export.export(module, (torch.ones(2, 6).bool(), *xs), dynamic_shapes=shapes).module()
        for tokens in (2, 9, 64, 65, 200):
            xs, real = given(3, tokens), torch.ones(3, tokens).bool()
            real[0, 0] = real[1, -1] = False
            torch.testing.assert_close(program(real, *xs), module(real, *xs), atol=5e-6, rtol=1e-5)
