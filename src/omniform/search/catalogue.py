"""Which picture of a folder is which vector of the index: a small database, whole at every moment."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from omniform.core.errors import OmniformError, RepoError

TABLES: Final = """
    CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value BLOB);
    CREATE TABLE IF NOT EXISTS pictures (name BLOB PRIMARY KEY, stamp TEXT, row INTEGER, error TEXT) WITHOUT ROWID;
    CREATE UNIQUE INDEX IF NOT EXISTS by_row ON pictures (row);
    CREATE TABLE IF NOT EXISTS dead (row INTEGER PRIMARY KEY);
"""
_WAIT: Final = 60.0
"""Seconds to wait for another process that is writing."""


@dataclass(frozen=True, slots=True)
class File:
    """A picture's file: its name within the folder, and what tells whether it has changed."""

    name: str
    stamp: str


class Catalogue:
    """The database beside an index's vectors.

    Names are kept as the file system's bytes. A number that no picture has any more is *dead*: its vector is skipped.

    Args:
        path: the file; made where it is not there.

    Raises:
        RepoError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=_WAIT, isolation_level=None)
            self._db.executescript(TABLES)
            self._db.executescript(
                "CREATE TEMP TABLE seen (name BLOB PRIMARY KEY, stamp TEXT, fresh INTEGER) WITHOUT ROWID;"
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OmniformError:
            raise
        except (sqlite3.Error, OSError) as error:
            found = error.strerror if isinstance(error, OSError) else str(error)
            raise RepoError("the index cannot be read or written", where=str(self.path), found=found) from error

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Within it, what is written is written together, by nobody else, or not at all."""
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    # -- what is known of the index ----------------------------------------------------------------------------------

    def about(self) -> Mapping[str, bytes]:
        """What is kept of the index as a whole."""
        with self._told():
            return dict(self._db.execute("SELECT key, value FROM about"))

    def set_about(self, **values: bytes) -> None:
        """Keep something of it."""
        with self._told():
            self._db.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", values.items())

    @property
    def rows(self) -> int:
        """How many vectors count, the dead ones included."""
        return int(self.about().get("rows", b"0"))

    def dead(self) -> list[int]:
        """The numbers of vectors that no picture has."""
        with self._told():
            return [row for (row,) in self._db.execute("SELECT row FROM dead")]

    def counts(self) -> tuple[int, int]:
        """How many pictures have vectors, and how many cannot be read."""
        with self._told():
            return self._db.execute("SELECT count(row), count(error) FROM pictures").fetchone()  # type: ignore[no-any-return]

    def names(self, rows: Sequence[int]) -> dict[int, str]:
        """The names of pictures by their vectors' numbers; a number that no picture has is left out."""
        marks = ",".join("?" * len(rows))
        with self._told():
            found = self._db.execute(f"SELECT row, name FROM pictures WHERE row IN ({marks})", list(map(int, rows)))
            return {row: os.fsdecode(name) for row, name in found}

    def failed(self) -> dict[str, str]:
        """What is wrong with the pictures that cannot be read, by name."""
        with self._told():
            found = self._db.execute("SELECT name, error FROM pictures WHERE error IS NOT NULL ORDER BY name")
            return {os.fsdecode(name): error for name, error in found}

    def living(self) -> Iterator[tuple[int, bytes]]:
        """All vectors that pictures have, by number, and those pictures' names."""
        with self._told():
            yield from self._db.execute("SELECT row, name FROM pictures WHERE row IS NOT NULL ORDER BY row")

    # -- what a walk through the folder finds --------------------------------------------------------------------------

    def compare(self, files: Iterable[File]) -> None:
        """Note which of the folder's pictures are known as they are."""
        with self._told():
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM seen")
            for file in files:
                name = os.fsencode(file.name)
                known = self._db.execute("SELECT stamp FROM pictures WHERE name = ?", (name,)).fetchone()
                state = 0 if known == (file.stamp,) else 1 if known is None else 2
                self._db.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (name, file.stamp, state))
            self._db.execute("COMMIT")

    def differences(self) -> tuple[int, int, int]:
        """How many pictures are new, changed and gone since :meth:`compare` was called last."""
        with self._told():
            new, changed = self._db.execute("SELECT total(fresh = 1), total(fresh = 2) FROM seen").fetchone()
            gone = self._db.execute("SELECT count(*) FROM pictures WHERE name NOT IN (SELECT name FROM seen)")
            return int(new), int(changed), int(gone.fetchone()[0])

    def waiting(self) -> Iterator[File]:
        """The pictures that are new or changed, in the order of their names."""
        with self._told():
            found = self._db.execute("SELECT name, stamp FROM seen WHERE fresh ORDER BY name")
            yield from (File(os.fsdecode(name), stamp) for name, stamp in found)

    def forget_gone(self) -> None:
        """Drop the pictures that are no longer there."""
        with self.changing():
            gone = "name NOT IN (SELECT name FROM seen)"
            self._db.execute(f"INSERT INTO dead SELECT row FROM pictures WHERE row IS NOT NULL AND {gone}")
            self._db.execute(f"DELETE FROM pictures WHERE {gone}")

    def put(self, files: Sequence[File], rows: Sequence[int | None], errors: Sequence[str | None]) -> None:
        """Note pictures with their vectors' numbers, or with what is wrong with them; within :meth:`changing`."""
        for file, row, error in zip(files, rows, errors, strict=True):
            name = os.fsencode(file.name)
            self._db.execute(
                "INSERT OR REPLACE INTO dead SELECT row FROM pictures WHERE name = ? AND row IS NOT NULL", (name,)
            )
            self._db.execute("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?)", (name, file.stamp, row, error))

    def renumber(self, names: Iterable[bytes]) -> None:
        """Number the pictures anew in this order, from 0; nothing is dead then. Within :meth:`changing`."""
        self._db.execute("DELETE FROM dead")
        self._db.execute("UPDATE pictures SET row = NULL")
        self._db.executemany("UPDATE pictures SET row = ? WHERE name = ?", enumerate(names))

    def clear(self) -> None:
        """Forget everything; within :meth:`changing`."""
        for table in ("about", "pictures", "dead"):
            self._db.execute(f"DELETE FROM {table}")
