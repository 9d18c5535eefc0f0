"""A worker of ``omniform map`` without a model: it says what it is asked, with the record's seed, or dies of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from omniform.core.errors import InputError
from omniform.serve.mapping.job import Job, Record
from omniform.serve.mapping.lines import Told, failed
from omniform.serve.mapping.worker import main


class Echo:
    def __init__(self, job: Job) -> None:
        self._job = job
        if job.model == "missing":
            raise InputError("there is no such model", where=job.model)
        if job.model == "dies":
            os.kill(os.getpid(), signal.SIGKILL)

    def answer(self, records: Sequence[Record], told: Told) -> list[dict[str, object]]:
        lines = []
        for record in records:
            word, _, rest = str(record.fields["prompt"]).partition(" ")
            if word == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "once" and not Path(rest).exists():
                Path(rest).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "sleep":
                time.sleep(float(rest))
            if word == "refuse":
                lines.append(failed(record, InputError("not this", where="prompt")))
            else:
                lines.append({**record.named(), "text": f"{word} {self._job.seed_of(record.index)}"})
            told(1)
        return lines


if __name__ == "__main__":
    main(Echo)
