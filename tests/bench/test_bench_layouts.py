"""Results in the layouts of other tools: what optimum-benchmark writes is read, what we write is what it reads."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from omniform.bench.layouts import COLUMNS, is_optimum, read_optimum, write_csv, write_optimum, write_parquet
from omniform.bench.report.sources import results_of
from omniform.bench.results import Measure, Result
from omniform.core.errors import InputError

LATENCY = {
    "unit": "s", "values": [0.11, 0.1, 0.3], "count": 3, "total": 0.51, "mean": 0.17, "p50": 0.11, "p90": 0.262,
    "p95": 0.281, "p99": 0.2962, "stdev": 0.09201449161228173, "stdev_": 54.12,
}  # fmt: skip

MEMORY = {"unit": "MB", "max_ram": 512.5, "max_global_vram": None, "max_process_vram": 100.0, "max_reserved": None,
          "max_allocated": None}  # fmt: skip

THEIRS = {
    "load_model": {"memory": MEMORY, "latency": {**LATENCY, "values": [2.0]}, "throughput": None, "energy": None,
                   "efficiency": None},
    "first_generate": {"memory": None, "latency": {**LATENCY, "values": [0.5]}, "throughput": None, "energy": None,
                       "efficiency": None},
    "decode": {
        "memory": MEMORY, "latency": LATENCY, "throughput": {"unit": "tokens/s", "value": 94.1},
        "energy": {"unit": "kWh", "cpu": 1e-6, "ram": 2e-7, "gpu": 0.0, "total": 1.2e-6},
        "efficiency": {"unit": "tokens/kWh", "value": 1.3e7},
    },
    "per_token": {"memory": None, "latency": LATENCY, "throughput": None, "energy": None, "efficiency": None},
}  # fmt: skip
"""As version 0.6.0 writes it: the fields of its trackers' dataclasses, with null for what was not tracked."""

CONFIG = {
    "name": "cpu_pytorch", "backend": {"name": "pytorch", "version": "2.13.0", "_target_": "x", "model": "gpt2"},
    "scenario": {"name": "inference", "iterations": 3}, "launcher": {"name": "process"},
    "environment": {"cpu": "EPYC", "cpu_count": 2, "cpu_ram_mb": 16000.0, "system": "Linux", "platform": "Linux-6",
                    "python_version": "3.11.7", "transformers_version": "5.0", "peft_version": None,
                    "gpu": ["H100", "H100"]},
    "print_report": False, "log_report": True,
}  # fmt: skip


def theirs(folder: Path) -> Path:
    folder.mkdir()
    (folder / "benchmark_report.json").write_text(json.dumps(THEIRS))
    (folder / "benchmark_config.json").write_text(json.dumps(CONFIG))
    return folder


def test_what_optimum_benchmark_writes_is_read(tmp_path: Path) -> None:
    folder = theirs(tmp_path / "run")
    (tmp_path / "benchmark.json").write_text(json.dumps({"config": CONFIG, "report": THEIRS}))
    assert is_optimum(folder / "benchmark_report.json") and not is_optimum(folder / "benchmark_config.json")
    for place in (folder, folder / "benchmark_report.json", tmp_path / "benchmark.json"):
        [found] = results_of(str(place))
        assert (found.name, found.scenario, found.contender) == ("cpu_pytorch", "inference", "pytorch")
        assert found.machine == {
            "cpu": "EPYC", "cores": 2, "memory": 16 * 10**9, "os": "Linux-6", "gpu": "H100, H100",
        }  # fmt: skip
        assert found.versions == {"python": "3.11.7", "transformers": "5.0", "pytorch": "2.13.0"}
        assert found.measures["decode.latency"].samples == [0.11, 0.1, 0.3]
        assert found.value("load.latency") == 2.0 and found.value("first_answer.latency") == 0.5
        assert found.value("load.memory.rss") == 512.5e6 and found.value("decode.memory.gpu") == 100e6
        assert found.value("decode.energy.cpu") == pytest.approx(3.6)
        assert found.measures["decode.throughput"] == Measure("decode.throughput", "tokens/s", ((94.1,),), "higher")
        assert "per_token.latency" in found.measures and "per_token.memory.rss" not in found.measures


def test_there_and_back(tmp_path: Path) -> None:
    found = read_optimum(theirs(tmp_path / "run"))
    write_optimum(found, tmp_path / "again")
    again = read_optimum(tmp_path / "again")
    assert again.measures.keys() == found.measures.keys()
    for name, measure in found.measures.items():
        assert again.measures[name].samples == pytest.approx(measure.samples), name
    assert (again.config, again.machine, again.versions) == (found.config, found.machine, found.versions)
    told = json.loads((tmp_path / "again" / "benchmark_report.json").read_text())
    assert told.keys() == THEIRS.keys()
    for target, kinds in THEIRS.items():
        for kind, one in kinds.items():
            assert (told[target][kind] is None) == (one is None), (target, kind)
            if one is not None:
                assert told[target][kind].keys() == one.keys()
    assert told["decode"]["latency"]["stdev"] == pytest.approx(np.std(LATENCY["values"]))


def ours() -> Result:
    latency = ((0.1, 1 / 3), (), (0.25,))
    return Result(
        name="decode", scenario="decode", contender="omniform bfloat16", status="done", commit="abc",
        started=1.79e9 + 1 / 3,
        machine={"cpu": "EPYC", "cores": 2, "memory": 2**34, "gpu": "H100", "host": "here"}, config={"batch": 1},
        versions={"python": "3.11.7", "omniform": "0.1.0"},
        measures={
            "decode.latency": Measure("decode.latency", "s", latency),
            "decode.throughput": Measure("decode.throughput", "tokens/s", ((10.0, 30.0),), "higher"),
            "load.latency": Measure("load.latency", "s", ((1.0,),)),
            "memory.rss": Measure("memory.rss", "B", ((1e9, 3e9), (2e9,))),
            "memory.peak": Measure("memory.peak", "B", ((3.5e9,),)),
            "energy.cpu": Measure("energy.cpu", "J", ((36.0,),)),
            "cpu.use": Measure("cpu.use", "%", ((99.0,),)),
        },
    )  # fmt: skip


def test_ours_in_their_layout(tmp_path: Path) -> None:
    written = write_optimum(ours(), tmp_path / "new" / "folder")
    assert [path.name for path in written] == ["benchmark_report.json", "benchmark_config.json", "benchmark.json"]
    report, config, both = (json.loads(path.read_text()) for path in written)
    assert both == {"config": config, "report": report}
    assert report.keys() == {"decode", "load_model"}
    decode = report["decode"]
    assert decode["latency"]["values"] == [0.1, 1 / 3, 0.25] and decode["latency"]["count"] == 3
    assert decode["throughput"] == {"unit": "tokens/s", "value": pytest.approx(15.0)}
    assert decode["memory"]["unit"] == "MB" and decode["memory"]["max_ram"] == pytest.approx(3500.0)
    assert decode["energy"]["total"] == pytest.approx(1e-5)
    assert config["backend"] == {"name": "omniform bfloat16", "version": "0.1.0"}
    assert config["environment"]["cpu_count"] == 2 and config["environment"]["python_version"] == "3.11.7"
    assert read_optimum(tmp_path / "new" / "folder").machine["memory"] == 2**34


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "is no JSON object"),
        ('{"decode": {"latency": {"values": "x", "unit": "s"}}}', "is no report"),
        ('{"decode": {"latency": {}, "speed": 1}}', "is no report"),
        ('{"report": 3}', "is no report"),
    ],
)
def test_files_that_are_no_report(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "benchmark_report.json").write_text(text)
    with pytest.raises(InputError, match=said):
        read_optimum(tmp_path)
    with pytest.raises(InputError, match="holds no results"):
        read_optimum(Path(__file__).parent)


def rows(result: Result) -> list[tuple[object, ...]]:
    return [
        (name, turn, place, value)
        for name, measure in result.measures.items()
        for turn, values in enumerate(measure.rounds)
        for place, value in enumerate(values)
    ]


def test_csv_holds_every_sample_exactly(tmp_path: Path) -> None:
    odd = ours()
    odd.name = 'a "name", of\ntwo lines'
    odd.measures["nan"] = Measure("nan", "s", ((math.inf, 5e-324),))
    write_csv([odd, ours()], tmp_path / "deep" / "r.csv")
    with (tmp_path / "deep" / "r.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert tuple(found[0]) == COLUMNS and found[0]["name"] == odd.name
    told = [(one["metric"], int(one["turn"]), int(one["place"]), float(one["value"])) for one in found]
    assert told == rows(odd) + rows(ours())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["r.csv"]


def test_parquet_holds_every_sample_exactly(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    write_parquet([ours(), ours()], tmp_path / "r.parquet")
    table = pq.read_table(tmp_path / "r.parquet")
    assert tuple(table.column_names) == COLUMNS
    found = table.to_pylist()
    told = [(one["metric"], one["turn"], one["place"], one["value"]) for one in found]
    assert told == rows(ours()) * 2
    assert {one["started"] for one in found} == {ours().started} and {one["host"] for one in found} == {"here"}
    write_parquet([], tmp_path / "none.parquet")
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write in (write_csv, write_parquet):
        with pytest.raises(InputError, match="cannot be written"):
            write([ours()], tmp_path / "file" / "r")
    with pytest.raises(InputError, match="cannot be written"):
        write_optimum(ours(), tmp_path / "file")
