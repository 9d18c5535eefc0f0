"""Every scenario of omniform, once, with tiny models."""

from __future__ import annotations

import pytest

from omniform.bench.benchmark import Benchmark
from omniform.bench.compose import PACKAGED
from omniform.bench.config import BenchmarkConfig
from omniform.bench.results import Result

QUICK = ("threads=1", "rounds=1", "seconds=0.01", "noise.repeats=0", "warmup.limit=0.1", "warmup.window=2",
         "roofline=false", "model=made:llama-tiny")  # fmt: skip


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("OMNIFORM_BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "bench"))


def measured(name: str, *changes: str) -> Result:
    (config,) = BenchmarkConfig.load(name, overrides=[*QUICK, *changes])
    (result,) = Benchmark(config).run()
    assert result.status == "done", result.error
    return result


@pytest.mark.parametrize(
    ("name", "changes", "measure"),
    [
        ("generate", ["scenario.new_tokens=4"], "per_token.latency"),
        ("ragged", ["scenario.batch=3", "scenario.new_tokens=2", "scenario.shared=5"], "decode.throughput"),
        ("load", [], "load.latency"),
        ("engine", ["scenario.requests=3", "scenario.rate=50"], "first_token.latency"),
        ("server", ["scenario.requests=2", "scenario.new_tokens=3", "model=scenes-llava"], "requests.latency"),
        ("train_step", ["scenario.length=8"], "train_step.latency"),
        ("preprocessing", ["scenario=preprocessing_audio", "model=commands-whisper"], "preprocessing.latency"),
        ("pipeline", ["model=scenes-segformer", "scenario.count=2"], "pipeline.throughput"),
    ],
)
def test_a_scenario(name: str, changes: list[str], measure: str):
    found = measured(name, *changes)
    assert found.measures[measure].samples and all(value > 0 for value in found.measures[measure].samples)


def test_both_libraries_are_given_the_same_and_answer_alike():
    inputs = "scenario.inputs={input_ids: [7], attention_mask: [7]}"
    both = "contenders=[omniform,transformers]"
    (config,) = BenchmarkConfig.load("forward", overrides=[*QUICK, inputs, both, "scenario.batch=2", "agree=1e-5",
                                                           "backend.dtype=float32"])  # fmt: skip
    assert [one.error for one in Benchmark(config).run()] == [None, None]
    picture = "scenario.inputs={pixel_values: [3, 40, 72]}"
    found = measured("forward", picture, "model=scenes-segformer", "scenario.task=image-segmentation")
    assert found.measures["forward.latency"].samples


def test_steps_add_up_and_flop_are_the_weights():
    found = measured("decode", "scenario.new_tokens=5", "scenario.batch=2").measures
    assert found["per_token.latency"].summary.count == 4 * found["decode.latency"].summary.count
    assert sum(found["per_token.latency"].samples) == pytest.approx(sum(found["decode.latency"].samples))
    # llama-tiny: a layer has 64 x (64 + 32 + 32 + 64) + 3 x 64 x 128 weights in matrices.
    weights = 2 * (64 * 192 + 3 * 64 * 128) + 512 * 64
    # Prompts have 32 tokens; a step's token sees itself and all before: two layers of four heads of 16, two products.
    pairs = 33 + 34 + 35 + 36
    assert found["flop"].samples == [2 * (2 * weights * 4 + 4 * 2 * 4 * 16 * pairs)]
    # Two layers of two heads of keys and values of 16 numbers in two bytes; a step writes one token's.
    cached = 2 * 2 * 2 * 2 * 16 * (pairs + 4)
    assert 2 * weights * 4 + 2 * cached <= found["bytes"].samples[0] < (2 * weights * 4 + 2 * cached) * 1.1


def test_the_packaged_groups_name_scenarios_that_are():
    assert {file.stem for file in (PACKAGED / "scenario").glob("*.yaml")} >= {"decode", "server", "preprocessing_video"}
