"""When contenders differ, and when nobody knows: planted differences in numbers drawn at random."""

from __future__ import annotations

import numpy as np
import pytest

from omniform.bench.config import BenchmarkConfig
from omniform.bench.report.figures import base_of
from omniform.bench.results import Measure, Result, passes_of
from omniform.bench.stats import difference
from omniform.core.errors import ConfigError

TIMES = 50


def quiet(chance: np.random.Generator, longer: float, turns: int = 8) -> list[list[float]]:
    """Turns that differ by 2 %, and now and then one that is disturbed."""
    late = 1 + 0.5 * (chance.random(turns) < 0.1)
    return [[longer * level * (1 + 0.01 * abs(x)) for x in chance.standard_normal(5)]
            for level in late * (1 + 0.02 * chance.standard_normal(turns))]  # fmt: skip


def busy(chance: np.random.Generator, longer: float, turns: int = 8) -> list[list[float]]:
    """Turns on a machine that is never quiet: most samples take up to three times as long, few what they should."""
    slow = 1 + 2 * chance.random(turns)
    return [[longer * (1 + chance.random() * 0.01) * (1 if chance.random() < 0.05 else level * (1 + chance.random()))
             for _ in range(40)] for level in slow]  # fmt: skip


def counts(make, longer: float, better: str = "lower") -> dict[str, int]:
    """Verdicts as a run gives them: after eight turns, or after twice as many more where these are not the same."""
    chance, found = np.random.default_rng(7), {"more": 0, "less": 0, "same": 0, "unclear": 0}
    for _ in range(TIMES):
        pair: tuple[list[list[float]], ...] = ([], [])
        for _ in range(3):
            pair[0].extend(make(chance, 1.0))
            pair[1].extend(make(chance, longer))
            rounds = [[[1 / x if better == "higher" else x for x in turn] for turn in one] for one in pair]
            verdict = difference(*rounds, better=better).verdict
            if verdict == "same":
                break
        found[verdict] += 1
    return found


def test_a_tenth_is_found_on_a_quiet_machine_and_nothing_is_not():
    tenth, nothing = counts(quiet, 1.1), counts(quiet, 1.0)
    assert tenth["more"] >= 0.95 * TIMES and tenth["same"] == tenth["less"] == 0
    assert nothing["more"] + nothing["less"] <= 0.02 * TIMES


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_on_a_busy_machine_the_fastest_samples_tell_it(better: str):
    tenth, nothing = counts(busy, 1.1, better), counts(busy, 1.0, better)
    found, opposite = ("more", "less") if better == "lower" else ("less", "more")
    assert tenth[found] >= 0.95 * TIMES and tenth["same"] == tenth[opposite] == 0
    assert nothing["more"] + nothing["less"] <= 0.02 * TIMES and nothing["same"] >= 0.5 * TIMES


def test_what_cannot_be_told_is_unclear_and_not_the_same():
    chance = np.random.default_rng(3)
    found = [difference(*([[1 + 2 * chance.random()] for _ in range(8)] for _ in range(2))) for _ in range(TIMES)]
    assert {one.verdict for one in found if one.sure} <= {"unclear"}
    assert sum(one.verdict == "unclear" for one in found) >= 0.97 * TIMES


PLAIN = {"name": "x", "scenario": {"kind": "decode"}}


def test_commits_are_of_the_contenders_that_the_repository_holds():
    def titles(contenders: list[object], *commits: str) -> list[str]:
        return [one.title() for one in BenchmarkConfig.of({**PLAIN, "contenders": contenders}, commits).contenders]

    assert titles([], "main", "a" * 40) == ["omniform main", f"omniform {'a' * 12}"]
    assert titles(["omniform", "transformers"], "a", "b") == ["omniform a", "omniform b", "transformers"]
    eight = {"quantize": "int8", "name": "eight bits"}
    assert titles(["omniform", eight], "a") == ["omniform a", "eight bits a"]
    assert titles(["transformers"], "a", "b") == ["transformers a", "transformers b"]
    assert titles([], "a", "a") == ["omniform a", "omniform a (2)"]
    long = "feature/of-a-long-name-"
    assert titles([], f"{long}1", f"{long}2") == [f"omniform {long}1", f"omniform {long}2"]
    with pytest.raises(ConfigError, match="none of the contenders is of the repository"):
        titles(["transformers", "llama_cpp"], "a")


def test_a_commit_is_compared_with_what_is_alike_but_for_the_commit():
    contenders = BenchmarkConfig.of(
        {**PLAIN, "contenders": ["omniform", {"quantize": "int8", "name": "eight bits"}, "transformers"]}, ["a", "b"]
    )
    results = [Result(name="x", scenario="decode", contender=one.title(), commit=one.commit, config=contenders.told())
               for one in contenders.contenders]  # fmt: skip
    bases = {one.contender: base_of(one, results).contender for one in results}
    assert bases == {"omniform a": "omniform a", "omniform b": "omniform a", "eight bits a": "omniform a",
                     "eight bits b": "eight bits a", "transformers": "omniform a"}  # fmt: skip


def shared(chance: np.random.Generator, longer: float, rounds: int = 8) -> tuple[list[list[float]], list[list[float]]]:
    """Two contenders of one pass: the machine slows rounds of both down, and one process is luckier than another."""
    lucky = 1 + 0.03 * chance.standard_normal(2)
    slow = 1 + 3 * chance.permutation(rounds) / rounds
    pair = [[[level * own * (1 + 0.05 * chance.random())] for level in slow] for own in lucky * [1, longer]]
    return pair[0], pair[1]


def verdicts(longer: float, passes: int) -> dict[str, int]:
    chance, found = np.random.default_rng(3), {"more": 0, "less": 0, "same": 0, "unclear": 0}
    for _ in range(TIMES):
        each = [shared(chance, longer) for _ in range(passes)]
        one, two = ([turn for pair in each for turn in pair[side]] for side in (0, 1))
        told = difference(one, two, passes=passes)
        assert not told.sure
        found[told.verdict] += 1
    return found


def test_where_the_machine_disturbs_all_new_processes_must_show_it_each_time():
    assert verdicts(1.1, passes=3)["more"] >= 0.8 * TIMES
    nothing = verdicts(1.0, passes=3)
    assert nothing["more"] + nothing["less"] <= 0.04 * TIMES


def test_passes_are_kept():
    measure = Measure("decode.latency", "s", ((1.0,), (2.0,), (3.0,), (4.0,)), passes=2)
    assert Measure.of(measure.name, measure.told()) == measure
    assert [passes_of({"rounds": 8}, rounds) for rounds in (24, 16, 12, 8, 0)] == [3, 2, 1, 1, 1]
