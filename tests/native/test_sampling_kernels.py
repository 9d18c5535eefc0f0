"""Large vocabularies in order: as torch's stable sort has them, to the last bit, and the filters that use it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from omniform.engine.processors.warpers import outside_top_p
from omniform.native.library import library
from omniform.native.sampling import ascending

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
