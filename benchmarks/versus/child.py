"""A process that makes one measurement: ``python -m versus.child JOB.json SAMPLE.json``.

It imports nothing but the standard library before the measurement begins, which may be one of importing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from .clocks import peak_memory
from .ik import IkLlamaCpp
from .llamacpp import LlamaCpp
from .measure import MEASURES
from .ours import Ours
from .side import RefusedError, Side
from .theirs import Theirs
from .workloads import Job, Sample


def side_of(job: Job) -> Side:
    """The library that a job is for."""
    sides: dict[str, Callable[[Job], Side]] = {"ours": Ours, "theirs": Theirs, "llamacpp": LlamaCpp, "ik": IkLlamaCpp}
    return sides[job.contender.side](job)


def run(job: Job) -> Sample:
    """Measure, and note what the process was like."""
    if job.workload == "steps":
        from .steps import steps  # needs torch

        sample = steps(job)
    else:
        side = side_of(job)
        sample = MEASURES[job.measure or job.workload](side, job)
        sample.facts |= side.facts()
    sample.facts["peak_memory_bytes"] = peak_memory()
    if "torch" in sys.modules:
        import torch

        sample.facts["threads"] = torch.get_num_threads()
        if job.device != "cpu":
            sample.facts["peak_device_memory_bytes"] = torch.cuda.max_memory_allocated()
    return sample


def main() -> None:
    """Read the job, write the sample."""
    job = Job.from_dict(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    try:
        sample = run(job)
    except RefusedError as error:
        sample = Sample(refused=str(error))
    Path(sys.argv[2]).write_text(json.dumps(asdict(sample)), encoding="utf-8")


if __name__ == "__main__":
    main()
