"""A dataset: read once from end to end before anything is computed, so that what is wrong with it is told first."""

from __future__ import annotations

import csv
import gzip
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from omniform.core.errors import DependencyError, InputError, RepoError
from omniform.serve.mapping.job import Record, fault_of, task_of

PICTURES: Final = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SOUNDS: Final = {".wav", ".flac", ".mp3", ".ogg", ".m4a", ".opus"}
VIDEOS: Final = {".mp4", ".mkv", ".mov", ".webm", ".avi"}
LONGEST_LINE: Final = 256 << 20
"""Bytes of a line: what is longer is no dataset, but a file that has no lines."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A shard: records that lie one after another.

    Attributes:
        number: of the shard.
        first: the number of its first record.
        count: of its records.
        offset: where its first line begins, in bytes.
        line: the number of that line, from 1.
    """

    number: int
    first: int
    count: int
    offset: int
    line: int


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset as lines of JSON.

    Attributes:
        path: the file of lines; the dataset itself, or what was made of it.
        digest: SHA-256 of the dataset.
        nbytes: of the dataset.
        task: what is to be done with its records.
        records: how many there are.
        cuts: the shards.
        bad: how many lines are no records.
    """

    path: Path
    digest: str
    nbytes: int
    task: str
    records: int
    cuts: tuple[Cut, ...]
    bad: int


def lines_of(place: Path, spool: Path) -> tuple[Path, str, int]:
    """A dataset as a file of JSON lines.

    Args:
        place: ``.jsonl`` is taken as it is; ``.jsonl.gz``, ``.csv``, ``.parquet`` and folders of media become lines.
        spool: where those are written.

    Returns:
        The file of lines, the dataset's digest and its bytes.

    Raises:
        RepoError: it cannot be read.
        InputError: it is of another kind, or is not what its name says.
        DependencyError: pyarrow is needed, and not there.
    """
    try:
        if place.is_dir():
            names = _media(place)
            digest = hashlib.sha256()
            for name in names:
                told = (place / name).stat()
                digest.update(f"{name}\0{told.st_size}\0{told.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
            _spool((_named(place, name) for name in names), spool)
            return spool, digest.hexdigest(), sum((place / name).stat().st_size for name in names)
        name = place.name.lower()
        digest_text, nbytes = _digest(place)
        if name.endswith((".jsonl", ".ndjson")):
            return place, digest_text, nbytes
        if name.endswith((".jsonl.gz", ".ndjson.gz")):
            with gzip.open(place, "rb") as packed:
                _copy(cast(BinaryIO, packed), spool)
        elif name.endswith(".csv"):
            _spool(_rows(place), spool)
        elif name.endswith(".parquet"):
            _spool(_columns(place), spool)
        else:
            raise InputError(
                "no kind of dataset", where=str(place), expected=".jsonl, .jsonl.gz, .csv, .parquet or a folder"
            )
        return spool, digest_text, nbytes
    except (EOFError, gzip.BadGzipFile, csv.Error, UnicodeDecodeError) as error:
        raise InputError("the dataset is not what its name says", where=str(place), found=str(error)) from None
    except OSError as error:
        if isinstance(error, RepoError | DependencyError):
            raise
        raise RepoError("the dataset cannot be read", where=str(place), found=error.strerror or str(error)) from None


def _digest(place: Path) -> tuple[str, int]:
    digest, nbytes = hashlib.sha256(), 0
    with place.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            nbytes += len(piece)
    return digest.hexdigest(), nbytes


def _copy(file: BinaryIO, spool: Path) -> None:
    with spool.open("wb") as out:
        while piece := file.read(1 << 20):
            out.write(piece)


def _spool(rows: Iterable[Mapping[str, object]], spool: Path) -> None:
    with spool.open("wb") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")


def _rows(place: Path) -> Iterator[dict[str, object]]:
    csv.field_size_limit(LONGEST_LINE)
    with open(place, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        names = reader.fieldnames or ()
        if not names or len(set(names)) < len(names):
            raise InputError("a .csv begins with the names of its columns, each once", where=str(place))
        for row in reader:
            if None in row or None in row.values():
                raise InputError(
                    "a row has not as many cells as there are columns", where=f"{place}:{reader.line_num}",
                    expected=len(names),
                )  # fmt: skip
            yield {str(name): value for name, value in row.items()}


def _columns(place: Path) -> Iterator[dict[str, object]]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise DependencyError(
            "pyarrow is needed to read .parquet", where=str(place), remedy="pip install pyarrow"
        ) from None
    try:
        for batch in parquet.ParquetFile(place).iter_batches(1024):
            for row in batch.to_pylist():
                try:
                    json.dumps(row)
                except TypeError as error:
                    raise InputError(
                        "a column is nothing that JSON can hold", where=str(place), found=str(error)
                    ) from None
                yield row
    except arrow.ArrowException as error:
        raise InputError("the dataset is not what its name says", where=str(place), found=str(error)) from None


def _media(place: Path) -> list[str]:
    found = [
        str(path.relative_to(place))
        for path in place.rglob("*")
        if path.suffix.lower() in PICTURES | SOUNDS | VIDEOS and path.is_file()
    ]
    return sorted(found)


def _named(place: Path, name: str) -> dict[str, object]:
    ending = Path(name).suffix.lower()
    kind = "image" if ending in PICTURES else "audio" if ending in SOUNDS else "video"
    return {"id": name, kind: str((place / name).resolve())}


def record_of(raw: bytes, index: int, line: int, task: str | None) -> Record:
    """What a line holds.

    Args:
        task: what it is for; None: it is only read.
    """
    try:
        held: object = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Record(index, line, None, f"byte {error.start} is no UTF-8")
    except RecursionError:
        return Record(index, line, None, "nested too deep")
    except ValueError as error:
        return Record(index, line, None, f"no JSON: {error}")
    if not isinstance(held, dict):
        return Record(index, line, None, f"no object, but a {type(held).__name__}")
    fault = None if task is None else fault_of(held, task)
    return Record(index, line, None if fault else held, fault)


def numbered(file: BinaryIO, line: int = 1) -> Iterator[tuple[int, int, bytes]]:
    """Lines that are not empty: where each begins, its number and its bytes."""
    offset = file.tell()
    while raw := file.readline(LONGEST_LINE):
        if len(raw) == LONGEST_LINE:
            raise InputError("a line is longer than any record", where=f"line {line}", expected=f"{LONGEST_LINE} bytes")
        text = raw.lstrip(b"\xef\xbb\xbf") if line == 1 else raw
        if text.strip():
            yield offset, line, text.strip()
        offset, line = offset + len(raw), line + 1


def indexed(
    path: Path, digest: str, nbytes: int, *, name: str, task: str | None, shard: int | None, lenient: bool
) -> Source:
    """Find the records of a file of lines, and cut it in shards.

    Args:
        name: the dataset's, for messages.
        task: what is to be done; None: what the first record is made for.
        shard: records of a shard; None: a 64th of all, between 16 and 512.
        lenient: whether lines that are no records are let be, to be told with the results.

    Raises:
        InputError: it is empty, two records have one ``custom_id``, or a line is no record: which, and what it is.
    """
    starts: list[tuple[int, int]] = []
    idents: set[str] = set()
    bad, found_task = 0, task
    with path.open("rb") as file:
        for offset, line, raw in numbered(file):
            if found_task is None:
                first = record_of(raw, 0, line, None)
                found_task = task_of(first.fields or {}, None) if first.fields is not None else None
            record = record_of(raw, len(starts), line, found_task)
            if record.fault is not None:
                if not lenient:
                    raise InputError(
                        "a line of the dataset is no record", where=f"{name}, line {line}", found=record.fault,
                        remedy="Mend it, or add --keep-going: its fault is then told in errors.jsonl.",
                    )  # fmt: skip
                bad += 1
            elif record.fields is not None and isinstance(record.fields.get("custom_id"), str):
                ident = str(record.fields["custom_id"])
                if ident in idents:
                    raise InputError("two records have one custom_id", where=f"{name}, line {line}", found=ident)
                idents.add(ident)
            starts.append((offset, line))
    if not starts:
        raise InputError("the dataset is empty", where=name, expected="a record at least")
    if found_task is None:
        raise InputError("no line of the dataset is a record", where=name)
    size = shard or max(16, min(512, -(-len(starts) // 64)))
    cuts = tuple(
        Cut(number, first, min(size, len(starts) - first), *starts[first])
        for number, first in enumerate(range(0, len(starts), size))
    )
    return Source(path, digest, nbytes, found_task, len(starts), cuts, bad)


def records_of(path: Path, cut: Cut, task: str) -> list[Record]:
    """A shard's records."""
    with path.open("rb") as file:
        file.seek(cut.offset)
        lines = itertools.islice(numbered(file, cut.line), cut.count)
        return [record_of(raw, cut.first + place, line, task) for place, (_, line, raw) in enumerate(lines)]


def place_of(text: str) -> Path:
    """A dataset by its name.

    Raises:
        RepoError: there is none.
    """
    place = Path(os.path.expanduser(text))
    if not place.exists():
        raise RepoError("there is no such dataset", where=text)
    return place
