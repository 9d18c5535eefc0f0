"""Latent attention: absorbed and expanded are the same, padded and packed, whatever a step brings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omniform.blocks.frequencies import Frequencies
from omniform.blocks.latent import LatentAttention, LatentHeads, LowRankLatentAttention
from omniform.blocks.rotary import InterleavedRotary
from omniform.blocks.scores import Scores
from omniform.core.context import StepContext
from omniform.core.packed import PackedContext, Segment
from omniform.core.rules import Causal, Window
from omniform.core.state import DenseState
from omniform.engine.paged_state import PagedState
from reference import close, randomise

HEADS = LatentHeads(count=3, rank=8, turned=4, plain=6, value=5)


def attention(kind=LatentAttention, rule=None, **how):
    more = {"query_rank": 7} if kind is LowRankLatentAttention else {}
    rotary = InterleavedRotary(Frequencies(dim=4, theta=100.0))
    made = kind(16, HEADS, **more, rule=rule or Causal(), positions=rotary, scores=Scores(0.3), **how).eval()
    torch.manual_seed(0)
    randomise(made, scale=0.5)
    made.slot = 0
    return made


def chosen(layer, absorbing):
    """``layer``, which decides as it is told."""
    layer.absorbs = lambda queries, keys: absorbing(queries, keys)
    return layer


WAYS = {
    "absorbed": lambda queries, keys: True,
    "expanded": lambda queries, keys: False,
    "single tokens absorbed": lambda queries, keys: queries == 1,
    "the other way": lambda queries, keys: queries > 1,
}


@pytest.mark.parametrize("kind", [LatentAttention, LowRankLatentAttention])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@torch.no_grad()
def test_absorbed_and_expanded_are_the_same(kind, backend):
    layer, x = attention(kind, bias=True), torch.randn(2, 7, 16)
    padding = torch.ones(2, 7, dtype=torch.bool)
    padding[1, :3] = False
    for pad in (None, padding):
        ctx = StepContext(positions=torch.arange(7)[None], padding=pad, backend=backend)
        one, other = (chosen(layer, WAYS[way])(x, ctx.with_()) for way in ("absorbed", "expanded"))
        real = slice(None) if pad is None else pad
        close(one[real], other[real], f"{pad is not None}")


class Blocks:
    """A row in some blocks of four slots."""

    def __init__(self, *blocks):
        self.blocks = blocks

    def slot_ranges(self, first, stop):
        slots = [4 * self.blocks[i // 4] + i % 4 for i in range(first, stop)]
        ranges = []
        for slot in slots:
            if ranges and ranges[-1][1] == slot:
                ranges[-1] = (ranges[-1][0], slot + 1)
            else:
                ranges.append((slot, slot + 1))
        return ranges


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", [Causal(), Causal() & Window(3)], ids=str)
@torch.no_grad()
def test_packed_rows_are_those_of_a_padded_step(way, rule):
    """Two rows read in two steps, the second of which brings one token of one and several of the other."""
    layer = attention(rule=rule)
    rows = [torch.randn(1, 9, 16), torch.randn(1, 7, 16)]
    whole = [layer(x, StepContext(positions=torch.arange(x.shape[1])[None])) for x in rows]
    chosen(layer, WAYS[way])
    tables = [Blocks(3, 0, 4), Blocks(1, 5)]
    state = PagedState({0: layer.state_spec()}, {rule.reach: 8}, 4, torch.float32, torch.device("cpu"))
    past = [0, 0]
    for counts in ([5, 2], [3, 1], [1, 4]):
        segments, places, ranges, start = [], [], [], 0
        for row, count in enumerate(counts):
            segments.append(Segment(start, count, past[row]))
            places += range(past[row], past[row] + count)
            ranges += tables[row].slot_ranges(past[row], past[row] + count)
            start += count
        state.begin(rule.reach, ranges)
        x = torch.cat([rows[i][:, past[i] : past[i] + n] for i, n in enumerate(counts)], dim=1)
        positions = torch.tensor([places])
        ctx = PackedContext(
            positions=positions,
            state=state,
            segments=tuple(segments),
            tables={rule.reach: tables},
            lengths=positions + 1,
        )
        expected = torch.cat([whole[i][:, past[i] : past[i] + n] for i, n in enumerate(counts)], dim=1)
        close(layer(x, ctx), expected, f"{counts}")
        past = [p + n for p, n in zip(past, counts, strict=True)]


@torch.no_grad()
def test_what_is_kept_is_one_vector_per_token():
    layer, state = attention(), DenseState()
    x = torch.randn(1, 6, 16)
    whole = layer(x, StepContext(positions=torch.arange(6)[None]))
    layer(x[:, :5], StepContext(positions=torch.arange(5)[None], state=state))
    state.advance(5)
    assert state.latent(0).tensors()[0].shape == (1, 1, 5, 12)
    close(layer(x[:, 5:], StepContext(positions=torch.tensor([[5]]), past=5, state=state)), whole[:, 5:])


def test_what_takes_fewer_multiplications():
    layer = attention()
    assert layer.absorbs(1, 40) and not layer.absorbs(40, 40)
    layer.kv_b_proj = nn.Sequential(layer.kv_b_proj)  # as an adapter would: only the layer itself knows what it does
    assert not layer.absorbs(1, 40)
