"""Attention kernels that are asked for by name compute what the formula says, or hand over to one that does."""

from __future__ import annotations

import logging
import sys
import types

import pytest
import torch

from omniform.blocks import flash, kernels, packed, padded
from omniform.blocks.attend import attend, computed_across, computed_under
from omniform.blocks.packed import attend_packed
from omniform.blocks.padded import attend_padded
from omniform.blocks.scores import Scores
from omniform.core.context import EVERYTHING, Mask, Memory, StepContext
from omniform.core.errors import DependencyError, InputError
from omniform.core.packed import PackedContext, PackedMask, Segment, whole_rows
from omniform.core.rules import Causal, Chunk, Full, Recent, Window

CPU = torch.device("cpu")


class Slots:
    """A table that is a list of slots."""

    def __init__(self, slots):
        self.slots = slots

    def slot_ranges(self, first, stop):
        found = []
        for slot in self.slots[first:stop]:
            if found and found[-1][1] == slot:
                found[-1] = (found[-1][0], slot + 1)
            else:
                found.append((slot, slot + 1))
        return found


def formula(q_BTHD, k, v, allowed, scores, bias=None, sinks=None):
    """Attention in float64; queries that see nothing get zeros."""
    each = q_BTHD.shape[2] // k.shape[1]
    k, v = (x.double().repeat_interleave(each, 1) for x in (k, v))
    compared = scores.bounded(q_BTHD.double().transpose(1, 2) @ k.mT * scores.scale)
    compared = compared if bias is None else compared + bias.double()
    compared = compared if allowed is None else compared.masked_fill(~allowed, -torch.inf)
    if sinks is not None:
        sink = sinks.double().view(1, -1, 1, 1).expand(*compared.shape[:3], 1)
        compared = torch.cat((compared, sink), -1)
    return (compared.softmax(-1).nan_to_num()[..., : k.shape[2]] @ v).transpose(1, 2)


def context(rows=2, new=7, past=5, **changes):
    return StepContext(positions=torch.arange(past, past + new)[None], past=past, **changes)


PADDING = torch.ones(2, 12, dtype=torch.bool)
PADDING[1, :4] = False
GIVEN = torch.rand(2, 1, 7, 12, generator=torch.Generator().manual_seed(5)) > 0.4
GIVEN[..., 0] = True
STEPS = {
    "causal": (Causal(), {"past": 0, "new": 12}),
    "later": (Causal(), {}),
    "one token": (Causal(), {"new": 1, "past": 11}),
    "window": (Causal() & Window(4), {}),
    "window from the start": (Causal() & Window(4), {"past": 0, "new": 12}),
    "both ways": (Window(3), {"past": 0, "new": 12}),
    "chunk": (Causal() & Chunk(5), {}),
    "either": (Causal() & Window(2) | Chunk(3), {}),
    "full": (Full(), {"past": 0, "new": 12}),
    "padded": (Causal(), {"padding": PADDING}),
    "padded from the start": (Causal(), {"padding": PADDING, "past": 0, "new": 12}),
    "padded, one row for all": (Causal(), {"padding": PADDING[1:]}),
    "padded and full": (Full(), {"padding": PADDING, "past": 0, "new": 12}),
    "padded window": (Recent.of(4), {"padding": PADDING}),
    "a mask of the caller's": (Causal(), {"allowed": GIVEN}),
    "stretches": (Causal(), {"bidirectional": torch.tensor([[0, 1, 1, 1, 0, 2, 2], [0] * 7])}),
    "texts": (Causal(), {"past": 0, "new": 12, "texts": torch.tensor([[0] * 5 + [1] * 7])}),
}
EXTRAS = ("plain", "cap", "bias", "sinks")
SHAPES = [(4, 4, 16, 16), (6, 2, 16, 24), (4, 2, 24, 16), (4, 1, 8, 8)]


def inputs(new, keys, heads, groups, width, values, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(2, new, heads, width, generator=g).to(dtype)
    return q, *(torch.randn(2, groups, keys, n, generator=g).to(dtype) for n in (width, values))


def of_step(name, backend):
    rule, how = STEPS[name]
    ctx = context(backend=backend, **how)
    new = ctx.positions.shape[-1]
    mask = ctx.mask(rule, new, CPU)
    keys = ctx.past + new
    return mask, mask.materialised(new, keys, CPU), new, keys


def told(caplog):
    return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def afresh(caplog):
    caplog.set_level(logging.WARNING, "omniform")
    kernels._tell.cache_clear()
    kernels.kernel_of.cache_clear()
    yield
    kernels.kernel_of.cache_clear()


@pytest.fixture
def alone(monkeypatch):
    """Neither of the kernels that do everything may run."""

    def never(*args, **kwargs):
        raise AssertionError("another kernel ran")

    for name in ("_sdpa", "_eager"):
        monkeypatch.setattr(padded, name, never)
    for name in ("_by_range", "_row_by_row", "_decode_batch"):
        monkeypatch.setattr(packed, name, never)


# -- flex_attention --------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("step", "extra"),
    # Each combination is traced anew, which takes its time.
    [*((step, "all") for step in STEPS), *((s, e) for s in ("causal", "padded window") for e in EXTRAS)],
)
def test_flex_equals_the_formula(step, extra, alone, caplog):
    mask, allowed, new, keys = of_step(step, "flex_attention")
    number = list(STEPS).index(step)
    heads, groups, width, values = SHAPES[number % len(SHAPES)]
    q, k, v = inputs(new, keys, heads, groups, width, values, seed=number)
    g = torch.Generator().manual_seed(number)
    rows = 1 + number % 2
    bias = torch.randn(rows, heads, new, keys, generator=g) if extra in ("bias", "all") else None
    sinks = torch.randn(heads, generator=g) if extra in ("sinks", "all") else None
    scores = Scores(0.4, 0.7 if extra in ("cap", "all") else None)
    found = attend_padded(q, k, v, mask, scores=scores, backend="flex_attention", bias=bias, sinks=sinks)
    assert (found - formula(q, k, v, allowed, scores, bias, sinks)).abs().max() < 2e-6
    assert not told(caplog)


@torch.no_grad()
def test_flex_in_bfloat16(alone):
    mask, _, new, keys = of_step("padded", "flex_attention")
    q, k, v = inputs(new, keys, 4, 2, 16, 16, dtype=torch.bfloat16)
    found = attend_padded(q, k, v, mask, scores=Scores(0.25), backend="flex_attention", sinks=torch.randn(4))
    assert found.dtype == torch.bfloat16


@torch.no_grad()
def test_flex_looks_across(alone):
    memory = Memory(torch.zeros(2, 9, 4), torch.arange(9) < torch.tensor([[9], [4]]))
    ctx = context(backend="flex_attention", memory=memory)
    q, k, v = inputs(7, 9, 4, 4, 16, 16)
    found = attend_padded(q, k, v, ctx.memory_mask(7), scores=Scores(0.25), backend="flex_attention")
    allowed = (torch.arange(9) < torch.tensor([[9], [4]]))[:, None, None]
    assert (found - formula(q, k, v, allowed, Scores(0.25))).abs().max() < 2e-6


def test_a_mask_is_made_for_flex_once_per_step(monkeypatch):
    from torch.nn.attention import flex_attention as flex

    made = []
    real = flex.create_block_mask
    monkeypatch.setattr(flex, "create_block_mask", lambda *args, **how: made.append(args) or real(*args, **how))
    ctx = context(backend="flex_attention", padding=PADDING)
    q, k, v = inputs(7, 12, 2, 2, 8, 8)
    with torch.no_grad():
        for _ in range(3):
            mask = ctx.mask(Causal(), 7, CPU)
            attend_padded(q, k, v, mask, scores=Scores(0.4), backend="flex_attention")
    assert len(made) == 1 and "allowed" not in mask._made  # and no mask of all pairs beside it


ROWS = ((0, 1), (9, 1), (9, 12), (0, 20), (3, 5), (8, 2))
"""Earlier and new tokens of each row; those of 8 and more earlier ones share a beginning."""


def step_of_rows(rule, spans=(), of=ROWS):
    free, segments, tables, start = 40, [], [], 0
    for number, (past, new) in enumerate(of):
        own = list(range(free, free + past + new))
        free += past + new + 1  # rows are no neighbours
        segments.append(Segment(start, new, past, spans if number == 3 else ()))
        tables.append(Slots([*range(100, 104), *range(20, 24), *own][: past + new] if past >= 8 else own))
        start += new
    return PackedMask(rule, segments, tables, [s.past + s.count for s in segments], CPU), segments, tables, start


def row_by_row(q, k, v, mask, segments, tables, scores, sinks=None, bias=None):
    outs = []
    for number, (segment, table) in enumerate(zip(segments, tables, strict=True)):
        length = segment.past + segment.count
        query, key = torch.arange(segment.past, length)[:, None], torch.arange(length)[None]
        joined = torch.zeros(segment.count, length, dtype=torch.bool)
        for first, stop in segment.bidirectional:
            joined |= (query >= first) & (query < stop) & (key >= first) & (key < stop)
        allowed = mask.rule.widened(query, key, joined)[None, None]
        mine = q[None, segment.start : segment.start + segment.count]
        own = None if bias is None else bias[number]
        outs.append(formula(mine, k[:, :, table.slots], v[:, :, table.slots], allowed, scores, own, sinks)[0])
    return torch.cat(outs)


RULES = [Causal(), Causal() & Window(6), Recent.of(5), Window(4), Full(), Causal() & Chunk(8)]


@torch.no_grad()
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(("cap", "sink", "biased"), [(None, False, False), (0.7, True, False), (0.7, True, True)])
def test_flex_equals_the_formula_of_packed_rows(rule, cap, sink, biased, alone):
    spans = ((2, 6), (10, 13)) if isinstance(rule, (Causal, Recent)) else ()
    mask, segments, tables, tokens = step_of_rows(rule, spans)
    g = torch.Generator().manual_seed(3)
    q = torch.randn(tokens, 6, 16, generator=g)
    k, v = (torch.randn(1, 3, 160, n, generator=g) for n in (16, 24))
    sinks = torch.randn(6, generator=g) if sink else None
    bias = tuple(torch.randn(1, 6, s.count, s.past + s.count, generator=g) for s in segments) if biased else None
    how = {"scores": Scores(0.4, cap), "sinks": sinks, "bias": bias}
    found = attend_packed(q, k, v, mask, backend="flex_attention", **how)
    assert (found - row_by_row(q, k, v, mask, segments, tables, **how)).abs().max() < 2e-6


@torch.no_grad()
def test_flex_of_rows_that_lie_in_order(alone):
    segments, tables = whole_rows((5, 1, 9))
    mask = PackedMask(Causal(), segments, tables, (5, 1, 9), CPU)
    q, k, v = torch.randn(15, 4, 8), torch.randn(1, 2, 15, 8), torch.randn(1, 2, 15, 8)
    found = attend_packed(q, k, v, mask, scores=Scores(0.4), backend="flex_attention")
    wide = [Slots(list(range(s.start, s.start + s.count))) for s in segments]
    assert (found - row_by_row(q, k, v, mask, segments, wide, Scores(0.4))).abs().max() < 2e-6
    assert mask.made["end to end"].slots is None  # nothing is gathered


@pytest.mark.parametrize("packed_rows", [False, True])
@pytest.mark.parametrize(("how", "words"), [("gradients", "gradients on CUDA"), ("dropout", "drops no")])
def test_what_flex_cannot_do_is_done_and_said_once(packed_rows, how, words, caplog):
    dropout = 0.5 if how == "dropout" else 0.0
    mask, allowed, new, keys = of_step("later", "flex_attention")
    for _ in range(2):
        if packed_rows:
            rows, segments, tables, tokens = step_of_rows(Causal())
            q, k, v = torch.randn(tokens, 2, 8), torch.randn(1, 2, 160, 8), torch.randn(1, 2, 160, 8)
            q.requires_grad_(how == "gradients")
            found = attend_packed(q, k, v, rows, scores=Scores(0.4), backend="flex_attention", dropout=dropout)
            expected = row_by_row(q, k, v, rows, segments, tables, Scores(0.4))
        else:
            q, k, v = inputs(new, keys, 2, 2, 8, 8)
            q.requires_grad_(how == "gradients")
            found = attend_padded(q, k, v, mask, scores=Scores(0.4), backend="flex_attention", dropout=dropout)
            expected = formula(q, k, v, allowed, Scores(0.4))
        if how == "gradients":
            assert (found - expected).abs().max() < 1e-5 and found.requires_grad
        else:
            assert not torch.allclose(found, expected.float(), atol=1e-3)
    assert len(told(caplog)) == 1 and words in told(caplog)[0] and "flex_attention" in told(caplog)[0]


def test_weights_are_shown_whatever_computes():
    with torch.no_grad():
        for backend in kernels.BACKENDS[:4]:
            mask, allowed, new, keys = of_step("padded from the start", backend)
            q, k, v = inputs(new, keys, 4, 2, 8, 8)
            shown = []
            found = attend_padded(q, k, v, mask, scores=Scores(0.4), backend=backend, weights=shown)
            assert shown[0].shape == (2, 4, 12, 12)
            real = PADDING[..., None, None]
            assert ((found - formula(q, k, v, allowed, Scores(0.4))) * real).abs().max() < 2e-6


# -- native ----------------------------------------------------------------------------------------------------------


def test_native_is_sdpa_where_there_is_no_kernel():
    mask, _, new, keys = of_step("padded", "native")
    q, k, v = inputs(new, keys, 4, 2, 8, 8)
    how = {"scores": Scores(0.4)}
    assert torch.equal(
        attend_padded(q, k, v, mask, backend="native", **how), attend_padded(q, k, v, mask, backend="sdpa", **how)
    )


# -- flash attention, by packages that compute as the real ones say they do --------------------------------------------


def sees(queries, keys, causal, window):
    """What the packages' documents say is seen: places are counted from the ends."""
    q, k = torch.arange(queries)[:, None] + keys - queries, torch.arange(keys)[None]
    left, right = window
    allowed = torch.ones(queries, keys, dtype=torch.bool)
    if causal:
        allowed &= k <= q
    if left >= 0:
        allowed &= k >= q - left
    if right >= 0:
        allowed &= k <= q + right
    return allowed


def check(q, k, v):
    assert q.dtype == k.dtype == v.dtype and q.dtype in (torch.float16, torch.bfloat16)
    assert q.shape[-1] == k.shape[-1] == v.shape[-1] <= 256 and q.shape[-2] % k.shape[-2] == 0
    assert k.shape[:-1] == v.shape[:-1] and all(x.stride(-1) == 1 for x in (q, k, v))


def one(q, k, v, scale, causal, window, softcap, sinks=None):
    """Rows of one length. Shape: [B, T, H, D]; in float64, so that a test may be exact."""
    allowed = sees(q.shape[1], k.shape[1], causal, window)
    return formula(q, k.transpose(1, 2), v.transpose(1, 2), allowed, Scores(scale, softcap or None), sinks=sinks).to(
        q.dtype
    )


def package(name, calls, *, sinks=False, softcap=True, dropout=True):
    """A module with the functions and the arguments of the real one."""

    def whole(q, k, v, softmax_scale, causal, window_size, softcap=0.0, dropout_p=0.0, s_aux=None):
        calls.append(("whole", q.shape, causal, tuple(window_size), softcap, dropout_p))
        check(q, k, v)
        assert q.dim() == 4
        return one(q, k, v, softmax_scale, causal, window_size, softcap, s_aux)

    def ragged(q, k, v, starts_q, starts_k, most_q, most_k, scale, causal, window, softcap, p, s_aux):
        calls.append(("ragged", q.shape, causal, tuple(window), softcap, p))
        check(q, k, v)
        assert starts_q.dtype == starts_k.dtype == torch.int32 and type(most_q) is type(most_k) is int
        assert len(starts_q) == len(starts_k) and int(starts_q[-1]) <= len(q) and int(starts_k[-1]) <= len(k)
        out = torch.full((*q.shape[:2], v.shape[-1]), float("nan"), dtype=q.dtype)  # memory that nobody wrote to
        for a, b, c, d in zip(starts_q, starts_q[1:], starts_k, starts_k[1:], strict=False):
            assert b - a <= most_q and d - c <= most_k
            out[a:b] = one(q[None, a:b], k[None, c:d], v[None, c:d], scale, causal, window, softcap, s_aux)[0]
        return out

    two = softcap and dropout and not sinks
    module = types.ModuleType(name)
    if two:

        def flash_attn_func(
            q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
            alibi_slopes=None, deterministic=False, return_attn_probs=False,
        ):  # fmt: skip
            return whole(q, k, v, softmax_scale, causal, window_size, softcap, dropout_p)

        def flash_attn_varlen_func(
            q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
            causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
            return_attn_probs=False, block_table=None,
        ):  # fmt: skip
            return ragged(
                q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal, window_size,
                softcap, dropout_p, None,
            )  # fmt: skip

    elif sinks:

        def flash_attn_func(q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, s_aux=None):
            return whole(q, k, v, softmax_scale, causal, window_size, softcap, 0.0, s_aux), None

        def flash_attn_varlen_func(
            q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, seqused_k=None,
            softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, s_aux=None,
        ):  # fmt: skip
            out = ragged(
                q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal, window_size,
                softcap, 0.0, s_aux,
            )  # fmt: skip
            return out, None

    else:  # a release of before soft caps

        def flash_attn_func(q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1)):
            return whole(q, k, v, softmax_scale, causal, window_size)

        def flash_attn_varlen_func(
            q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=None, causal=False,
            window_size=(-1, -1),
        ):  # fmt: skip
            return ragged(
                q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal, window_size,
                0.0, 0.0, None,
            )  # fmt: skip

    module.flash_attn_func, module.flash_attn_varlen_func = flash_attn_func, flash_attn_varlen_func
    return module


@pytest.fixture
def packages(monkeypatch):
    """Both packages are there, and run on this machine."""
    calls = []
    monkeypatch.setitem(sys.modules, "flash_attn", package("flash_attn", calls))
    monkeypatch.setitem(sys.modules, "flash_attn_interface", package("flash_attn_interface", calls, sinks=True))
    monkeypatch.setattr(flash, "DEVICES", frozenset({"cpu"}))
    return calls


FLASH = ("flash_attention_2", "flash_attention_3")
BY_FLASH = {
    "causal": "whole", "later": "whole", "one token": "whole", "window": "whole", "window from the start": "whole",
    "both ways": "whole", "full": "whole", "padded": "ragged", "padded from the start": "ragged",
    "padded, one row for all": "ragged", "padded and full": "ragged",
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("backend", FLASH)
@pytest.mark.parametrize("cap", [None, 0.7])
def test_flash_equals_the_formula(step, backend, cap, packages, caplog):
    mask, allowed, new, keys = of_step(step, backend)
    number = list(STEPS).index(step)
    q, k, v = inputs(new, keys, *SHAPES[number % len(SHAPES)], seed=number, dtype=torch.bfloat16)
    found = attend_padded(q, k, v, mask, scores=Scores(0.4, cap), backend=backend)
    expected = formula(q, k, v, allowed, Scores(0.4, cap))
    real = PADDING[:, -new:, None, None] if "padded" in step else torch.ones(1, 1, 1, 1)
    real = PADDING[1:, -new:, None, None] if "one row" in step else real
    assert ((found - expected) * real).abs().max() < (0.02 if step in BY_FLASH else 0.04)
    assert torch.isfinite(found).all()
    assert [call[0] for call in packages] == ([BY_FLASH[step]] if step in BY_FLASH else [])
    said = {"chunk", "either"}  # what no call can change stands in plans
    assert bool(told(caplog)) == (step not in BY_FLASH and step not in said)


@torch.no_grad()
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("backend", FLASH)
def test_flash_equals_the_formula_of_packed_rows(rule, backend, packages):
    mask, segments, tables, tokens = step_of_rows(rule)
    g = torch.Generator().manual_seed(3)
    q = torch.randn(tokens, 6, 16, generator=g).bfloat16()
    k, v = (torch.randn(1, 3, 160, n, generator=g).bfloat16() for n in (16, 8))
    found = attend_packed(q, k, v, mask, scores=Scores(0.4), backend=backend)
    assert (found - row_by_row(q, k, v, mask, segments, tables, Scores(0.4))).abs().max() < 0.03
    assert [call[0] for call in packages] == ([] if "Chunk" in str(rule) else ["ragged"])


@torch.no_grad()
@pytest.mark.parametrize("backend", FLASH)
def test_sinks_only_where_the_package_has_them(backend, packages):
    mask, allowed, new, keys = of_step("window", backend)
    q, k, v = inputs(new, keys, 4, 2, 16, 16, dtype=torch.bfloat16)
    sinks = torch.randn(4)
    found = attend_padded(q, k, v, mask, scores=Scores(0.4), backend=backend, sinks=sinks)
    assert (found - formula(q, k, v, allowed, Scores(0.4), sinks=sinks.bfloat16())).abs().max() < 0.02
    assert len(packages) == (backend == "flash_attention_3")


def test_gradients_go_around_padding(packages):
    mask, allowed, new, keys = of_step("padded from the start", "flash_attention_2")
    q, k, v = (x.requires_grad_() for x in inputs(new, keys, 4, 2, 16, 16, dtype=torch.bfloat16))
    real = PADDING[..., None, None]
    made = attend_padded(q, k, v, mask, scores=Scores(0.4), backend="flash_attention_2")
    (made * real).sum().backward()
    found = [x.grad.clone() for x in (q, k, v)]
    for x in (q, k, v):
        x.grad = None
    (formula(q, k, v, allowed, Scores(0.4)) * real).sum().backward()
    for mine, x in zip(found, (q, k, v), strict=True):
        assert torch.isfinite(mine).all() and (mine - x.grad).abs().max() < 0.05
    assert not found[0][1, :4].any()


@torch.no_grad()
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": torch.float32}, "float16 and bfloat16, not in float32"),
        ({"width": 288}, "at most 256"),
        ({"device": "cuda"}, "does not run on cpu"),
        ({"backend": "flash_attention_3", "dropout": 0.3}, "drops no"),
    ],
)
@pytest.mark.parametrize("packed_rows", [False, True])
def test_what_flash_cannot_do_is_done_and_said_once(changes, words, packed_rows, packages, monkeypatch, caplog):
    if "device" in changes:
        monkeypatch.setattr(flash, "DEVICES", frozenset({"cuda"}))
    width, dtype = changes.get("width", 16), changes.get("dtype", torch.bfloat16)
    how = {"backend": changes.get("backend", "flash_attention_2"), "dropout": changes.get("dropout", 0.0)}
    mask, _, new, keys = of_step("later", how["backend"])
    rows, _, _, tokens = step_of_rows(Causal())
    for _ in range(2):
        if packed_rows:
            q = torch.randn(tokens, 2, width).to(dtype)
            k, v = torch.randn(1, 2, 160, width).to(dtype), torch.randn(1, 2, 160, width).to(dtype)
            found = attend_packed(q, k, v, rows, scores=Scores(0.1), **how)
        else:
            q, k, v = inputs(new, keys, 2, 2, width, width, dtype=dtype)
            found = attend_padded(q, k, v, mask, scores=Scores(0.1), **how)
        assert found.dtype == dtype and torch.isfinite(found).all()
    assert len(told(caplog)) == 1 and words in told(caplog)[0]
    assert not packages


def test_dropout_is_handed_on_where_the_package_knows_of_it(packages):
    mask, _, new, keys = of_step("later", "flash_attention_2")
    q, k, v = inputs(new, keys, 2, 2, 16, 16, dtype=torch.bfloat16)
    attend_padded(q, k, v, mask, scores=Scores(0.1), backend="flash_attention_2", dropout=0.25)
    assert packages[0][-1] == 0.25


@torch.no_grad()
def test_an_old_release_bounds_no_scores(packages, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", package("flash_attn", packages, softcap=False))
    mask, allowed, new, keys = of_step("later", "flash_attention_2")
    q, k, v = inputs(new, keys, 4, 2, 16, 16, dtype=torch.bfloat16)
    found = attend_padded(q, k, v, mask, scores=Scores(0.4, 0.7), backend="flash_attention_2")
    assert (found - formula(q, k, v, allowed, Scores(0.4, 0.7))).abs().max() < 0.03 and not packages
    how = computed_under(Causal(), "flash_attention_2", Scores(0.4, 0.7), biased=False, sinks=False)
    assert how.prompt.startswith("eager") and "bounds no scores" in how.why


@pytest.mark.parametrize(("name", "word"), [(FLASH[0], "flash-attn"), (FLASH[1], "hopper")])
def test_without_the_package_it_is_said_what_to_install(name, word, monkeypatch):
    monkeypatch.setitem(sys.modules, flash.PACKAGES[name][0], None)
    with pytest.raises(ImportError, match=f"{flash.PACKAGES[name][0]}.*{word}"):
        kernels.backend_named(name)


def test_packages_that_do_not_fit(packages, monkeypatch):
    empty = types.ModuleType("flash_attn")
    monkeypatch.setitem(sys.modules, "flash_attn", empty)
    with pytest.raises(DependencyError, match="too old"):
        kernels.backend_named("flash_attention_2")
    empty.flash_attn_func = empty.flash_attn_varlen_func = lambda q, k, v, cu_seqlens_q, causal: None
    with pytest.raises(DependencyError, match=r"too old.*2\.3"):
        kernels.backend_named("flash_attention_2")
    monkeypatch.setattr(flash, "DEVICES", frozenset({"cuda"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="CUDA devices, and there is none"):
        kernels.backend_named("flash_attention_3")


def test_a_package_built_for_another_torch(monkeypatch):
    def broken(name):
        raise ImportError("undefined symbol: _ZN3c10")

    monkeypatch.setattr(flash.importlib, "import_module", broken)
    with pytest.raises(DependencyError, match=r"cannot be imported.*undefined symbol"):
        kernels.backend_named("flash_attention_2")


# -- what plans say --------------------------------------------------------------------------------------------------


def test_plans_say_which_kernel_and_why(packages):
    def under(backend, rule=Causal(), cap=None, biased=False, sinks=False):  # noqa: B008
        return computed_under(rule, backend, Scores(0.4, cap), biased=biased, sinks=sinks)

    assert under("flex_attention", cap=3.0, biased=True, sinks=True).prompt == "flex_attention"
    assert under("flash_attention_2").decoding == "flash_attention_2"
    assert under("flash_attention_2", Full()).decoding is None
    assert under("flash_attention_2", Causal() & Chunk(4)).prompt == "sdpa, boolean mask"
    assert "no words for" in under("flash_attention_2", Causal() & Chunk(4)).why
    assert under("flash_attention_2", biased=True).prompt == "sdpa, additive mask"
    assert "adds nothing" in under("flash_attention_2", biased=True).why
    assert "knows of no sinks" in under("flash_attention_2", sinks=True).why
    assert under("flash_attention_3", sinks=True).prompt == "flash_attention_3"
    assert under("native").prompt == "sdpa, causal flag" and "native" in under("native").why
    assert computed_across("flash_attention_3", Scores(0.4)).decoding == "flash_attention_3"


# -- names -----------------------------------------------------------------------------------------------------------


def test_names():
    assert kernels.backend_named(None) == "sdpa"
    for name in ("eager", "sdpa", "native", "flex_attention"):
        assert kernels.backend_named(name) == kernels.backend_named(f"paged|{name}") == name
    for wrong, words in (("flex", "flex_attention"), ("flash_attention_4", "flash_attention_3"), (7, "one of eager")):
        with pytest.raises(InputError, match=words):
            kernels.backend_named(wrong)
    with pytest.raises(InputError, match="not fetched from the Hub"):
        kernels.backend_named("kernels-community/flash-attn2")


def test_a_packed_step_by_attend():
    ctx = PackedContext(
        positions=torch.arange(3)[None], segments=(Segment(0, 3, 0),), tables={None: [Slots([0, 1, 2])]}
    )
    q, k, v = torch.randn(1, 3, 2, 8), torch.randn(1, 2, 3, 8), torch.randn(1, 2, 3, 8)
    mask = ctx.mask(Causal(), 3, CPU)
    with torch.no_grad():
        ways = [attend(q, k, v, mask, scores=Scores(0.4), backend=b) for b in ("eager", "sdpa", "flex_attention")]
    assert all(torch.allclose(way, ways[0], atol=1e-6) for way in ways)
    assert Mask() == EVERYTHING
