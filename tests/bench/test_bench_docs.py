"""The examples of docs/bench.md run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from omniform.bench.benchmark import Benchmark
from omniform.bench.compose import compose
from omniform.bench.config import BenchmarkConfig
from omniform.bench.recorder import UNITS
from omniform.bench.results import STATISTICS
from omniform.bench.scenarios import MODULES
from omniform.cli.main import parser

PAGE = (Path(__file__).parents[2] / "docs" / "bench.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_python(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMNIFORM_BENCH_CACHE", str(tmp_path / "cache"))
    run, own, recorder = blocks("python")
    exec(compile(run, "bench.md", "exec"), {})
    name, value = capsys.readouterr().out.split()
    assert name == "omniform" and float(value) > 0
    file = tmp_path / "mine.py"
    file.write_text(own)
    config = {"scenario": {"kind": f"{file}:Sort", "count": 1000}, "backend": "none", "threads": 1, "rounds": 1,
              "seconds": 0.01, "roofline": False, "warmup": {"limit": 0.1}}  # fmt: skip
    (result,) = Benchmark(BenchmarkConfig.of(config)).run()
    assert result.status == "done" and result.measures["sort.latency"].samples
    capsys.readouterr()
    exec(compile(recorder, "bench.md", "exec"), {})
    assert float(capsys.readouterr().out) > 1e6


def test_the_config(tmp_path: Path):
    (tmp_path / "base.yaml").write_text("threads: 1\n")
    (tmp_path / "scenario").mkdir()
    (tmp_path / "scenario" / "decode.yaml").write_text("kind: decode\n")
    (text,) = blocks("yaml")
    (tmp_path / "mine.yaml").write_text(text)
    made = [BenchmarkConfig.of(one) for one in compose(str(tmp_path), "mine")]
    assert [one.scenario["batch"] for one in made] == [1, 8]
    titles = ["omniform bfloat16", "eight bits", "transformers bfloat16 attn_implementation=sdpa"]
    assert [one.title() for one in made[0].contenders] == titles and made[0].scenario["new_tokens"] == 128


def test_the_commands():
    for line in blocks("bash")[0].splitlines():
        words = shlex.split(line, comments=True)
        given, rest = parser().parse_known_args(words[1:])
        assert not rest, line
        if given.config_name and not given.config_dir:
            for one in compose(None, given.config_name, given.changes, multirun=given.multirun):
                BenchmarkConfig.of(one)


def test_all_names_are_told():
    assert all(f"`{name}`" in PAGE for name in UNITS)
    assert all(f"| `{kind}` |" in PAGE for kind in MODULES if kind != "nothing")
    assert all(f"`{name}`" in PAGE for name in STATISTICS)
