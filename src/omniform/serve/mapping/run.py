"""A whole job: read the dataset, agree with what is there, have the rest answered, gather."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

from omniform.core.errors import InputError, RepoError
from omniform.serve.mapping.crew import Crew, Hire, processes
from omniform.serve.mapping.folder import VERSION, Folder
from omniform.serve.mapping.job import Job, check_settings
from omniform.serve.mapping.progress import Progress
from omniform.serve.mapping.source import Source, indexed, lines_of, place_of

MERGED: Final = "results.jsonl"
FAULTS: Final = "errors.jsonl"
SMALL: Final = 1 << 20
"""Bytes of files of a checkpoint that are read to know it again."""

Hiring = Callable[[Job, Source, Folder, int], Hire]
"""Where workers come from: of a job, its dataset, its folder, and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a user says of how a job is done; nothing of it changes a result.

    Attributes:
        workers: processes at once.
        retries: see :class:`~omniform.serve.mapping.crew.Crew`.
        shard: records of a shard; None: the manifest's, or as many as suit the dataset.
        lenient: whether lines that are no records are told among the errors, instead of refusing the dataset.
        merge: whether all parts are written into one file at the end.
        hiring: where workers come from.
    """

    workers: int = 1
    retries: int = 2
    shard: int | None = None
    lenient: bool = False
    merge: bool = False
    hiring: Hiring = processes

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("retries", 0), ("shard", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError("this value cannot be", where=name, expected=f">= {least}", found=value)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job.

    Attributes:
        records: of the dataset.
        faults: of them that could not be answered.
    """

    records: int
    faults: int


def run_map(job: Job, dataset: str, out: str, asked: Asked, *, task: str | None) -> Outcome:
    """Answer every record of a dataset, each exactly once, going on where an earlier run ended.

    Args:
        job: what is to be done; its task is the dataset's where none is asked for.
        dataset: a file or a folder.
        out: the folder of the results.
        task: see :class:`Job`; None: what the records are made for.

    Raises:
        OmniformError: the dataset, the settings or the folder cannot be used; the model cannot be loaded; a full disk.
        KeyboardInterrupt: the user has stopped it; the next run goes on.
    """
    place = place_of(dataset)
    folder = Folder(Path(out).expanduser())
    if place.is_dir() and folder.path.resolve().is_relative_to(place.resolve()):
        raise InputError("the results cannot lie in the dataset", where="--out", found=str(folder.path))
    with folder.held():
        path, digest, nbytes = lines_of(place, folder.spool)
        shard = asked.shard or _shard_of(folder)
        source = indexed(path, digest, nbytes, name=str(place), task=task, shard=shard, lenient=asked.lenient)
        job = replace(job, task=source.task, folder=str((place if place.is_dir() else place.parent).resolve()))
        roots = job.roots or (job.folder,)
        job = replace(
            job, roots=tuple(str(Path(root).expanduser().resolve()) for root in roots), created=int(time.time())
        )
        check_settings(job)
        there = folder.agree(_manifest(job, source))
        job = replace(job, created=cast("Mapping[str, int]", there["job"])["created"])
        _work(job, source, folder, asked)
        faults = folder.gather(len(source.cuts), folder.path / FAULTS, faults=True)
        if asked.merge:
            folder.gather(len(source.cuts), folder.path / MERGED)
        folder.spool.unlink(missing_ok=True)
    return Outcome(source.records, faults)


def _work(job: Job, source: Source, folder: Folder, asked: Asked) -> None:
    done = sum(cut.count for cut in source.cuts if folder.done(cut.number))
    progress = Progress(source.records, done)
    if done == source.records:
        progress.say(f"all {done} records are done")
        return
    if done:
        progress.say(f"going on: {done} of {source.records} records are done")
    crew = Crew(
        job, source, folder, asked.workers, asked.hiring(job, source, folder, asked.workers), asked.retries,
        progress.count, progress.say,
    )  # fmt: skip
    try:
        with progress.shown():
            crew.run()
    finally:
        progress.say(progress.told())
        with contextlib.suppress(RepoError):  # a full disk is told by what it kept from being written
            folder.gather(len(source.cuts), folder.path / FAULTS, faults=True)


def _shard_of(folder: Folder) -> int | None:
    if not folder.manifest.exists():
        return None
    return cast("Mapping[str, int]", folder.read()["input"])["shard"]


def _manifest(job: Job, source: Source) -> Mapping[str, object]:
    held = {
        "sha256": source.digest,
        "bytes": source.nbytes,
        "records": source.records,
        "bad_lines": source.bad,
        "shard": source.cuts[0].count,
        "shards": len(source.cuts),
    }
    whole = {"version": VERSION, "input": held, "job": job.told(), "checkpoint": _checkpoint(job.model)}
    told: dict[str, object] = json.loads(json.dumps(whole))
    return told


def _checkpoint(name: str) -> str | None:
    """What tells a folder's checkpoint from another in its place, without reading its weights; None for a Hub id."""
    place = Path(name).expanduser()
    if not place.exists():
        return None
    digest = hashlib.sha256()
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\n".encode("utf-8", "surrogateescape"))
            if size < SMALL:
                digest.update(path.read_bytes())
    return digest.hexdigest()
