"""The project's own benchmarks: every config composes in both sizes, and its first run goes through."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from omniform.bench.compose import names
from omniform.bench.config import BenchmarkConfig
from omniform.cli.main import main

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
SHARED = {"beside"}
"""Begins others, and is none."""

NAMES = [name for name in names(FOLDER) if name not in SHARED]
QUICK = ["size=tiny", "rounds=1", "seconds=0.01", "warmup.limit=0.1", "warmup.window=2", "noise.repeats=0",
         "recorder.interval=5"]  # fmt: skip


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMNIFORM_BENCH_CACHE", str(tmp_path_factory.getbasetemp().parent / "bench-models"))
    monkeypatch.delenv("LLAMA_CPP_PYTHON", raising=False)


@pytest.mark.parametrize("size", ["full", "tiny"])
@pytest.mark.parametrize("name", NAMES)
def test_every_run_of_every_config_can_be_asked_for(name: str, size: str):
    runs = BenchmarkConfig.load(name, config_dir="benchmarks", overrides=[f"size={size}"])
    assert all(run.name == name and run.metrics for run in runs)
    assert all(Path(run.model.removeprefix("made:")).exists() for run in runs if "/" in run.model)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_run_goes_through(name: str, tmp_path: Path):
    """By the first contender; the others are libraries that are tried by the machinery's own tests."""
    first = BenchmarkConfig.load(name, config_dir="benchmarks", overrides=["size=tiny"])[0]
    only = {key: value for key, value in first.told()["contenders"][0].items() if value not in (None, "", {}, False)}
    out = tmp_path / "out.json"
    command = ["bench", "--config-dir", "benchmarks", "--config-name", name, "--json", str(out), *QUICK, *first.swept]
    assert main([*command, f"contenders=[{json.dumps(only)}]", "goals=null"]) == 0
    (result,) = json.loads(out.read_text())
    assert all(metric.removesuffix(".p99") in result["measures"] for metric in first.metrics)


def test_the_page_says_what_the_results_say():
    spec = importlib.util.spec_from_file_location("figures_tool", ROOT / "tools" / "figures.py")
    assert spec is not None and spec.loader is not None
    tool = sys.modules["figures_tool"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = tool.PAGE.read_text(encoding="utf-8")
    assert tool.page() == text, "run `make figures`"
    shown = {found[2] for found in tool.PLACE.finditer(text)}
    assert set(NAMES) == shown and {file.stem for file in tool.KEPT.glob("*.json")} <= shown
