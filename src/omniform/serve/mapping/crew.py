"""Processes that answer shards, and what is done when one of them dies."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, Protocol, cast

from omniform.core.errors import OmniformError, WorkerError
from omniform.serve.mapping.folder import Folder
from omniform.serve.mapping.job import Job
from omniform.serve.mapping.source import Cut, Source, records_of

COMMAND: Final = (sys.executable, "-m", "omniform.serve.mapping.worker")
PATIENCE: Final = 0.2
"""Seconds between two looks at whether workers are done."""


class DiedError(Exception):
    """A worker has died.

    Args:
        why: of what.
        at: the record that it was at, where it is known.
        ready: whether it had a shard to die of; False: it died before it was ready.
    """

    def __init__(self, why: str, at: int | None = None, *, ready: bool = True) -> None:
        super().__init__(why)
        self.at, self.ready = at, ready


class Hand(Protocol):
    """What answers shards, one at a time; used by one thread."""

    def work(self, cut: Cut, *, alone: bool) -> tuple[int, int]:
        """Answer one; how many results and faults are kept of it.

        Raises:
            DiedError: it is no more.
            OmniformError: nothing of this job can be done.
        """
        ...

    def close(self) -> None:
        """Let it end."""
        ...

    def kill(self) -> None:
        """End it; from any thread."""
        ...


Counted = Callable[[int, int], None]
"""Told of records and tokens as they come."""

Hire = Callable[[int, Counted], Hand]
"""Makes a worker, given its number and whom it tells of records and tokens as they come."""


class Process:
    """A worker that is a process of this machine.

    Args:
        first: what it is told to begin with: see :mod:`omniform.serve.mapping.worker`.
        counted: is told of records and tokens as they come.
        env: variables of its own.
        command: that starts it.
    """

    def __init__(
        self, first: Mapping[str, object], counted: Counted, env: Mapping[str, str], command: Sequence[str] = COMMAND
    ) -> None:
        self._counted, self._first = counted, first
        self._ready = False
        # A session of its own: what a terminal's Ctrl-C is for is decided by whoever started it.
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **env},
            start_new_session=True,
        )  # fmt: skip

    def work(self, cut: Cut, *, alone: bool) -> tuple[int, int]:
        """See :class:`Hand`."""
        if not self._ready:
            self._tell(self._first)
            self._ready = next(self._heard())["said"] == "ready"
        at: int | None = None
        try:
            self._tell({"cut": asdict(cut), "alone": alone})
            for said in self._heard():
                if said["said"] == "done":
                    return cast(int, said["results"]), cast(int, said["faults"])
                if said["said"] == "at":
                    at = cast(int, said["index"])
                else:
                    self._counted(cast(int, said["records"]), cast(int, said["tokens"]))
        except DiedError as died:
            died.at = at
            raise
        raise AssertionError("a worker that says no more has died")

    def _tell(self, line: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(line).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _heard(self) -> Iterator[dict[str, object]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                said = json.loads(line)
            except ValueError:  # cut off
                break
            if said["said"] == "failed":
                raise WorkerError(str(said["why"]))
            yield said
        raise self._died()

    def _died(self) -> DiedError:
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return DiedError(f"its worker {how}", ready=self._ready)

    def close(self) -> None:
        """See :class:`Hand`."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def kill(self) -> None:
        """See :class:`Hand`."""
        self._process.kill()
        self._process.wait()


@dataclass(slots=True)
class Crew:
    """Workers, and the shards that are left for them.

    Attributes:
        job: what is to be done.
        source: the dataset.
        folder: of the results.
        workers: how many.
        hire: makes one.
        retries: how often a shard is begun again whose worker died, before it is answered record by record, and how
            often a record then is, before it is given up.
        counted: is told of records and tokens as they come.
        said: is told what goes wrong, in a sentence.
    """

    job: Job
    source: Source
    folder: Folder
    workers: int
    hire: Hire
    retries: int = 2
    counted: Counted = lambda records, tokens: None
    said: Callable[[str], None] = lambda text: None
    _left: deque[Cut] = field(default_factory=deque)
    _deaths: Counter[int] = field(default_factory=Counter)
    _record_deaths: Counter[int] = field(default_factory=Counter)
    _loading_deaths: int = 0
    _at_work: int = 0
    _stopping: bool = False
    _failure: OmniformError | None = None
    _hands: dict[int, Hand] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def run(self) -> None:
        """Have all shards answered that are not.

        The first Ctrl-C lets those that are being answered end, the second ends them.

        Raises:
            OmniformError: what no record is to blame for: the model cannot be loaded, the disk is full.
            KeyboardInterrupt: the user has stopped it; what is done stays.
        """
        self._left.extend(cut for cut in self.source.cuts if not self.folder.done(cut.number))
        many = min(self.workers, len(self._left))
        threads = [threading.Thread(target=self._slot, args=(n,), name=f"map-{n}") for n in range(many)]
        for thread in threads:
            thread.start()
        interrupted = False
        while any(thread.is_alive() for thread in threads):
            try:
                for thread in threads:
                    thread.join(PATIENCE)
            except KeyboardInterrupt:
                with self._changed:
                    self._stopping = True
                    self._changed.notify_all()
                    if interrupted or not self._at_work:
                        self._kill()
                if not interrupted:
                    self.said("stopping when the shards at hand are done; Ctrl-C again to leave them")
                interrupted = True
        if self._failure is not None:
            raise self._failure
        if interrupted and self._left:
            raise KeyboardInterrupt

    def _kill(self) -> None:
        for hand in list(self._hands.values()):
            hand.kill()

    def _slot(self, number: int) -> None:
        hand: Hand | None = None
        try:
            while (cut := self._next()) is not None:
                try:
                    if hand is None:
                        hand = self._hired(number)
                    hand.work(cut, alone=self._deaths[cut.number] > self.retries)
                except DiedError as died:
                    self._fired(number, hand)
                    hand = None
                    if died.ready:
                        self._died(cut, died)
                    else:  # no shard is to blame
                        self._loading_died(died)
                    self._return(cut)
                else:
                    self._settle()
        except OmniformError as error:
            self._fail(error)
        except Exception as error:
            self._fail(WorkerError(f"{type(error).__name__}: {error}"))
        finally:
            self._fired(number, hand)

    def _fired(self, number: int, hand: Hand | None) -> None:
        with self._changed:
            self._hands.pop(number, None)
        if hand is not None:
            hand.close()

    def _hired(self, number: int) -> Hand:
        hand = self.hire(number, self.counted)
        with self._changed:
            self._hands[number] = hand
        return hand

    def _next(self) -> Cut | None:
        """The next shard; waits while another's may come back. None: there is nothing more to do here."""
        with self._changed:
            while not self._stopping and not self._left and self._at_work:
                self._changed.wait()
            if self._stopping or not self._left:
                return None
            self._at_work += 1
            return self._left.popleft()

    def _settle(self) -> None:
        with self._changed:
            self._at_work -= 1
            self._changed.notify_all()

    def _return(self, cut: Cut) -> None:
        with self._changed:
            self._left.appendleft(cut)
        self._settle()

    def _fail(self, error: OmniformError) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._stopping = True
            self._kill()
        self._settle()

    def _loading_died(self, died: DiedError) -> None:
        with self._changed:
            self._loading_deaths += 1
            if self._loading_deaths > self.retries and not self._stopping:
                raise WorkerError(
                    "workers die before they are ready",
                    found=str(died),
                    remedy="Have fewer --workers, less --memory.",
                )

    def _died(self, cut: Cut, died: DiedError) -> None:
        with self._changed:
            if self._stopping:
                return  # killed by us
            self._loading_deaths = 0
            self._deaths[cut.number] += 1
            if died.at is not None:
                self._record_deaths[died.at] += 1
            hopeless = died.at is not None and self._record_deaths[died.at] >= max(self.retries, 1)
        if hopeless:
            self._give_up(cut, cast(int, died.at), died)
        else:
            self.said(f"shard {cut.number}: {died}; it is begun again")

    def _give_up(self, cut: Cut, index: int, died: DiedError) -> None:
        """Have a record that workers die of be answered by that."""
        records = records_of(self.source.path, cut, self.source.task)
        record = records[index - cut.first]
        error = {"type": "worker_died", "message": f"{died}, {self._record_deaths[index]} times at this record alone"}
        line = {**record.named(), "line": record.line, "error": error}
        self.folder.noted(cut.number)  # takes away what was cut off
        self.folder.note(cut.number, {"index": index, "line": line})
        self.said(f"record {index}: {died}; it is given up")


def processes(job: Job, source: Source, folder: Folder, workers: int, command: Sequence[str] = COMMAND) -> Hire:
    """Makes workers that are processes of this machine, which share its cores and take its accelerators in turn."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // workers))
    first = {"job": job.told(), "out": str(folder.path.resolve()), "path": str(source.path.resolve())}
    chips = _chips() if workers > 1 else ()

    def hire(number: int, counted: Counted) -> Hand:
        env = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
        if len(chips) > 1:
            env["CUDA_VISIBLE_DEVICES"] = chips[number % len(chips)]
        return Process(first, counted, env, command)

    return hire


def _chips() -> Sequence[str]:
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [one for one in told.split(",") if one]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
