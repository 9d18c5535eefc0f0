"""Workers of ``omniform map`` that are actors of a Ray cluster (extra ``ray``).

A shard's records go to an actor and its results come back: whoever runs the command reads the dataset and writes all
files, so that nodes need no folder in common. Only media that records name by file, and the checkpoint, have to be
found wherever actors run.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from omniform.core.errors import DependencyError, OmniformError, WorkerError, brief
from omniform.serve.mapping.crew import Counted, DiedError, Hand, Hire
from omniform.serve.mapping.folder import Folder
from omniform.serve.mapping.job import Job, Record
from omniform.serve.mapping.lines import Answerer, answers
from omniform.serve.mapping.source import Cut, Source
from omniform.serve.mapping.worker import kept, loaded

CONNECT_SECONDS: Final = 10.0
"""In which a cluster's head has to answer."""

Hiring = Callable[[Job, Source, Folder, int], Hire]
Lines = Sequence[Mapping[str, object]]


class Remote:
    """What an actor is made of: a loaded model."""

    def __init__(self) -> None:
        self._answerer: Answerer | None = None

    def load(self, told: Mapping[str, object]) -> str | None:
        """Load a job's model; returns why it cannot be."""
        try:
            self._answerer = loaded(Job.read(told))
        except (OmniformError, OSError, MemoryError, ImportError) as error:
            return str(error) if isinstance(error, OmniformError) else brief(error)
        return None

    def answer(self, records: Sequence[Record]) -> tuple[Lines, int]:
        """A line for each record, and how many tokens were written."""
        assert self._answerer is not None, "load comes first"
        tokens = 0

        def told(count: int) -> None:
            nonlocal tokens
            tokens += count

        return answers(self._answerer, records, told), tokens


def connect(address: str | None) -> None:
    """Join a cluster.

    Args:
        address: of it; None for the one of this machine or of the environment, ``RAY_ADDRESS``.

    Raises:
        DependencyError: Ray is not installed.
        WorkerError: there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    try:
        import ray
    except ImportError:
        raise DependencyError("Ray is needed for this", where="--ray", remedy="pip install 'omniform[ray]'") from None
    if ray.is_initialized():
        return
    try:
        _check_there(address or os.environ.get("RAY_ADDRESS", ""))
        ray.init(address=address or "auto", log_to_driver=False, logging_level="warning")
    except (OSError, ValueError, RuntimeError) as error:
        raise WorkerError(
            "there is no such Ray cluster",
            where="--ray",
            found=brief(str(error)),
            remedy="ray start --head.",
        ) from None


def _check_there(address: str) -> None:
    """See whether anything is at an address of a cluster: Ray itself would try for many minutes.

    Raises:
        OSError: nothing is.
        ValueError: it is none.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS):
            pass


def chips_of(chips: float | None) -> float:
    """GPUs that a process of a cluster takes: as many as were named, else one where the cluster has any."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0) > 0) if chips is None else chips


class Actor:
    """An actor that answers shards, see :class:`~omniform.serve.mapping.crew.Hand`."""

    def __init__(self, job: Job, source: Source, folder: Folder, counted: Counted, cores: float, chips: float) -> None:
        import ray

        self._job, self._source, self._folder, self._counted = job, source, folder, counted
        self._actor = ray.remote(
            num_cpus=cores, num_gpus=chips, max_restarts=0, scheduling_strategy="SPREAD"
        )(Remote).remote()  # fmt: skip
        self._ready = False

    def work(self, cut: Cut, *, alone: bool) -> tuple[int, int]:
        """Answer one; how many results and faults are kept of it."""
        if not self._ready:
            why = self._got("load", None, self._job.told())
            if why is not None:
                raise WorkerError(str(why))
            self._ready = True
        return kept(self._answered, self._folder, self._source.path, cut, self._job.task, alone=alone)

    def _answered(self, records: Sequence[Record]) -> Lines:
        at = records[0].index if len(records) == 1 else None
        lines, tokens = cast("tuple[Lines, int]", self._got("answer", at, list(records)))
        self._counted(len(records), tokens)
        return lines

    def _got(self, method: str, at: int | None, *given: object) -> object:
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError

        try:
            return cast(object, ray.get(getattr(self._actor, method).remote(*given)))
        except (RayActorError, OutOfMemoryError) as error:
            raise DiedError(f"its actor died ({type(error).__name__})", at, ready=self._ready) from None

    def close(self) -> None:
        """Let it end."""
        self.kill()

    def kill(self) -> None:
        """End it."""
        import ray

        if ray.is_initialized():
            ray.kill(self._actor)


def actors(address: str | None, *, cores: float = 1.0, chips: float | None = None) -> Hiring:
    """Workers of a Ray cluster.

    Args:
        address: see :func:`connect`.
        cores: of a node that an actor takes.
        chips: GPUs of a node that it takes, parts of one for actors that share it; None for one where the cluster has
            any.
    """

    def hiring(job: Job, source: Source, folder: Folder, workers: int) -> Hire:
        connect(address)
        taken = chips_of(chips)

        def hire(number: int, counted: Counted) -> Hand:
            return Actor(job, source, folder, counted, cores, taken)

        return hire

    return hiring
