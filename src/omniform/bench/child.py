"""A contender's process: ``python .../bench/child.py FD``.

Jobs come line by line on standard input, answers go to the file descriptor FD, both as JSON; what a library prints goes
where standard output and error go, and disturbs nobody.

It is started by its path and calls this package by another name: what is measured may be another commit of omniform, or
an interpreter that has none.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

NAME = "omniform_bench_here"
"""What the package is called in a contender's process."""

if TYPE_CHECKING:
    from .backends.base import Backend
    from .job import Job
    from .scenarios.base import Scenario, Values


def _as_package() -> None:
    """Make the folder of this file a package by its own name."""
    from importlib.util import module_from_spec, spec_from_file_location

    here = Path(__file__).resolve().parent
    spec = spec_from_file_location(NAME, here / "__init__.py", submodule_search_locations=[str(here)])
    assert spec is not None and spec.loader is not None
    module = sys.modules[NAME] = module_from_spec(spec)
    spec.loader.exec_module(module)


class Worker:
    """Does what lines say.

    Args:
        job: what the process is for.
    """

    def __init__(self, job: Job) -> None:
        from .backends import backend_class
        from .scenarios import scenario_class

        given = dict(job.scenario)
        self.job = job
        self.backend: Backend = backend_class(str(job.backend["kind"]))(job)
        self.scenario: Scenario = scenario_class(str(given.pop("kind")))(**given)
        self.sample: Callable[[], Values] | None = None

    def begin(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Prepare what is not measured."""
        self.sample = self.scenario.begin(self.backend, self.job)
        return {"versions": _versions(self.backend.PACKAGES)}

    def work(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What a sample comes to, and the kind of numbers it is computed with."""
        try:
            done = self.scenario.work(self.backend)
            return {} if done is None else {"flop": done[0], "bytes": done[1], "dtype": self.backend.computes()}
        except Exception:  # what a foreign model's parts are like is no reason not to time it
            return {}

    def answer(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the work comes to."""
        return {"answer": [float(number) for number in self.scenario.answer(self.backend)]}

    def warm(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Warm up."""
        from .warmup import warm_up

        assert self.sample is not None
        sample, main = self.sample, next(iter(self.scenario.GIVES))

        def once() -> float:
            value = sample()[main]
            return float(value if isinstance(value, (int, float)) else sum(value))

        return asdict(warm_up(once, **given))

    def turn(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Take samples for a while."""
        assert self.sample is not None
        kept: dict[str, list[float]] = {}
        count, started = 0, self.job.now()
        while count < given["least"] or (self.job.now() - started < given["seconds"] and count < given["most"]):
            for name, value in self.sample().items():
                kept.setdefault(name, []).extend([value] if isinstance(value, (int, float)) else value)
            count += 1
        return {"values": kept, "count": count, "seconds": self.job.now() - started}

    def peak(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the machine can do."""
        from .roofline import measure

        return asdict(measure(self.job.threads, str(given["device"]), str(given["dtype"])))

    def end(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Give back."""
        self.scenario.end()
        self.backend.end()
        return {}


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
        module = sys.modules.get(name)
        if name not in found and module is not None and hasattr(module, "__version__"):
            found[name] = str(module.__version__)
    return found


def serve(answers: int) -> None:
    """Answer lines until there are no more."""
    from .job import Job, RefusedError

    worker: Worker | None = None
    for line in sys.stdin:
        given = json.loads(line)
        try:
            if given["do"] == "job":
                worker, told = Worker(Job(**given["job"])), {}
            else:
                assert worker is not None
                told = getattr(worker, given["do"])(given.get("how", {}))
            answer: dict[str, Any] = {"ok": told}
        except RefusedError as error:
            answer = {"error": str(error)}
        except BaseException as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000]}
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os.write(answers, (json.dumps(answer) + "\n").encode())


if __name__ == "__main__":
    sys.path[:1] = []  # this file's folder, which would hide packages of the same names
    _as_package()
    from importlib import import_module

    import_module(f"{NAME}.job").die_with_parent()
    import_module(f"{NAME}.child").serve(int(sys.argv[1]))
