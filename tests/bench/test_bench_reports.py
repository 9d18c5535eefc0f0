"""What results say: planted differences are found, planted equality is not; pages are looked at in a real Chromium."""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from omniform.bench import table
from omniform.bench.config import BenchmarkConfig
from omniform.bench.report.commands import add
from omniform.bench.report.compare import compare
from omniform.bench.report.figures import plain, shown, turns_of
from omniform.bench.report.history import history, sparkline
from omniform.bench.report.html import history_page, page
from omniform.bench.report.markdown import comparison_markdown, markdown
from omniform.bench.report.sources import results_of
from omniform.bench.report.svg import line_chart
from omniform.bench.report.terminal import comparison_lines
from omniform.bench.results import Measure, Result
from omniform.bench.store.store import Store
from omniform.core.errors import InputError, OmniformError, StoreError

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))

from browsing import WHY_NOT, browser

EVIL = '"><img src=x onerror=alert(1)><script>alert(2)</script>|`*'


def result(
    slow: float = 1.0, *, turns: int = 12, seed: int = 0, noise: float = 0.01, only: Sequence[str] = (), **given: object
) -> Result:
    rng = random.Random(seed)
    rounds = tuple(tuple(0.0125 * slow * rng.gauss(1, noise) for _ in range(5)) for _ in range(turns))
    measures = [
        Measure("decode.latency", "s", rounds),
        Measure("decode.throughput", "tokens/s", tuple(tuple(16 / one for one in turn) for turn in rounds), "higher"),
        Measure("load.latency", "s", tuple((rng.gauss(0.5, 0.005),) for _ in range(turns))),
        Measure("cpu.use", "%", tuple((100.0 * slow,) for _ in range(turns))),
        Measure("gpu.use", "%", tuple((0.0,) for _ in range(turns))),
    ]
    settings: dict[str, object] = {
        "name": "generate", "scenario": "generate", "contender": "omniform", "status": "done", "started": 1.79e9,
        "machine": {"cpu": "EPYC", "cores": 2, "memory": 2**34, "host": "here"}, "commit": None,
        "versions": {"python": "3.11.7", "torch": "2.13.0"}, "config": {"scenario": {"batch": 1}},
        "measures": {one.name: one for one in measures if not only or one.name in only},
    }  # fmt: skip
    return Result(**{**settings, **given})  # type: ignore[arg-type]


def verdicts(first: Sequence[Result], second: Sequence[Result], **given: object) -> dict[str, str]:
    return {row.metric: row.verdict for row in compare(first, second, **given).rows}  # type: ignore[arg-type]


def test_a_planted_slowdown_is_found_and_comes_first() -> None:
    found = compare([result()], [result(1.1, seed=1)])
    assert {row.metric for row in found.regressions} == {"decode.latency", "decode.throughput"}
    assert [row.verdict for row in found.rows] == ["worse", "worse", "changed", "same", "untested"]
    latency = next(row for row in found.rows if row.metric == "decode.latency")
    assert latency.low < 1.1 < latency.high and latency.sure and latency.turns == (12, 12)
    back = verdicts([result(1.1, seed=1)], [result()])
    assert back["decode.latency"] == back["decode.throughput"] == "better"


def test_planted_equality_is_not_found() -> None:
    for seed in range(20):
        found = verdicts([result(seed=seed)], [result(seed=100 + seed)])
        assert set(found.values()) == {"same", "untested"}, (seed, found)


def test_few_turns_are_doubted_and_fewer_say_nothing() -> None:
    few = compare([result(turns=4)], [result(1.1, turns=4, seed=1)])
    assert few.regressions and not any(row.sure for row in few.rows)
    assert any("?: few turns" in line for line in comparison_lines(few))
    assert verdicts([result(turns=2)], [result(1.5, turns=2)])["decode.latency"] == "untested"


def test_samples_of_a_single_turn_are_taken_for_turns() -> None:
    one = Measure("a", "s", ((), (1.0, 2.0, 3.0)))
    assert turns_of(one, "value") == [[1.0], [2.0], [3.0]]
    assert turns_of(Measure("a", "s", ((1.0, 3.0), (), (5.0,))), "mean") == [[2.0], [5.0]]


def test_any_statistic_is_compared() -> None:
    assert verdicts([result()], [result(1.2, seed=1)], metrics=["decode.latency.p90", "load.latency.mean"]) == {
        "decode.latency.p90": "worse", "load.latency.mean": "same",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"'decode.latancy' was not measured.*Did you mean 'decode.latency'"):
        compare([result()], [result()], metrics=["decode.latancy"])


def test_contenders_of_two_commits_are_the_same_one() -> None:
    first = result(commit="0123456789abcdef", contender="omniform 0123456789ab bfloat16")
    called = {"contenders": [{"kind": "omniform", "commit": "HEAD~3"}]}
    second = result(1.1, seed=1, commit="fedcba9876543210", contender="omniform HEAD~3 bfloat16", config=called)
    assert plain(first) == plain(second) == "omniform bfloat16"
    assert plain(result(commit=None, contender="a 0123456")) == "a 0123456"
    other = result(contender="transformers bfloat16")
    assert verdicts([first, other], [second, other])["decode.latency"] == "same"  # of the other; the last one
    found = compare([first, other], [second])
    assert len(found.regressions) == 2 and found.only_first == ["generate, transformers bfloat16"]


def test_the_single_ones_that_are_left_are_compared() -> None:
    assert len(compare([result(contender="a")], [result(1.1, seed=1, contender="b")]).regressions) == 2


def test_what_else_differs_is_told() -> None:
    machine = {"cpu": "Xeon", "cores": 4}
    second = result(machine=machine, versions={"torch": "2.14.0"}, config={"scenario": {"batch": 4}}, noise=0.01)
    second.noise.append("the processor was throttled")
    text = "\n".join(compare([result()], [second, result(status="failed", error="no room", contender="x")]).notes)
    assert "machines differ: EPYC, 2 cores, 16 GiB / Xeon, 4 cores" in text
    assert "torch 2.13.0 / Python none, torch 2.14.0" in text
    assert "configs differ: scenario.batch: 1 / 4" in text
    assert "the second was noisy: the processor was throttled" in text and "take turns" not in text
    (late,) = compare([result()], [result(started=1.79e9 + 3 * 3600)]).notes
    assert "they did not take turns, but were measured 3 h apart" in late


def test_failures_and_what_only_one_has() -> None:
    found = compare(
        [result(), result(contender="gone")],
        [result(only=["decode.latency"]), result(contender="x", status="failed", error="no room", measures={})],
    )
    assert "generate, omniform: load.latency" in found.only_first and "generate, gone" in found.only_first
    assert found.failed == ["the second: generate, x: failed: no room"]
    with pytest.raises(InputError, match=r"nothing of the second set was measured.*no room"):
        compare([result()], [result(status="failed", error="no room", measures={})])


def test_numbers_as_people_read_them() -> None:
    cases = {
        (0.0123456, "s"): "12.3 ms", (1.5e-7, "s"): "150 ns", (12.0, "s"): "12.0 s", (0.0, "s"): "0 s",
        (5.2e8, "B"): "520 MB", (1234.5, "tokens/s"): "1,234 tokens/s", (99.0, "%"): "99.0 %",
        (math.nan, "s"): "–", (2e12, "FLOP"): "2.00 TFLOP",
        (0.0004, "J"): "0.0004 J", (1500.0, "B"): "1.50 kB", (-0.01, "s"): "-10.0 ms",
    }  # fmt: skip
    assert {case: shown(*case) for case in cases} == cases


def test_history_by_run_and_by_commit() -> None:
    runs = [
        result(1.0 + at // 2 / 10, seed=at, commit=f"{at // 2}" * 40, started=1.79e9 + 86400 * at,
               contender=f"omniform {at // 2:1}{f'{at // 2}' * 11}")
        for at in (3, 2, 1, 0)
    ]  # fmt: skip
    [series] = history(runs, "decode.latency.median")
    assert [point.turns for point in series.points] == [12] * 4
    assert [point.time for point in series.points] == sorted(point.time for point in series.points)
    [series] = history(runs, "decode.latency", by_commit=True)
    assert [point.label for point in series.points] == ["0" * 10, "1" * 10]
    first, second = series.points
    assert first.low < 0.0125 < first.high < second.low < 0.01375 < second.high and second.turns == 24
    assert sparkline([1.0, 2.0, 8.0, math.nan]) == "▁▂█ " and sparkline([3.0, 3.0]) == "▁▁" and sparkline([]) == ""
    with pytest.raises(InputError, match=r"'decode.latncy' was not measured.*Did you mean"):
        history(runs, "decode.latncy.mean")


def test_machines_are_not_mixed_in_a_history() -> None:
    found = history([result(), result(machine={"cpu": "Xeon"})], "decode.latency")
    assert [series.title for series in found] == [
        "generate, omniform (EPYC, 2 cores, 16 GiB)",
        "generate, omniform (Xeon)",
    ]


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [1e-9, 1e9], [math.nan, 1.0], [-1.0, 1.0], [1e300], [5e-324]])
def test_charts_of_any_numbers_are_svg(values: list[float]) -> None:
    runs = [
        result(name=EVIL, started=1e9 + at, measures={"a.b": Measure("a.b", "s", ((value,), (value,)))})
        for at, value in enumerate(values)
    ]
    [series] = history(runs, "a.b")
    drawn = ET.fromstring(line_chart(series, "c", alone=True))
    numbers = re.findall(r"[-\d.e+]+|nan|inf", " ".join(one.get("points", "") for one in drawn.iter()))
    assert all(math.isfinite(float(number)) for number in numbers)
    assert EVIL in "".join(drawn.itertext())


class Tags(HTMLParser):
    """What elements and attributes a page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs


def everything() -> list[Result]:
    evil: dict[str, object] = {"name": EVIL, "scenario": EVIL, "error": EVIL, "noise": [EVIL]}
    found = [
        result(slow * kind, seed=at, commit=commit * 40, contender=who, started=1.79e9 + 86400 * at)
        for at, (commit, slow) in enumerate([("a", 1.0), ("b", 1.0), ("c", 1.1), ("d", 1.0)])
        for who, kind in (("omniform", 1.0), ("transformers", 2.5))
    ]
    hostile = result(contender=EVIL, machine={"cpu": EVIL}, versions={EVIL: EVIL}, commit=EVIL)
    hostile.measures = {EVIL: Measure(EVIL, EVIL, ((1.0,), (2.0,)))}
    for name, value in {**evil, "error": None}.items():
        setattr(hostile, name, value)
    failed = result(status="failed", measures={}, **{key: evil[key] for key in ("name", "scenario", "error")})
    return [
        *found,
        hostile,
        result(contender="x", name=EVIL, scenario=EVIL),
        failed,
        result(status="running", measures={}),
    ]


def test_pages_are_one_file_and_names_are_no_markup() -> None:
    results = everything()
    for text in (page(results, title=EVIL), history_page(EVIL, history(results, "decode.latency"))):
        found = Tags(text)
        assert found.names.count("script") == 1 and "img" not in found.names
        assert not {name for name, _ in found.attributes if name.startswith("on") or name in ("src", "srcset")}
        assert all(str(value).startswith("#") for name, value in found.attributes if name == "href")
        assert not re.search(r"https?://|//[a-z]|url\(|@import", text)
        ids = [value for name, value in found.attributes if name == "id"]
        assert len(ids) == len(set(ids))
        for name, value in found.attributes:
            if name == "aria-labelledby":
                assert set(str(value).split()) <= set(ids)


def test_markdown_tables_are_whole_whatever_names_hold() -> None:
    text = markdown(everything())
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    assert "<script>" not in re.sub(r"(?<!\\)`[^`]*`", "", text)  # but in code, where it is none
    assert "2026-09-21 to 2026-09-24; EPYC, 2 cores, 16 GiB; Python 3.11.7, torch 2.13.0." in text
    assert "| `decode.latency` | 12." in text
    told = comparison_markdown(compare([result()], [result(1.1, seed=1)]))
    assert told.index("REGRESSIONS") < told.index("The same") and "| `decode.latency` |" in told


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers())
    given = parser.parse_args(words)
    return int(given.work(given))


@pytest.fixture
def db(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'bench.db'}"
    with Store.open(url) as store:
        for one in everything()[:8]:
            store.finish(one)
    return url


def test_commands(db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "aaaa", "bbbb", "--db", db, "--fail-on-regression") == 0
    assert "no regressions" in capsys.readouterr().out
    assert run("compare", "bbbb", f"{db}#cccc", "--db", db, "--fail-on-regression") == 1
    said = capsys.readouterr().out
    assert said.index("REGRESSIONS (4)") < said.index("The same")
    assert run("compare", "bbbb", "cccc", "--db", db) == 0
    assert run("compare", "bbbb", "cccc", "--db", db, "--fail-on-regression", "--least", "0.2") == 0
    capsys.readouterr()
    assert run("history", "decode.latency", "--db", db, "--contender", "omniform", "--svg", str(tmp_path / "h.svg"),
               "--html", str(tmp_path / "h.html")) == 0  # fmt: skip
    assert "▁▁█▁" in capsys.readouterr().out.replace("▂", "▁")
    ET.parse(tmp_path / "h.svg")
    assert run("report", "--db", db, "--html", str(tmp_path / "r.html"), "--markdown", "-") == 0
    assert "## generate" in capsys.readouterr().out and (tmp_path / "r.html").exists()
    assert run("export", "--db", db, "--json", str(tmp_path / "r.json"), "--csv", str(tmp_path / "r.csv")) == 0
    assert run("compare", str(tmp_path / "r.json"), "dddd", "--db", db) == 0
    assert run("runs", "--db", db) == 0
    assert "8 runs" in capsys.readouterr().out
    lines = tmp_path / "r.jsonl"
    lines.write_text("\n".join(json.dumps(one) for one in json.loads((tmp_path / "r.json").read_text())))
    assert len(results_of(str(lines))) == len(results_of(db)) == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("compare", "nowhere.json", "x"), r"no such file.*Add --db URL"),
        (("compare", "aaaa", "9999", "--db", "DB"), r"no results are of that name.*expected.*a commit"),
        (("compare", "aaaa", "omnifrom", "--db", "DB"), r"Did you mean 'omniform'"),
        (("compare", "aaaa", "bbbb", "--db", "DB", "--least", "5"), r"--least: is no share"),
        (("compare", "aaaa", "bbbb", "--db", "DB", "--metrics", "x.y"), r"'x.y' was not measured"),
        (("compare", "BAD", "bbbb", "--db", "DB"), r"is no JSON"),
        (("compare", "ODD", "bbbb", "--db", "DB"), r"holds no results"),
        (("history", "x.y", "--db", "DB"), r"'x.y' was not measured"),
        (("history", "decode.latency"), r"nobody said of which results"),
        (("report", "--db", "DB", "--name", "none"), r"there are no such results.*name=none"),
        (("report", "--db", "DB", "--html", "/proc/none/r.html"), r"cannot be written"),
        (("report", "--db", "DB", "--since", "soon"), r"is no date"),
        (("report", "--db", "nothing"), r"is not the URL of a database"),
        (("export", "--db", "DB"), r"nobody said what to write"),
    ],
)
def test_mistakes_are_told(db: str, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "odd.json").write_text('[{"id": 3}]')
    places = {"DB": db, "BAD": str(tmp_path / "bad.json"), "ODD": str(tmp_path / "odd.json")}
    with pytest.raises(OmniformError, match=f"(?s){said}"):
        run(*(places.get(word, word) for word in words))


def test_the_command_line_knows_them_and_prints_what_a_database_refuses(
    db: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from omniform.bench import benchmark, storing
    from omniform.cli.main import main

    assert main(["bench", "compare", "bbbb", "cccc", "--db", db, "--fail-on-regression"]) == 1
    assert main(["bench", "--config-name", "decode", "runs", "--db", db]) == 2
    assert main(["bench", "runs", "--db", db, "scenario.batch=4"]) == 2
    assert main(["bench", "--db", db, "compare", "bbbb", "cccc", "--fail-on-regression"]) == 1
    assert main(["bench", "--commit", "bbbb", "history", "decode.latency.median", "--db", db]) == 2
    assert capsys.readouterr().err.count("is of measuring, and not of omniform bench runs") == 2
    done = result()

    class Measuring:
        interrupted = False

        def __init__(self, _: object, *, on_result: Sequence[storing.Keeping], **__: object) -> None:
            self.on_result = on_result

        def run(self) -> list[Result]:
            for hears in self.on_result:
                hears(done)
            return []

    def full(*_: object) -> None:
        raise StoreError("cannot keep generate: disk is full")

    monkeypatch.setattr(benchmark, "Benchmark", Measuring)
    monkeypatch.setattr(Store, "finish", full)
    assert main(["bench", "--config-name", "generate", "--db", db, "--json", "-"]) == 2
    assert json.loads(capsys.readouterr().out) == []
    assert main(["bench", "--config-name", "generate", "--db", db]) == 2
    said = capsys.readouterr()
    assert "disk is full" in said.err
    assert Result.of(json.loads(said.out.splitlines()[-1])) == done


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_pages_in_a_browser(tmp_path: Path) -> None:
    results = everything()
    (tmp_path / "r.html").write_text(page(results), encoding="utf-8")
    (tmp_path / "h.html").write_text(
        history_page("decode.latency", history(results, "decode.latency")), encoding="utf-8"
    )
    with browser() as chromium:
        for width in (360, 1280):
            for scheme in ("light", "dark"):
                context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
                opened = context.new_page()
                wrong: list[str] = []
                opened.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
                opened.on("console", lambda said, wrong=wrong: wrong.append(said.text))
                opened.on("dialog", lambda dialog, wrong=wrong: (wrong.append(dialog.message), dialog.dismiss()))
                opened.on(
                    "request",
                    lambda asked, wrong=wrong: None if asked.url.startswith("file:") else wrong.append(asked.url),
                )
                for name in ("h", "r"):
                    opened.goto((tmp_path / f"{name}.html").as_uri())
                    assert opened.evaluate("document.documentElement.scrollWidth") <= width
                    assert opened.evaluate(OUTSIDE) == []
                light = opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
                assert light == (scheme == "light")
                assert not wrong, wrong
                if width == 1280:
                    table = opened.locator("table").first
                    table.locator("thead button").nth(1).press("Enter")
                    keys = opened.evaluate(KEYS)
                    assert (
                        keys == sorted(keys)
                        and table.locator("thead th").nth(1).get_attribute("aria-sort") == "ascending"
                    )
                    table.locator("thead button").nth(1).click()
                    assert opened.evaluate(KEYS) == keys[::-1]
                context.close()


KEYS = "[...document.querySelector('table').tBodies[0].rows].map(row => Number(row.children[1].dataset.value))"

OUTSIDE = """[...document.querySelectorAll('svg text')].filter(one => {
  const a = one.getBoundingClientRect(), b = one.ownerSVGElement.getBoundingClientRect();
  return a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1;
}).map(one => one.textContent)"""
"""Words of charts that are cut off."""


@pytest.mark.parametrize(
    ("goal", "better", "said"),
    [
        (1.5, "lower", ""), (2.0, "lower", ""), (2.1, "lower", "misses 2.1"), (0.5, "higher", ""),
        (1.0, "higher", "misses 1"), ({"decode.latency": 3}, "lower", "misses 3"), ({"other": 3}, "lower", ""),
        ({"decode.latency.p90": 3}, "lower", ""),
    ],
)  # fmt: skip
def test_goals_that_are_missed_are_told_everywhere(goal: object, better: str, said: str) -> None:
    """The other takes twice as long, or does twice as much."""
    results = []
    for name, value in (("omniform", 1.0), ("other", 2.0)):
        measures = {"decode.latency": Measure("decode.latency", "s", ((value, value),) * 8, better)}  # type: ignore[arg-type]
        config = {"goals": {"other": goal}, "swept": ["scenario.batch=4"]}
        results.append(
            Result(
                name="decode",
                scenario="decode",
                contender=name,
                config=config,
                status="done",
                measures=measures,
                started=1.0,
            )
        )
    shown = BenchmarkConfig.of({"name": "decode", "scenario": {"kind": "decode"}, "threads": 1})
    for text in (markdown(results), page(results), "\n".join(table.page(shown, results, None))):
        assert ("misses" in text) == bool(said) and said in text
    assert "batch=4" in markdown(results)


def test_runs_of_a_sweep_are_no_turns_of_one_another() -> None:
    def made(batch: int, value: float) -> Result:
        measures = {"decode.latency": Measure("decode.latency", "s", ((value,),) * 8)}
        config = {"swept": [f"scenario.batch={batch}"]}
        return Result(
            name="sizes",
            scenario="decode",
            contender="omniform",
            config=config,
            status="done",
            measures=measures,
            started=1.0,
        )

    text = markdown([made(1, 1.0), made(8, 3.0)])
    assert "1.00 s" in text and "3.00 s" in text and "2.00 s" not in text
    rows = compare([made(1, 1.0), made(8, 3.0)], [made(8, 3.0), made(1, 2.0)]).rows
    assert [(row.key[0], row.verdict) for row in rows] == [
        ("sizes scenario.batch=1", "worse"), ("sizes scenario.batch=8", "same"),
    ]  # fmt: skip
