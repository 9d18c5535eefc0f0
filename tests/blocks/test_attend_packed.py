"""Attention over packed rows equals the formula, row by row, however rows, runs and heads lie."""

from __future__ import annotations

from itertools import count as upwards

import pytest
import torch

from omniform.blocks.packed import attend_packed, attend_together
from omniform.blocks.scores import Scores
from omniform.core.packed import PackedMask, Segment
from omniform.core.rules import Causal, Full, Window

PREFIX = list(range(100, 140))
ROWS = ((0, 1), (40, 1), (40, 70), (0, 300), (45, 5), (60, 65), (0, 17), (3, 1), (0, 256), (52, 1))
"""Earlier and new tokens of each row; those of 40 and more earlier ones share a prefix."""


class Slots:
    """A table that is a list of slots."""

    def __init__(self, slots):
        self.slots = slots

    def runs(self, first, stop):
        found = []
        for slot in self.slots[first:stop]:
            if found and found[-1][1] == slot:
                found[-1] = (found[-1][0], slot + 1)
            else:
                found.append((slot, slot + 1))
        return found


def rows(of=ROWS):
    free = upwards(200)
    segments, tables, start = [], [], 0
    for past, new in of:
        own = [next(free) for _ in range(past + new)]
        next(free)  # rows are no neighbours
        segments.append(Segment(start, new, past))
        tables.append(Slots([*PREFIX, *own][: past + new] if past >= len(PREFIX) else own))
        start += new
    return segments, tables, start


def by_the_formula(q, k, v, segments, tables, rule, scores, sinks=None):
    outs = []
    for segment, table in zip(segments, tables, strict=True):
        keys, values = k[0][:, table.slots].double(), v[0][:, table.slots].double()
        mine = q[segment.start : segment.start + segment.count].double()
        mine = mine.view(segment.count, k.shape[1], -1, q.shape[2])
        compared = scores.bounded(torch.einsum("ngrd,gsd->ngrs", mine, keys) * scores.scale)
        query = torch.arange(segment.past, segment.past + segment.count)[:, None]
        seen = rule.allows(query, torch.arange(segment.past + segment.count)[None])
        compared = compared.masked_fill(~seen[:, None, None], float("-inf"))
        if sinks is not None:  # a key without a value
            sink = sinks.double().view(1, k.shape[1], -1, 1).expand(*compared.shape[:3], 1)
            compared = torch.cat((compared, sink), dim=-1)
        shares = compared.softmax(-1)[..., : keys.shape[1]]
        outs.append(torch.einsum("ngrs,gsd->ngrd", shares, values).flatten(1, 2))
    return torch.cat(outs)


@pytest.mark.parametrize("rule", [Causal(), Window(30), Full()], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("groups", "each", "width"), [(3, 1, 64), (2, 2, 32), (3, 4, 64), (1, 20, 64), (2, 4, 48)])
@pytest.mark.parametrize("several", [True, False])
def test_equal_to_the_formula(rule, dtype, groups, each, width, several):
    torch.manual_seed(0)
    segments, tables, tokens = rows(ROWS if several else ((0, 300),))
    q = torch.randn(tokens, groups * each, 64).to(dtype)
    k, v = torch.randn(1, groups, 1500, 64).to(dtype), torch.randn(1, groups, 1500, width).to(dtype)
    mask = PackedMask(rule, segments, tables, [s.past + s.count for s in segments], torch.device("cpu"))
    expected = by_the_formula(q, k, v, segments, tables, rule, Scores(0.2))
    with torch.no_grad():
        found = attend_packed(q, k, v, mask, scores=Scores(0.2), backend="sdpa")
    assert found.dtype == dtype
    assert (found - expected).abs().max() < (1e-5 if dtype == torch.float32 else 0.03)


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("rule", [Causal(), Causal() & Window(30), Window(30), Full()], ids=str)
@pytest.mark.parametrize(("cap", "sink"), [(0.7, False), (None, True), (0.7, True)])
def test_caps_and_sinks_are_exact(rule, cap, sink, backend):
    torch.manual_seed(1)
    segments, tables, tokens = rows()
    q, k, v = torch.randn(tokens, 4, 16), torch.randn(1, 2, 1500, 16), torch.randn(1, 2, 1500, 16)
    sinks = torch.randn(4) * 2 if sink else None
    mask = PackedMask(rule, segments, tables, [s.past + s.count for s in segments], torch.device("cpu"))
    expected = by_the_formula(q, k, v, segments, tables, rule, Scores(0.4, cap), sinks)
    with torch.no_grad():
        found = attend_packed(q, k, v, mask, scores=Scores(0.4, cap), backend=backend, sinks=sinks)
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("rule", [Causal(), Causal() & Window(30)], ids=str)
def test_single_tokens_of_all_rows_at_once(rule):
    torch.manual_seed(2)
    segments, tables, tokens = rows(tuple((past, 1) for past, _ in ROWS))
    q, k, v = torch.randn(tokens, 4, 16), torch.randn(1, 2, 1500, 16), torch.randn(1, 2, 1500, 24)
    mask = PackedMask(rule, segments, tables, [s.past + s.count for s in segments], torch.device("cpu"))
    expected = by_the_formula(q, k, v, segments, tables, rule, Scores(0.4))
    found = attend_together(q.view(tokens, 2, 2, 16), k, v, *mask.together, Scores(0.4))
    assert (found - expected).abs().max() < 1e-5
    segments, tables, tokens = rows()  # some bring more
    assert PackedMask(rule, segments, tables, [1] * len(segments), torch.device("cpu")).together is None
