"""The highest scores, found by stretches: torch's own answers, ties and oddities included."""

from __future__ import annotations

import random

import pytest
import torch

from omniform.engine.stop import ShownText, StopStrings
from omniform.engine.tops import MANY, MUCH, STRETCH, highest, kth_highest, likeliest

WIDTHS = (MANY, MANY + 1, 2 * MANY - 1, MUCH + STRETCH + 3)


def scores(seed: int, rows: int, width: int) -> torch.Tensor:
    """Scores of a kind that depends on the seed: all distinct, many alike, mostly ruled out, with NaN."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=g)
    if seed % 3 == 1:
        x = (x * (1 + seed % 7)).round()
    if seed % 3 == 2:
        x = x.masked_fill(torch.rand(rows, width, generator=g) < 0.999, float("-inf"))
    if seed % 10 == 5:
        x[-1, seed * 997 % width] = float("nan")
    if seed % 10 == 6:
        x[0, -1] = 99.0
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_highest_is_max_and_the_first_place_of_it(dtype: torch.dtype) -> None:
    for seed in range(40):
        x = scores(seed, 2, WIDTHS[seed % 4] if seed % 4 == 3 else MUCH // 2 + seed).to(dtype)
        expected = x.max(-1)
        values, places = highest(x)
        assert torch.equal(places, expected.indices)
        assert torch.equal(values.nan_to_num(7.0), expected.values.nan_to_num(7.0))


def test_likeliest_is_topk_of_all_sums_in_its_order_of_ties() -> None:
    for seed in range(120):
        rows, count = (1, 2, 4)[seed % 3], (2, 8, 12)[seed // 3 % 3]
        x = scores(seed, rows, WIDTHS[seed % 4])
        before = torch.randn(rows, generator=torch.Generator().manual_seed(seed)) * 3
        if seed % 4 == 0:
            before[1:] = -1e9
        expected = (x + before[:, None]).flatten().topk(count)
        values, places = likeliest(x, before, count)
        assert torch.equal(places, expected.indices)
        assert torch.equal(values.nan_to_num(7.0), expected.values.nan_to_num(7.0))


def test_kth_highest_is_the_last_of_topk() -> None:
    for seed in range(40):
        x, k = scores(seed, 3, 4 * MANY + seed), (1, 2, 50, 63)[seed % 4]
        expected = x.topk(k, dim=-1).values[:, -1:]
        assert torch.equal(kth_highest(x, k).nan_to_num(7.0), expected.nan_to_num(7.0))


class Words:
    """A tokenizer whose tokens are these texts."""

    def __init__(self, *words: str) -> None:
        self._words = words

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(self._words[token] for token in token_ids)


def test_stop_strings_are_found_as_in_the_whole_text() -> None:
    words = ("a", "b", "ab", "ba", "aab", "bb", "abab", "c", "abc", "ca", "aa")
    tokenizer = Words(*words)
    for seed in range(150):
        rng = random.Random(seed)
        strings = ["".join(rng.choices("abc", k=rng.randint(1, 5))) for _ in range(rng.randint(1, 3))]
        stops, row = StopStrings(strings, tokenizer), list[int]()
        held = ShownText(tokenizer, stops)
        given = ""
        for _ in range(20):
            row.append(rng.randrange(len(words)))
            text, before = tokenizer.decode(row), tokenizer.decode(row[:-1])
            ends = any(text.find(s, max(0, len(before) - len(s) + 1)) >= 0 for s in strings)
            assert stops.ends(row) == ends
            if ends:
                break
            given += held.push(row, 0)
            # What is shown is the text but for an end that may be the beginning of a stop string.
            longest = max((n for s in strings for n in range(len(s)) if text.endswith(s[:n])), default=0)
            assert text.startswith(given) and len(given) <= len(text) - longest
            if not longest:
                assert given == text
