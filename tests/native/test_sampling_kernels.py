"""Large vocabularies in order: as torch's stable sort has them, to the last bit, and the filters that use it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from omniform.engine.processors.warpers import atypical, below_epsilon, below_eta, below_min_p, outside_top_p
from omniform.native.library import library
from omniform.native.sampling import Filter, ascending, cut, first_highest, next_winner, winner, within

pytestmark = pytest.mark.skipif(library() is None, reason="no native kernels here")


def rows(kind: str, count: int, width: int) -> Tensor:
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(width)) * 3
    if kind == "ties":
        return x.bfloat16().float()
    if kind == "odd":
        odd = torch.tensor([math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38])
        return torch.where(torch.rand(count, width) < 0.3, odd[torch.randint(0, 10, (count, width))], x)
    return x


@pytest.mark.parametrize("kind", ("plain", "ties", "odd"))
@pytest.mark.parametrize("width", (4096, 4097, 50_000, 150_001))
def test_order(kind: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(kind, 3, width + 5)[:, :width]
    right = x.sort(dim=-1, stable=True)
    monkeypatch.setattr(Tensor, "sort", None)  # torch is not asked
    values, places = ascending(x)
    assert torch.equal(places, right.indices)
    assert torch.equal(values.view(torch.int32), x.gather(1, places).view(torch.int32))


@pytest.mark.parametrize("kind", ("plain", "ties"))
@pytest.mark.parametrize("mass", (0.3, 0.9, 0.999))
def test_top_p_keeps_the_same_tokens(kind: str, mass: float) -> None:
    scores = rows(kind, 2, 30_000) / 3  # so flat that no few tokens decide
    unlikeliest, order = scores.sort(dim=-1)
    out = unlikeliest.softmax(-1).cumsum(-1) <= 1 - mass
    assert torch.equal(outside_top_p(scores, mass), torch.empty_like(out).scatter(-1, order, out))


RULES = {
    Filter.TOP_P: outside_top_p,
    Filter.TYPICAL: atypical,
    Filter.MIN_P: below_min_p,
    Filter.EPSILON: below_epsilon,
    Filter.ETA: below_eta,
}
AMOUNTS = {Filter.TOP_P: (0.1, 0.9, 0.9999), Filter.TYPICAL: (0.1, 0.9, 0.9999)}


def given(kind: str, count: int, width: int) -> Tensor:
    x = rows("ties" if kind == "ties" else "plain", count, width)
    if kind == "peaked":
        x[:, width // 2] = 20
    if kind == "barred":
        x = x.masked_fill(x < 2, -math.inf)
    return torch.zeros_like(x) if kind == "equal" else x / 3 if kind == "flat" else x


@pytest.mark.parametrize("kind", ("plain", "ties", "peaked", "barred", "flat", "equal"))
@pytest.mark.parametrize("by", RULES)
def test_cuts_are_the_filters_where_there_is_no_doubt(kind: str, by: Filter) -> None:
    for width in (4096, 4109, 40_001):
        scores = given(kind, 3, width)
        for amount in AMOUNTS.get(by, (1e-4, 3e-3, 0.5)):
            kept = ~RULES[by](scores, amount) & scores.isfinite()
            bounds = cut(scores, by, amount)
            assert bounds is not None
            least, low, high, most = bounds.T[..., None]
            sure = (scores >= low) & (scores <= high)
            doubt = (scores >= least) & (scores <= most) & ~sure & scores.isfinite()
            assert torch.equal(kept & ~doubt, sure & ~doubt & scores.isfinite())
            # Two scores' tokens may be in doubt however likely they are; besides those there is next to nothing.
            for own, odds, who in zip(scores, scores.softmax(-1), doubt, strict=True):
                values, which = own[who].unique(return_inverse=True)
                together = torch.zeros(len(values)).index_add(0, which, odds[who])
                assert together.sort().values[:-2].sum() < 2e-3
            alone = cut(scores[1:2], by, amount)
            assert alone is not None and torch.equal(alone, bounds[1:2])


def test_a_sure_token_is_in_no_doubt() -> None:
    scores = given("peaked", 1, 50_000)
    for by in (Filter.TOP_P, Filter.TYPICAL):
        bounds = cut(scores, by, 0.5)
        assert bounds is not None and bounds[0, 1] <= 20 <= bounds[0, 2]


@pytest.mark.parametrize("odd", (math.nan, math.inf, 1e9))
def test_odd_scores_are_not_cut(odd: float) -> None:
    scores = given("plain", 2, 5000)
    scores[1, 4999] = odd
    assert cut(scores, Filter.TOP_P, 0.9) is None
    assert cut(torch.full((1, 5000), -math.inf), Filter.TYPICAL, 0.9) is None


@pytest.mark.parametrize("low", (-1.0, 2.5, 11.0, 100.0))
def test_those_within(low: float) -> None:
    scores = rows("plain", 3, 5003)
    scores[2, 77] = math.nan
    bounds = torch.tensor([low, low, 12.0, 12.0]).expand(3, 4).contiguous()
    inside = ~(scores < low) & ~(scores > 12.0)
    found = within(scores, bounds, 5003)
    assert found is not None and within(scores, bounds, int(inside.sum(-1).max()) - 1) is None
    for row in range(3):
        places = inside[row].nonzero()[:, 0]
        assert torch.equal(found[1][row, : len(places)], places)
        assert torch.equal(found[0][row, : len(places)].nan_to_num(), scores[row, places].nan_to_num())
        assert (found[0][row, len(places) :] == -math.inf).all()


@pytest.mark.parametrize("count", (1, 63, 64, 65, 3000))
def test_draws_are_the_first_of_the_largest(count: int) -> None:
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        odds = (torch.randn(count, generator=g) * (seed % 7)).softmax(0)
        if seed % 3 == 0:
            odds = odds.masked_fill(torch.rand(count, generator=g) < 0.7, 0.0)
        uniform = torch.rand(9000, generator=g, dtype=torch.float64)
        if seed % 4 == 0:
            uniform = (uniform * 8).round() / 8.01 + 1e-3  # many are equal
        tokens = torch.randperm(9000, generator=g)[:count] if seed % 2 else None
        own = uniform[:count] if tokens is None else uniform[tokens]
        race = odds / (-torch.log1p(-own)).float()
        found = winner(odds, tokens, uniform)
        assert found is not None and float(race[found]) == float(race.max())
        assert found == int((race == race.max()).nonzero()[0])


def test_torch_s_generator_goes_on() -> None:
    ours, theirs = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    for size in (1, 311, 312, 313, 624, 5000, 150_000):
        odds = torch.rand(size) + 0.01
        state = ours.get_state()
        found = next_winner(odds, None, size, state)
        ours.set_state(state)
        race = odds / (-torch.log1p(-torch.empty(size, dtype=torch.float64).uniform_(generator=theirs))).float()
        assert found == int(race.argmax()) and torch.equal(state, theirs.get_state())
        next_winner(None, None, size, state)
        ours.set_state(state)
        torch.empty(size, dtype=torch.float64).uniform_(generator=theirs)
        torch.rand(1, generator=ours), torch.rand(1, generator=theirs)  # an odd word between
    assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("width", (4096, 4097, 50_015, 150_001))
def test_the_first_of_the_highest(dtype: torch.dtype, width: int) -> None:
    for kind in ("plain", "ties", "odd"):
        x = rows(kind, 4, width).to(dtype)
        x[1] = -math.inf
        x[2, -1] = math.inf
        x[3] = x[3].nan_to_num(0.0)
        found = first_highest(x)
        assert found is not None and torch.equal(found, x.max(-1).indices)
