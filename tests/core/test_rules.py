"""Attention rules, alone and combined, against loops over every pair."""

from __future__ import annotations

import itertools

import pytest
import torch

from omniform.core.rules import Causal, Chunk, Full, Rule, Window

RULES: dict[str, tuple[Rule, object]] = {
    "full": (Full(), lambda q, k: True),
    "causal": (Causal(), lambda q, k: k <= q),
    "window 1": (Window(1), lambda q, k: q == k),
    "window 3": (Window(3), lambda q, k: abs(q - k) < 3),
    "chunk 4": (Chunk(4), lambda q, k: q // 4 == k // 4),
    "chunk 1": (Chunk(1), lambda q, k: q == k),
}
COMBINED = {
    "sliding": (Causal() & Window(3), lambda q, k: k <= q and q - k < 3),
    "chunked": (Causal() & Chunk(4), lambda q, k: k <= q and q // 4 == k // 4),
    "prefix": (Causal() | Chunk(3), lambda q, k: k <= q or q // 3 == k // 3),
    "nested": ((Causal() & Window(2)) | (Chunk(4) & Full()), lambda q, k: (k <= q and q - k < 2) or q // 4 == k // 4),
}


@pytest.mark.parametrize(("queries", "past"), [(9, 0), (1, 8), (4, 5)])
@pytest.mark.parametrize("name", [*RULES, *COMBINED])
def test_against_every_pair(name, queries, past):
    rule, allows = {**RULES, **COMBINED}[name]
    query, key = torch.arange(past, past + queries), torch.arange(past + queries)
    expected = torch.tensor([[allows(q, k) for k in key.tolist()] for q in query.tolist()])
    assert torch.equal(rule.allows(query[:, None], key[None, :]), expected)


def test_every_pair_of_rules_combines():
    query, key = torch.arange(3, 9)[:, None], torch.arange(9)[None, :]
    for (left, _), (right, _) in itertools.product(RULES.values(), repeat=2):
        a, b = left.allows(query, key), right.allows(query, key)
        assert torch.equal((left & right).allows(query, key), a & b)
        assert torch.equal((left | right).allows(query, key), a | b)


def test_batched_indices():
    query, key = torch.arange(6).view(2, 3, 1), torch.arange(5).view(1, 1, 5)
    assert Causal().allows(query, key).shape == (2, 3, 5)


def test_rules_are_values():
    assert Window(3) == Window(3) != Window(4)
    assert hash(Causal() & Window(3)) == hash(Causal() & Window(3))
    assert (Causal() & Window(3)) != (Causal() | Window(3))
