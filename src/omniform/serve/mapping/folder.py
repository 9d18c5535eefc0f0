"""The folder of a job: its manifest, what is done, what is half done; everything there is whole or not there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from omniform.core.errors import InputError, RepoError

Line = Mapping[str, object]
VERSION: Final = 1


def written(lines: Iterable[Line]) -> bytes:
    """Lines of JSON; the same lines are the same bytes."""
    return b"".join(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n" for line in lines)


def put(target: Path, pieces: Iterable[bytes]) -> None:
    """Have a file be there, whole, and on the disk, or not at all.

    Raises:
        RepoError: it cannot be written; nothing is left of it.
    """
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            with beside.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
            _sync(target.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RepoError("the results cannot be written", where=str(target), found=error.strerror) from None


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of a job's results.

    Attributes:
        path: of it.
    """

    path: Path

    @property
    def work(self) -> Path:
        """What is of use until the job is done."""
        return self.path / ".work"

    @property
    def manifest(self) -> Path:
        """What the results depend on."""
        return self.path / "manifest.json"

    @property
    def spool(self) -> Path:
        """The dataset as lines, where it is none itself."""
        return self.work / "records.jsonl"

    def part(self, number: int) -> Path:
        """A shard's results."""
        return self.path / f"part-{number:05d}.jsonl"

    def faults(self, number: int) -> Path:
        """What became of a shard's other records; not there where there are none."""
        return self.work / f"errors-{number:05d}.jsonl"

    def journal(self, number: int) -> Path:
        """What is done of a shard that is answered one by one."""
        return self.work / f"journal-{number:05d}.jsonl"

    def done(self, number: int) -> bool:
        """Whether a shard is."""
        return self.part(number).exists()

    def finish(self, number: int, results: Sequence[Line], faults: Sequence[Line]) -> None:
        """Keep a shard's results. That the part is there says that all of it is.

        Raises:
            RepoError: they cannot be written.
        """
        if faults:
            put(self.faults(number), [written(faults)])
        else:
            self.faults(number).unlink(missing_ok=True)
        put(self.part(number), [written(results)])
        self.journal(number).unlink(missing_ok=True)

    def note(self, number: int, line: Line) -> None:
        """Add to a shard's journal, on the disk at once.

        Raises:
            RepoError: it cannot be written.
        """
        try:
            with self.journal(number).open("ab") as file:
                file.write(written([line]))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            where = str(self.journal(number))
            raise RepoError("the results cannot be written", where=where, found=error.strerror) from None

    def noted(self, number: int) -> dict[int, dict[str, object]]:
        """What a shard's journal holds, by record; a line that was cut off is taken away."""
        path = self.journal(number)
        raw = path.read_bytes() if path.exists() else b""
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            os.truncate(path, len(whole))
        lines = [cast("dict[str, object]", json.loads(line)) for line in whole.splitlines()]
        return {cast(int, line["index"]): line for line in lines}

    def gather(self, shards: int, target: Path, *, faults: bool = False) -> int:
        """Write all parts, or all faults, of shards that are done into one file; how many lines those are."""
        lines = 0

        def pieces() -> Iterator[bytes]:
            nonlocal lines
            for number in range(shards):
                path = self.faults(number) if faults else self.part(number)
                if self.done(number) and path.exists():
                    with path.open("rb") as file:
                        while piece := file.read(1 << 20):
                            lines += piece.count(b"\n")
                            yield piece

        put(target, pieces())
        return lines

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Have the folder for oneself.

        Raises:
            InputError: another process works there, or there are files of somebody else.
            RepoError: it cannot be written.
        """
        with contextlib.ExitStack() as stack:
            try:
                strange = self.path.is_dir() and any(self.path.iterdir()) and not self.work.is_dir()
                if strange and not self.manifest.exists():
                    raise InputError(
                        "the folder holds other files", where=str(self.path), remedy="Name a new or empty folder."
                    )
                self.work.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context((self.work / "lock").open("wb"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise InputError("another process works there", where=str(self.path)) from None
                self._tidy()
            except OSError as error:
                where = str(self.path)
                raise RepoError("the folder cannot be used", where=where, found=error.strerror or str(error)) from None
            yield

    def _tidy(self) -> None:
        """Take away what processes that were killed had begun to write."""
        for folder in (self.path, self.work):
            for path in folder.glob(".*.jsonl.*"):
                path.unlink(missing_ok=True)

    def agree(self, told: Mapping[str, object]) -> Mapping[str, object]:
        """Begin with a manifest, or go on with the one that is there.

        Args:
            told: what the results depend on; ``created`` is the manifest's where there is one.

        Raises:
            InputError: the results there depend on something else: on what, and both values.
        """
        if not self.manifest.exists():
            stray = next(self.path.glob("part-*.jsonl"), None)
            if stray is not None:
                raise InputError("there are results, and no manifest says of what", where=str(stray))
            put(self.manifest, [json.dumps(told, ensure_ascii=False, indent=1).encode() + b"\n"])
            return told
        there = self.read()
        differs = sorted(_differences(there, told), key=lambda one: one[0] != "input.sha256")  # says the most
        for name, was, now in differs:
            if name not in ("created", "job.created"):
                raise InputError(
                    "the results there were made otherwise",
                    where=f"{self.manifest}: {name}",
                    expected=was,
                    found=now,
                    remedy="Name another folder for --out, or ask as before.",
                )
        return there

    def read(self) -> Mapping[str, object]:
        """The manifest.

        Raises:
            InputError: it is none.
        """
        try:
            there = json.loads(self.manifest.read_bytes())
        except ValueError:
            there = None
        if not isinstance(there, dict) or there.get("version") != VERSION:
            raise InputError("this is no manifest of omniform map", where=str(self.manifest))
        return there


def _differences(
    was: Mapping[str, object], now: Mapping[str, object], at: str = ""
) -> Iterator[tuple[str, object, object]]:
    for name in sorted(was.keys() | now.keys()):
        old, new = was.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{at}{name}.")
        elif old != new:
            yield f"{at}{name}", old, new
