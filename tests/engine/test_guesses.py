"""Guesses behind a row's tokens: confirmed in one step, or taken back as if they had never been."""

from __future__ import annotations

import random

import pytest
from test_contract import answers, cases, wanted

from engines import NEW, family, idle, roomy


class Guesser:
    """Guesses what the row is known to write, spoilt here and there."""

    def __init__(self, known: list[int], seed: int) -> None:
        self.known, self.random, self.right = known, random.Random(seed), 0

    def draft(self, entries, most):
        found = []
        for (_, row), room in zip(entries, most, strict=True):
            guesses = self.known[row.written : row.written + self.random.randrange(5)][:room]
            if guesses and self.random.random() < 0.5:
                guesses[self.random.randrange(len(guesses))] = 7
            found.append(guesses)
        return found

    def confirmed(self, row, drafted, right):
        self.right += right

    def over(self, request):
        """Nothing is kept for it."""


@pytest.mark.parametrize("step", [512, 9])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "t5", "whisper", "llava", "llama dynamic"])
@pytest.mark.parametrize("sampled", [False, True])
def test_tokens_are_the_same_with_guesses(name, step, sampled):
    f = family(name)
    expected = wanted(f, sampled=sampled)
    assert max(map(len, expected)) > NEW // 2
    some = cases(f, sampled=sampled)
    for seed in range(3):
        engine = roomy(f.ours, block_size=4, max_tokens_per_step=step)
        guessers = []
        real = engine.enqueue

        def enqueue(*args, real=real, guessers=guessers, seed=seed, **kwargs):
            request = real(*args, **kwargs)
            request.drafter = Guesser(expected[len(guessers)], seed)
            guessers.append(request.drafter)
            return request

        engine.enqueue = enqueue
        assert answers(engine, some) == expected
        stats = engine.stats()
        assert 0 < stats.tokens_accepted <= stats.tokens_drafted
        assert sum(g.right for g in guessers) == stats.tokens_accepted
        idle(engine)
        engine.enqueue = real
        assert answers(engine, some[:2]) == expected[:2], "what was remembered is right"
