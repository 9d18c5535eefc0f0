"""Other layouts of results: optimum-benchmark's JSON, and tables for other tools: parquet and CSV."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

from omniform.bench.results import JSON, Better, Measure, Result
from omniform.bench.stats import summary
from omniform.core.errors import DependencyError, InputError

JOULES: Final = 3.6e6
"""Of a kilowatt-hour."""

TARGETS: Final = {"load": "load_model", "first_answer": "first_generate", "train_step": "train"}
"""Our name of what was done, and theirs, where they differ; all others are the same."""

OURS: Final = {theirs: ours for ours, theirs in TARGETS.items()} | {
    "first_forward": "first_answer",
    "first_call": "first_answer",
}

MEMORY: Final = {
    "max_ram": "memory.rss", "max_global_vram": "memory.gpu.all", "max_process_vram": "memory.gpu",
    "max_reserved": "memory.reserved", "max_allocated": "memory.allocated",
}  # fmt: skip
"""Theirs, in MB of 10**6 bytes; ours, in bytes."""

ENERGY: Final = ("cpu", "ram", "gpu", "total")

KINDS: Final = ("memory", "latency", "throughput", "energy", "efficiency")

COLUMNS: Final = (
    "id", "name", "scenario", "contender", "commit", "status", "started", "host", "metric", "unit", "better", "turn",
    "place", "value",
)  # fmt: skip
"""Of a table: a row for every sample."""


def is_optimum(path: Path) -> bool:
    """Whether a file is of optimum-benchmark: its report, its config, or both in one."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and ("report" in told or _is_report(told))


def _is_report(told: Mapping[str, object]) -> bool:
    return bool(told) and all(isinstance(one, dict) and set(one) <= set(KINDS) and one for one in told.values())


def read_optimum(path: Path) -> Result:
    """A result of optimum-benchmark.

    Args:
        path: a folder with ``benchmark_report.json`` and ``benchmark_config.json``; the first alone (the other is
            looked for beside it); or ``benchmark.json``, which holds both.

    Raises:
        InputError: it is none of these.
    """
    if path.is_dir():
        path = next(
            (path / name for name in ("benchmark_report.json", "benchmark.json") if (path / name).exists()), path
        )
        if path.is_dir():
            raise InputError("holds no results", where=str(path), expected="benchmark_report.json or benchmark.json")
    told = _object(path)
    beside = path.with_name("benchmark_config.json")
    config = told.get("config") if "report" in told else _object(beside) if beside.exists() else {}
    report = told.get("report", told)
    if not isinstance(report, dict) or not _is_report(report) or not isinstance(config, dict):
        raise InputError("is no report of optimum-benchmark", where=str(path))
    try:
        measures = {one.name: one for target, kinds in report.items() for one in _measures(target, kinds)}
        return _result(config, measures, path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError("is no report of optimum-benchmark", where=str(path), found=repr(error)) from None


def _object(path: Path) -> dict[str, object]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except ValueError as error:
        raise InputError(f"is no JSON: {error}", where=str(path)) from None
    if not isinstance(told, dict):
        raise InputError("is no JSON object", where=str(path))
    return told


def _result(config: JSON, measures: dict[str, Measure], path: Path) -> Result:
    environment = cast("Mapping[str, object]", config.get("environment") or {})
    backend = cast("Mapping[str, object]", config.get("backend") or {})
    scenario = cast("Mapping[str, object]", config.get("scenario") or {})
    versions = {name.removesuffix("_version"): str(value) for name, value in environment.items()
                if name.endswith("_version") and value is not None}  # fmt: skip
    if backend.get("version"):
        versions[str(backend.get("name"))] = str(backend["version"])
    machine: dict[str, object] = {"cpu": environment.get("cpu"), "cores": environment.get("cpu_count"),
                                  "os": environment.get("platform")}  # fmt: skip
    megabytes, gpu = environment.get("cpu_ram_mb"), environment.get("gpu")
    if isinstance(megabytes, int | float):
        machine["memory"] = int(megabytes * 10**6)
    if gpu:
        machine["gpu"] = ", ".join(map(str, gpu)) if isinstance(gpu, list) else str(gpu)
    return Result(
        name=str(config.get("name", path.parent.name or "optimum-benchmark")),
        scenario=str(scenario.get("name", "inference")),
        contender=str(backend.get("name", "optimum-benchmark")), config=config, status="done",
        started=path.stat().st_mtime, machine={name: one for name, one in machine.items() if one is not None},
        versions=versions, measures=measures,
    )  # fmt: skip


def _measures(target: str, kinds: Mapping[str, Mapping[str, object] | None]) -> Iterator[Measure]:
    name = OURS.get(target, target)
    latency, throughput, memory, energy, efficiency = (
        kinds.get(kind) for kind in ("latency", "throughput", "memory", "energy", "efficiency")
    )
    if latency:
        values = cast("Sequence[float]", latency["values"])
        yield Measure(f"{name}.latency", str(latency["unit"]), (tuple(map(float, values)),))
    for kind, one in (("throughput", throughput), ("efficiency", efficiency)):
        if one:
            yield _single(f"{name}.{kind}", str(one["unit"]), one["value"], "higher")
    for theirs, ours in MEMORY.items():
        if memory and memory.get(theirs) is not None:
            yield _single(f"{name}.{ours}", "B", float(cast("float", memory[theirs])) * 1e6)
    for part in ENERGY:
        if energy and energy.get(part) is not None:
            yield _single(f"{name}.energy.{part}", "J", float(cast("float", energy[part])) * JOULES)


def _single(name: str, unit: str, value: object, better: Better = "lower") -> Measure:
    return Measure(name, unit, ((float(cast("float", value)),),), better)


def write_optimum(result: Result, folder: Path) -> list[Path]:
    """Write a result as optimum-benchmark does: ``benchmark_report.json``, ``benchmark_config.json``, and both in
    ``benchmark.json``.

    What their layout has no place for (turns, noise, use of processors) is left out. A measure of the whole run, such
    as ``memory.rss``, stands at every target.

    Returns:
        The files.
    """
    targets = {name.rpartition(".latency")[0] or name.rpartition(".throughput")[0] for name in result.measures}
    targets = {name for name in targets if name}
    report = {TARGETS.get(name, name): _target(result, name) for name in dict.fromkeys(
        name.partition(".")[0] for name in result.measures) if name in targets}  # fmt: skip
    config = _their_config(result)
    told = {
        "benchmark_report.json": report,
        "benchmark_config.json": config,
        "benchmark.json": {"config": config, "report": report},
    }
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, one in told.items():
            (folder / name).write_text(json.dumps(one, indent=4, default=str), encoding="utf-8")
    return [folder / name for name in told]


def _target(result: Result, name: str) -> dict[str, object]:
    found: dict[str, object] = dict.fromkeys(KINDS)
    latency, throughput = result.measures.get(f"{name}.latency"), result.measures.get(f"{name}.throughput")
    if latency is not None and latency.samples:
        found["latency"] = _their_latency(latency)
    if throughput is not None and throughput.samples:
        # Theirs is a volume divided by the mean latency: the harmonic mean of rates.
        rates = throughput.samples
        value = len(rates) / sum(1 / one for one in rates) if all(one > 0 for one in rates) else summary(rates).mean
        found["throughput"] = {"unit": throughput.unit, "value": value}
    memory = {theirs: _most(result, name, ours, 1e-6) for theirs, ours in MEMORY.items()}
    # What the system says of the most is more than what was sampled.
    most = [one for one in (memory["max_ram"], _most(result, name, "memory.peak", 1e-6)) if one is not None]
    if most:
        memory["max_ram"] = max(most)
        found["memory"] = {"unit": "MB", **memory}
    energy = {part: _most(result, name, f"energy.{part}", 1 / JOULES) for part in ENERGY}
    if any(one is not None for one in energy.values()):
        parts = {part: one or 0.0 for part, one in energy.items()}
        parts["total"] = energy["total"] or parts["cpu"] + parts["ram"] + parts["gpu"]
        found["energy"] = {"unit": "kWh", **parts}
    efficiency = result.measures.get(f"{name}.efficiency")
    if efficiency is not None and efficiency.samples:
        found["efficiency"] = {"unit": efficiency.unit, "value": summary(efficiency.samples).mean}
    return found


def _most(result: Result, target: str, name: str, scale: float) -> float | None:
    measure = result.measures.get(f"{target}.{name}") or result.measures.get(name)
    told = measure.samples if measure is not None else []
    return max(told) * scale if told else None


def _their_latency(measure: Measure) -> dict[str, object]:
    import numpy as np

    values = measure.samples
    found = summary(values)
    stdev = float(np.std(values)) if len(values) > 1 else 0.0
    p95 = float(np.percentile(values, 95))
    return {
        "unit": measure.unit, "values": values, "count": len(values), "total": math.fsum(values), "mean": found.mean,
        "p50": found.median, "p90": found.p90, "p95": p95, "p99": found.p99, "stdev": stdev,
        "stdev_": 100 * stdev / abs(found.mean) if found.mean else 0.0,
    }  # fmt: skip


def _their_config(result: Result) -> dict[str, object]:
    if "backend" in result.config and "environment" in result.config:
        return dict(result.config)  # it came from there
    machine = result.machine
    memory = machine.get("memory")
    environment: dict[str, object] = {
        "cpu": machine.get("cpu"), "cpu_count": machine.get("cores"),
        "cpu_ram_mb": memory / 1e6 if isinstance(memory, int | float) else None, "platform": machine.get("os"),
        **{f"{name}_version": version for name, version in result.versions.items()},
    }  # fmt: skip
    if machine.get("gpu"):
        environment["gpu"] = [machine["gpu"]]
    own = result.contender.split()[0] if result.contender.split() else result.contender
    return {
        "name": result.name, "backend": {"name": result.contender, "version": result.versions.get(own)},
        "scenario": {"name": result.scenario, "omniform": dict(result.config)}, "launcher": {"name": "process"},
        "environment": environment, "print_report": False, "log_report": False,
    }  # fmt: skip


def rows(results: Sequence[Result]) -> Iterator[tuple[object, ...]]:
    """A row of :data:`COLUMNS` for every sample."""
    for one in results:
        head = (one.id, one.name, one.scenario, one.contender, one.commit, one.status, one.started,
                one.machine.get("host"))  # fmt: skip
        for measure in one.measures.values():
            for turn, values in enumerate(measure.rounds):
                for place, value in enumerate(values):
                    yield (*head, measure.name, measure.unit, measure.better, turn, place, value)


def write_csv(results: Sequence[Result], path: Path) -> None:
    """A row for every sample; numbers with all their digits."""
    with written(path), _whole(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(
            tuple(repr(cell) if isinstance(cell, float) else cell for cell in row) for row in rows(results)
        )


def write_parquet(results: Sequence[Result], path: Path) -> None:
    """A row for every sample.

    Raises:
        DependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DependencyError("pyarrow is needed for parquet", remedy="pip install pyarrow") from None
    kinds = {"started": pa.float64(), "value": pa.float64(), "turn": pa.int32(), "place": pa.int32()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    columns = list(zip(*rows(results), strict=True)) or [()] * len(COLUMNS)
    table = pa.table([list(column) for column in columns], schema=schema)
    with written(path), _whole(path) as unfinished:
        pq.write_table(table, unfinished)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Where a file is written before it takes its name: never is half of it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """What the system says of a file that cannot be written, in words."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", where=str(path)) from None


def write_text(path: Path, text: str) -> None:
    """A text, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    with written(path), _whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
