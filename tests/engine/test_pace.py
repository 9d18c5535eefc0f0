"""How far guesses go: the length that pays by the formula, and what a row learns of its guesses."""

from __future__ import annotations

import random

import pytest

from omniform.engine.pace import LONGEST_PAUSE, Pace, best_length, cost_of_token


def ratio(chance, cost, length):
    """Tokens that a step writes on average, by what it costs."""
    return sum(chance**i for i in range(length + 1)) / (1 + cost * length)


@pytest.mark.parametrize("chance", [0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("cost", [0.01, 0.13, 0.3, 0.8])
def test_the_best_length_is_the_one_that_a_search_finds(chance, cost):
    best = max(range(21), key=lambda n: (ratio(chance, cost, n), -n))
    assert ratio(chance, cost, best_length(chance, cost, 20)) == pytest.approx(ratio(chance, cost, best))
    assert best_length(chance, cost, 3) <= 3


def test_rows_share_the_reading_of_the_weights():
    costs = [cost_of_token(rows) for rows in (0, 1, 4, 24)]
    assert costs[0] == costs[1] < costs[2] < costs[3] < 1


def played(chance, steps=400, cost=0.13, most=10):
    """Tokens written by what steps cost, where a guess comes true with a chance; and how many guesses there were."""
    drawn, pace = random.Random(5), Pace()
    written = spent = drafted = 0.0
    for _ in range(steps):
        length = pace.length(most, cost)
        right = next((i for i in range(length) if drawn.random() >= chance), length)
        pace.learn(length, right, cost)
        written, spent, drafted = written + 1 + right, spent + 1 + cost * length, drafted + length
    return written / spent, drafted


@pytest.mark.parametrize("chance", [0.2, 0.4, 0.6, 0.8, 0.9, 0.97])
def test_what_is_learned_is_nearly_the_best_and_never_worse_than_nothing(chance):
    best = max(ratio(chance, 0.13, n) for n in range(11))
    found, _ = played(chance)
    assert found > 0.88 * best and found > 0.97


def test_guesses_that_never_come_true_stop():
    found, drafted = played(0.0)
    assert found > 0.97 and 400 / LONGEST_PAUSE < drafted + 20 < 80
    always = ratio(0.0, 0.13, 10)
    assert found > 2 * always


def test_a_text_that_begins_to_repeat_itself_is_noticed():
    pace = Pace()
    for _ in range(100):
        pace.learn(n := pace.length(10, 0.13), 0, 0.13)
    lengths = []
    for _ in range(60):
        lengths.append(n := pace.length(10, 0.13))
        pace.learn(n, n, 0.13)
    assert lengths[0] <= 1 and lengths[-1] == 10 and 0 not in lengths[-20:]
