"""A process that answers shards: told by lines of JSON on standard input, telling by lines on standard output.

It ends when its standard input does, whatever it is at: whoever started it is gone then.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from omniform.core.errors import OmniformError, brief
from omniform.serve.mapping.folder import Folder
from omniform.serve.mapping.job import Job, Record
from omniform.serve.mapping.lines import answers
from omniform.serve.mapping.source import Cut, records_of

if TYPE_CHECKING:
    from omniform.serve.mapping.lines import Answerer

TELL_EVERY = 0.25
"""Seconds between two accounts of what was done."""

Tell = Callable[[Mapping[str, object]], None]


class Meter:
    """Counts what is answered, and tells of it now and then."""

    def __init__(self, tell: Tell) -> None:
        self._tell, self._at = tell, time.monotonic()
        self._records = self._tokens = 0

    def count(self, tokens: int) -> None:
        """A record is answered."""
        self._records, self._tokens = self._records + 1, self._tokens + tokens
        if time.monotonic() - self._at > TELL_EVERY:
            self.flush()

    def flush(self) -> None:
        """Tell what was not told."""
        self._tell({"said": "count", "records": self._records, "tokens": self._tokens})
        self._records = self._tokens = 0
        self._at = time.monotonic()


def work_shard(
    answerer: Answerer, folder: Folder, path: Path, cut: Cut, task: str, tell: Tell, *, alone: bool = False
) -> tuple[int, int]:
    """Answer a shard and keep its results; see :func:`kept`."""
    meter = Meter(tell)

    def answered(records: Sequence[Record]) -> list[dict[str, object]]:
        if alone:
            tell({"said": "at", "index": records[0].index})
        lines = answers(answerer, records, meter.count)
        if not alone:
            meter.flush()
        return lines

    return kept(answered, folder, path, cut, task, alone=alone)


def kept(
    answered: Callable[[Sequence[Record]], Sequence[Mapping[str, object]]],
    folder: Folder,
    path: Path,
    cut: Cut,
    task: str,
    *,
    alone: bool,
) -> tuple[int, int]:
    """Have a shard answered and keep its results.

    Args:
        answered: makes a line of each record.
        alone: one record after another, each kept when it is done: whoever dies says of which, and what was done stays.

    Returns:
        How many results and how many faults.

    Raises:
        RepoError: they cannot be written.
    """
    records = records_of(path, cut, task)
    lines: Sequence[Mapping[str, object]]
    if alone:
        known = folder.noted(cut.number)
        for record in records:
            if record.index not in known:
                (line,) = answered([record])
                folder.note(cut.number, {"index": record.index, "line": line})
                known[record.index] = {"line": line}
        lines = [cast("Mapping[str, object]", known[record.index]["line"]) for record in records]
    else:
        lines = answered(records)
    results = [line for line in lines if not line.get("error")]
    faults = [line for line in lines if line.get("error")]
    folder.finish(cut.number, results, faults)
    return len(results), len(faults)


def main(load: Callable[[Job], Answerer] | None = None) -> None:
    """Answer shards until there are no more.

    Args:
        load: makes what answers; the job's model by default.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it decides
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what others print is no word of ours
    tell = _teller(said)
    asked = _heard()
    first = asked.get()
    try:
        job = Job.read(first["job"])  # type: ignore[arg-type]
        answerer = loaded(job) if load is None else load(job)
    except (OmniformError, OSError, MemoryError, ImportError) as error:
        tell({"said": "failed", "why": str(error) if isinstance(error, OmniformError) else brief(error)})
        return
    tell({"said": "ready"})
    folder, path = Folder(Path(str(first["out"]))), Path(str(first["path"]))
    while (order := asked.get()).get("cut") is not None:
        cut = Cut(**order["cut"])  # type: ignore[arg-type]
        try:
            results, faults = work_shard(answerer, folder, path, cut, job.task, tell, alone=bool(order.get("alone")))
        except OmniformError as error:  # of a record's, it stands among the results: this is of all of them
            tell({"said": "failed", "why": str(error)})
            return
        tell({"said": "done", "results": results, "faults": faults})


def loaded(job: Job) -> Answerer:
    """What a job needs; imported with it, which takes seconds."""
    from omniform.serve.mapping.answering import answerer_of

    return answerer_of(job)


def _teller(said: TextIO) -> Tell:
    lock = threading.Lock()

    def tell(line: Mapping[str, object]) -> None:
        with lock:
            print(json.dumps(line), file=said, flush=True)

    return tell


def _heard() -> queue.SimpleQueue[dict[str, object]]:
    orders: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()

    def hear() -> None:
        for line in sys.stdin.buffer:
            orders.put(json.loads(line))
        os._exit(0)  # nothing half written is lost: what is not whole is taken away by whoever comes next

    threading.Thread(target=hear, daemon=True, name="orders").start()
    return orders


if __name__ == "__main__":
    main()
