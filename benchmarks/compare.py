"""omniform beside the reference, every workload in one run: ``python benchmarks/compare.py``.

Each measurement runs in a process of its own, which loads and warms up before the clock starts, except where loading is
what is measured. The libraries take turns, and the order turns round from pair to pair, so that a machine that slows
down is slow for everyone. What is quoted is the median, and the ratio of the medians; the ratios pair by pair stand
beside it. The workloads and what is to be reached are in ``versus/tasks.py``, how they are timed in
``versus/measure.py``.

The checkpoint is made by the benchmark and kept in ``--cache``: a Llama of 400M random parameters in bfloat16, and
llama.cpp's files of it. ``--threads 1 --clock cpu`` counts the seconds that a processor worked for the process, which
stay honest on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from versus import checkpoint, encoders, machine, narrow, report, workloads
from versus.pairs import result_of, run_workload, torchvision_fails
from versus.tasks import NATIVE, WORKLOADS
from versus.workloads import OURS, Job

FORMAT = 2
"""Of the JSON file."""


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    some = f"some of: {', '.join(WORKLOADS)}; native: those that the native kernels are judged by"
    add("--only", type=_names, default=tuple(WORKLOADS), metavar="A,B", help=some)
    add("--pairs", type=_positive, default=5, help="runs of every contender (5)")
    add("--threads", type=_positive, default=2, help="that a library may compute with (2)")
    add("--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time; needs --threads 1")
    add(
        "--cpu",
        default="",
        metavar="VARIANT",
        help="hold omniform's library to this variant (OMNIFORM_CPU), such as v3",
    )
    add("--device", default="cpu", help="cpu (the default), or a torch device such as cuda")
    add("--tiny", action="store_true", help="tiny sizes: tests the benchmark in seconds, and measures nothing")
    add("--gguf", type=Path, metavar="FILE", help="the checkpoint for llama.cpp; made with the gguf package by default")
    add("--cache", type=Path, default=Path(tempfile.gettempdir()) / "omniform-benchmarks", help="where it is kept")
    add("--from", type=Path, metavar="FILE", dest="saved", help="measure nothing: report what --json wrote before")
    add("--json", type=Path, metavar="FILE", help="write everything, all samples included")
    add("--markdown", type=Path, metavar="FILE", help="write the tables of docs/benchmarks.md")
    add("--plot", type=Path, metavar="FILE", help="draw the ratios (needs matplotlib)")
    chosen = parser.parse_args()
    for path in (chosen.gguf, chosen.saved):
        if path is not None and not path.is_file():
            parser.error(f"no such file: {path}")
    if chosen.clock == "cpu" and (chosen.threads != 1 or chosen.device != "cpu"):
        parser.error("--clock cpu needs --threads 1 and no other device: the sum over threads is no measure of speed")
    if chosen.device != "cpu" and not _has_device(chosen.device):
        parser.error(f"torch sees no device {chosen.device!r} here")
    return chosen


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name for part in text.split(",") for name in (NATIVE if part == "native" else (part,))))
    for name in names:
        if name not in WORKLOADS:
            raise argparse.ArgumentTypeError(f"no workload {name!r}; there are {', '.join(WORKLOADS)}")
    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a positive number expected, found {text!r}")
    return int(text)


def _has_device(name: str) -> bool:
    import torch

    try:
        return torch.cuda.is_available() and torch.empty(0, device=name).is_cuda
    except RuntimeError:
        return False


def measured(chosen: argparse.Namespace) -> dict[str, Any]:
    """Run the workloads."""
    from omniform import bundled_checkpoint

    shape = checkpoint.TINY if chosen.tiny else checkpoint.FULL
    folder = checkpoint.checkpoint(chosen.cache, shape)
    job = Job(
        workload="",
        contender=OURS,
        sizes=workloads.TINY if chosen.tiny else workloads.FULL,
        folder=str(folder),
        pictures=str(bundled_checkpoint()),
        vocabulary=shape.vocabulary,
        weights=shape.read_per_step(),
        device=chosen.device,
        threads=chosen.threads,
        clock=chosen.clock,
        cpu=chosen.cpu,
        files=narrow.files(folder, shape, chosen.gguf),
        encoders={
            name: str(encoders.encoder_folder(chosen.cache, name, chosen.tiny))
            for name in encoders.CONFIGS
            if name in chosen.only
        },
        torchvision_fails=torchvision_fails(),
    )
    results: dict[str, Any] = {
        "format": FORMAT,
        "date": machine.today(),
        "commit": machine.commit(),
        "command": sys.argv,
        "machine": machine.machine(chosen.device),
        "software": machine.software(),
        "device": chosen.device,
        "threads": chosen.threads,
        "clock": chosen.clock,
        "cpu": chosen.cpu,
        "pairs": chosen.pairs,
        "tiny": chosen.tiny,
        "model": checkpoint.description(shape),
        "workloads": {},
    }
    where = "" if chosen.cpu else machine.kind()
    for name in chosen.only:
        runs = run_workload(WORKLOADS[name], job, chosen.pairs, lambda line: print(line, file=sys.stderr, flush=True))
        results["workloads"][name] = result_of(runs, job.sizes, where)
        _keep(chosen.json, results)  # a run of twenty minutes may be interrupted
    return results


def _keep(path: Path | None, results: dict[str, Any]) -> None:
    if path is not None:
        unfinished = path.with_name(path.name + ".unfinished")
        unfinished.write_text(json.dumps(results, indent=1), encoding="utf-8")
        os.replace(unfinished, path)


def main() -> int:
    """Measure, print, write; 1 where something could not be measured or is not as it must be."""
    chosen = arguments()
    if chosen.saved is not None:
        results = json.loads(chosen.saved.read_text(encoding="utf-8"))
        if results.get("format") != FORMAT:
            print(f"{chosen.saved} is of format {results.get('format')}; this version reads {FORMAT}", file=sys.stderr)
            return 2
    else:
        results = measured(chosen)
    print(report.text(results))
    if chosen.markdown is not None:
        chosen.markdown.write_text(report.markdown(results), encoding="utf-8")
    if chosen.plot is not None:
        from versus.plot import plot

        plot(results, chosen.plot)
    return 1 if report.failed(results) else 0


if __name__ == "__main__":
    sys.exit(main())
