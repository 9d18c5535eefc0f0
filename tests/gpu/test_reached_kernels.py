"""Triton's attention against the softmax written out in float64: on a GPU, or by Triton's interpreter on a CPU.

The interpreter is Triton's own (``TRITON_INTERPRET=1``), so without a GPU and without Triton nothing runs here.
"""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest
import torch
from torch import Tensor

from omniform.blocks import reached as blocks
from omniform.blocks.scores import Scores
from omniform.core.packed import PackedMask, Segment
from omniform.core.reached import DecodeMask, Reached, limits, rows_of
from omniform.core.rules import Causal, Chunk, Full, Rule, Window

HAS_TRITON = importlib.util.find_spec("triton") is not None
ON = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(
    not HAS_TRITON or (ON == "cpu" and os.environ.get("TRITON_INTERPRET") != "1"),
    reason="no GPU, and not asked to interpret",
)
RULES = [Causal(), Causal() & Window(37), Causal() & Chunk(24), Full()]
BLOCK = 8


@pytest.fixture(autouse=True)
def _anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "DEVICES", frozenset({"cpu", "cuda"}))


class Blocks:
    """A row's blocks, in no order."""

    def __init__(self, blocks: list[int]) -> None:
        self.blocks = blocks

    def slot_ranges(self, first: int, stop: int) -> list[tuple[int, int]]:
        slots = [self.blocks[n // BLOCK] * BLOCK + n % BLOCK for n in range(first, stop)]
        return [(slot, slot + 1) for slot in slots]


def case(
    lengths: list[int], counts: list[int], heads: int, groups: int, width: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, list[Segment], list[Blocks]]:
    torch.manual_seed(sum(lengths) + width)
    held = [-(-n // BLOCK) for n in lengths]
    order = torch.randperm(sum(held) + 3).tolist()
    tables, start, segments = [], 0, []
    for n, count, blocks_ in zip(lengths, counts, held, strict=True):
        tables.append(Blocks([order.pop() for _ in range(blocks_)]))
        segments.append(Segment(start, count, n - count))
        start += count
    slots = (sum(held) + 3) * BLOCK
    q = torch.randn(start, heads, width, device=ON).to(dtype)
    k, v = (torch.full((1, groups, slots, width), float("nan"), device=ON, dtype=dtype) for _ in range(2))
    for table in tables:
        for block in table.blocks:
            at = slice(block * BLOCK, (block + 1) * BLOCK)
            k[:, :, at], v[:, :, at] = (torch.randn(1, groups, BLOCK, width, device=ON).to(dtype) for _ in range(2))
    return q, k, v, segments, tables


def written_out(
    q: Tensor, k: Tensor, v: Tensor, rule: Rule, segments: list[Segment], tables: list[Blocks], lengths: list[int],
    scores: Scores, sinks: Tensor | None, bias: Tensor | None,
) -> Tensor:  # fmt: skip
    each = q.shape[1] // k.shape[1]
    outs = []
    for segment, table, length in zip(segments, tables, lengths, strict=True):
        slots = [a for a, _ in table.slot_ranges(0, length)]
        keys, values = (x[0, :, slots].double().repeat_interleave(each, 0) for x in (k, v))
        own = q[segment.start : segment.start + segment.count].double().transpose(0, 1)
        score = scores.bounded(own @ keys.transpose(1, 2) * scores.scale)
        at = torch.arange(segment.past, segment.past + segment.count, device=ON)
        if bias is not None:
            score = score + bias[:, segment.start : segment.start + segment.count, :length].double()
        score = score.masked_fill(~rule.allows(at[:, None], torch.arange(length, device=ON)[None]), float("-inf"))
        if sinks is not None:
            score = torch.cat([score, sinks.double()[:, None, None].expand(-1, segment.count, 1)], -1)
        odds = score.softmax(-1)[..., :length]
        outs.append((odds @ values).transpose(0, 1))
    return torch.cat(outs)


def off(got: Tensor, want: Tensor) -> float:
    assert not got.isnan().any()
    return float((got.double() - want).norm() / want.norm())


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(("heads", "groups", "width"), [(8, 2, 32), (6, 2, 24), (4, 4, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_of_any_lengths(rule: Rule, heads: int, groups: int, width: int, dtype: torch.dtype) -> None:
    lengths, counts = [70, 9, 150, 33], [70, 1, 45, 20]
    q, k, v, segments, tables = case(lengths, counts, heads, groups, width, dtype)
    seen = Reached.of(PackedMask(rule, segments, tables, lengths, q.device))
    assert seen is not None
    scores = Scores(width**-0.5)
    got = blocks.attend_reached(q, k, v, seen, scores=scores)
    want = written_out(q, k, v, rule, segments, tables, lengths, scores, None, None)
    assert off(got, want) < (1e-5 if dtype is torch.float32 else 1e-2)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("sunk", [False, True])
@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("width", [128, 512])
def test_single_tokens(rule: Rule, sunk: bool, cap: float | None, biased: bool, width: int) -> None:
    """With one part of keys, and with several; the tables told on the device."""
    lengths = [min(n, width) for n in (1, 77, 300, 129, 128, 500)]
    q, k, v, segments, tables = case(lengths, [1] * len(lengths), 6, 3, 16, torch.float32)
    sinks = torch.randn(6, device=ON) if sunk else None
    bias = torch.randn(len(lengths), width, 6, device=ON).permute(2, 0, 1) if biased else None  # as T5's tables give it
    listed = torch.zeros(len(lengths), width // BLOCK, dtype=torch.int32)
    for row, table in zip(listed, tables, strict=True):
        row[: len(table.blocks)] = torch.tensor(table.blocks)
    slots = rows_of(listed.to(ON), BLOCK)
    index = torch.tensor([n - 1 for n in lengths], device=ON)
    if isinstance(rule, Full):
        high = torch.tensor(lengths, dtype=torch.int32, device=ON)
        mask = DecodeMask(rule, slots, torch.zeros_like(high), high)
    else:
        low, high = limits(rule, width, q.device)
        mask = DecodeMask(rule, slots, low[index], high[index])
    scores = Scores(0.4, cap)
    want = written_out(q, k, v, rule, segments, tables, lengths, scores, sinks, bias)
    got = blocks.attend_reached(q, k, v, mask.made["reached"], scores=scores, sinks=sinks, bias=bias)  # type: ignore[arg-type]
    assert off(got, want) < 1e-5
    k, v = k.nan_to_num(0), v.nan_to_num(0)
    gathered = blocks.attend_gathered(q, k, v, mask, scores=scores, sinks=sinks, bias=bias)
    assert off(gathered, want) < 1e-5


def test_a_row_is_the_same_in_any_company() -> None:
    lengths = [300, 77, 411]
    q, k, v, segments, tables = case(lengths, [1, 1, 1], 4, 2, 32, torch.float32)
    scores = Scores(0.2)
    many = Reached.of(PackedMask(Causal(), segments, tables, lengths, q.device))
    assert many is not None
    together = blocks.attend_reached(q, k, v, many, scores=scores)
    for n, (segment, table, length) in enumerate(zip(segments, tables, lengths, strict=True)):
        one = Reached.of(PackedMask(Causal(), [Segment(0, 1, segment.past)], [table], [length], q.device))
        assert one is not None
        alone = blocks.attend_reached(q[n : n + 1], k, v, one, scores=scores)
        if length > blocks.CHUNK:
            assert torch.equal(alone[0], together[n])
    assert np.isfinite(together.cpu().numpy()).all()
