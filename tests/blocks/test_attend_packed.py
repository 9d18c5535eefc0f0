"""Attention over packed rows equals the formula, row by row, however rows, ranges of slots and heads lie."""

from __future__ import annotations

from itertools import count as upwards

import pytest
import torch

from omniform.blocks import packed
from omniform.blocks.packed import attend_packed
from omniform.blocks.scores import Scores
from omniform.core.packed import PackedMask, Segment
from omniform.core.rules import Causal, Chunk, Full, Window

PREFIX = list(range(100, 140))
ROWS = ((0, 1), (40, 1), (40, 70), (0, 300), (45, 5), (60, 65), (0, 17), (3, 1), (0, 256), (52, 1))
"""Earlier and new tokens of each row; those of 40 and more earlier ones share a prefix."""


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


@pytest.fixture
def gathering(monkeypatch):
    """As on an accelerator."""
    monkeypatch.setattr("omniform.blocks.packed.RANGE_BY_RANGE", frozenset())
    told = []
    batch, ranges = packed._decode_batch, packed._by_range
    monkeypatch.setattr(packed, "_decode_batch", lambda *args: told.append(("decodes", len(args[0]))) or batch(*args))
    monkeypatch.setattr(packed, "_by_range", lambda *args: told.append(("ranges", len(args[0]))) or ranges(*args))
    return told


@pytest.mark.parametrize("rule", [Causal(), Causal() & Window(30), Full(), Window(30)], ids=str)
@pytest.mark.parametrize(("cap", "sink"), [(None, False), (0.7, False), (None, True), (0.7, True)])
@pytest.mark.parametrize("of", ["decodes", "mixed", "prefills", "apart"])
def test_single_tokens_of_all_rows_at_once(rule, cap, sink, of, gathering):
    torch.manual_seed(2)
    kinds = {
        "decodes": tuple((past, 1) for past, _ in ROWS),
        "mixed": ROWS,
        "prefills": tuple(row for row in ROWS if row[1] > 1),
        "apart": ((50, 1), (3, 1), (0, 300), (7, 2)),  # single tokens side by side, and so are the others
    }
    segments, tables, tokens = rows(kinds[of])
    q, k, v = torch.randn(tokens, 4, 16), torch.randn(1, 2, 1500, 16), torch.randn(1, 2, 1500, 24)
    sinks = torch.randn(4) * 2 if sink else None
    mask = PackedMask(rule, segments, tables, [s.past + s.count for s in segments], torch.device("cpu"))
    expected = by_the_formula(q, k, v, segments, tables, rule, Scores(0.4, cap), sinks)
    found = attend_packed(q, k, v, mask, scores=Scores(0.4, cap), backend="sdpa", sinks=sinks)
    assert (found - expected).abs().max() < 1e-5
    singles = sum(segment.count == 1 for segment in segments)
    if singles:  # whatever prompts there are beside them
        assert gathering.pop(0) == ("decodes", singles)
    assert gathering == ([("ranges", tokens - singles)] if tokens > singles else [])


def test_a_token_that_sees_its_keys_in_part_is_no_decode(gathering):
    torch.manual_seed(3)
    segments, tables, tokens = rows(((9, 1), (16, 1), (0, 20)))
    q, k, v = torch.randn(tokens, 4, 16), torch.randn(1, 2, 1500, 16), torch.randn(1, 2, 1500, 16)
    rule = Causal() & Chunk(8)  # the first sees two of ten keys, the second the last alone
    mask = PackedMask(rule, segments, tables, [s.past + s.count for s in segments], torch.device("cpu"))
    found = attend_packed(q, k, v, mask, scores=Scores(0.4), backend="sdpa")
    assert (found - by_the_formula(q, k, v, segments, tables, rule, Scores(0.4))).abs().max() < 1e-5
