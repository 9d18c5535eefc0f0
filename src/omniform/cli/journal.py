"""What a run over many inputs has done so far, line by line, so that it goes on where it was cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast

from omniform.core.errors import InputError, RepoError

Record = dict[str, object]
"""One line: an object of JSON."""

_ABOUT: Final = "about"


class Journal:
    """A file of JSON lines: what the run is about, then one for each input that is done.

    A line is written in one piece and flushed to the disk; a last one that was cut off is taken away.

    Args:
        path: the file; its folder must be there.
        about: what the results depend on. A file that is about something else is not gone on with.
        again: begin anew, whatever there is.

    Raises:
        InputError: the file is about something else.
        RepoError: it cannot be read or written.
    """

    def __init__(self, path: Path, about: Mapping[str, object], *, again: bool = False) -> None:
        self.path = path
        self.done: dict[str, Record] = {}
        """The last line of each input, by its name."""
        try:
            if again:
                path.unlink(missing_ok=True)
            self._read(dict(about))
            self._handle = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
            if not self.is_begun:
                self._write({_ABOUT: dict(about)})
        except OSError as error:
            raise RepoError("the results cannot be written", where=str(path), found=error.strerror) from None

    def add(self, name: str, record: Mapping[str, object]) -> None:
        """Note what became of an input."""
        line = {"name": name, **record}
        self.done[name] = line
        try:
            self._write(line)
        except OSError as error:
            raise RepoError("the results cannot be written", where=str(self.path), found=error.strerror) from None

    def close(self, *, keep: bool = True) -> None:
        """Let the file go; without ``keep`` it is removed."""
        os.close(self._handle)
        if not keep:
            self.path.unlink(missing_ok=True)

    def _read(self, about: Record) -> None:
        self.is_begun = False
        if not self.path.exists():
            return
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            os.truncate(self.path, len(whole))
        for number, line in enumerate(whole.splitlines()):
            record = _object(line)
            if number == 0:
                self._check(record, about)
            elif record is not None and isinstance(record.get("name"), str):
                self.done[cast(str, record["name"])] = record
        self.is_begun = bool(whole)

    def _check(self, record: Record | None, about: Record) -> None:
        found = None if record is None else record.get(_ABOUT)
        if not isinstance(found, dict):
            raise InputError(
                "this file holds no results of omniform run", where=str(self.path), remedy="Name another folder."
            )
        plain = json.loads(json.dumps(about))
        differs = [name for name in plain.keys() | found.keys() if plain.get(name) != found.get(name)]
        if differs:
            name = min(differs)
            raise InputError(
                "the results there were made otherwise",
                where=f"{self.path}: {name}",
                expected=found.get(name),
                found=plain.get(name),
                remedy="Name another folder, or begin anew with --again.",
            )

    def _write(self, record: Mapping[str, object]) -> None:
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        while line:
            line = line[os.write(self._handle, line) :]
        os.fsync(self._handle)
        self.is_begun = True


def _object(line: bytes) -> Record | None:
    try:
        found: object = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
