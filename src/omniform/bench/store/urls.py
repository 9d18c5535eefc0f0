"""Databases by their URLs: opened, and spoken of without their passwords."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from omniform.core.errors import DependencyError, InputError, StoreError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

BUSY: Final = 60.0
"""Seconds that a writer waits for another one: SQLite has one at a time."""

CONNECT: Final = 10
"""Seconds that a server has to answer."""

WRITING: Final = "omniform_writing"
"""Set among a connection's options where it will write: SQLite is locked from the start, since a reader that turns
writer is refused at once, without waiting."""

EXAMPLES: Final = "sqlite:///bench.db or postgresql://user@host/name"


def read_url(text: str) -> URL:
    """A database's URL, with the driver that is used for it.

    Raises:
        InputError: it is none, or of a kind of database that is not supported.
        DependencyError: what speaks to databases is not installed.
    """
    try:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError:
        raise DependencyError(
            "SQLAlchemy is needed for this", where="--db", remedy="pip install 'omniform[bench]'"
        ) from None
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise InputError("is not the URL of a database", where=hidden(text), expected=EXAMPLES) from None
    kind = url.drivername.partition("+")[0]
    if kind == "sqlite":
        if not url.database or url.database == ":memory:":
            raise InputError("names no file, so that nothing would be kept", where=hidden(text), expected=EXAMPLES)
        return url.set(drivername="sqlite+pysqlite")
    if kind in ("postgresql", "postgres"):
        _check_psycopg()
        return url.set(drivername="postgresql+psycopg")
    raise InputError(f"is of a kind that is not supported: {kind}", where=hidden(text), expected=EXAMPLES)


def _check_psycopg() -> None:
    try:
        import psycopg
    except ImportError:
        raise DependencyError(
            "psycopg is needed for PostgreSQL", where="--db", remedy="pip install 'omniform[postgresql]'"
        ) from None
    del psycopg


def hidden(text: str) -> str:
    """A URL, or what should have been one, without its password."""
    text = re.sub(r"^([^:/]+://[^:/@]*):.*@", r"\1:***@", text)
    return re.sub(r"(?i)((?:password|passfile|sslpassword|sslkey)=)[^&#]*", r"\1***", text)


def engine_of(url: URL) -> Engine:
    """What connects to it. Every piece of work has a connection of its own, so that forks and threads share none."""
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import NullPool

    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY})
        event.listen(engine, "connect", _set_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    arguments = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT}
    return create_engine(url, poolclass=NullPool, connect_args=arguments)


def _set_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions begin where we say
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(WRITING) else "BEGIN")


@contextmanager
def told(shown: str, doing: str) -> Iterator[None]:
    """What a database refuses becomes a :class:`StoreError` that names it."""
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        yield
    except DBAPIError as error:
        said = " ".join(str(error.orig).split())
        raise StoreError(f"cannot {doing}: {said}", where=shown, remedy=_remedy(said)) from error
    except SQLAlchemyError as error:
        raise StoreError(f"cannot {doing}: {' '.join(str(error).split())}", where=shown) from error


REMEDIES: Final = (
    ("not a database", "Name a new file, or one that omniform made."),
    ("unable to open", "Is there such a folder, and may you write into it?"),
    ("readonly", "Name a file in a folder that you may write into."),
    ("disk is full", "Make room; what was measured is printed as JSON."),
    ("No space left", "Make room on the server; what was measured is printed as JSON."),
    ("locked", f"Another process has been writing for {BUSY:.0f} seconds."),
    ("password authentication", "Check the user and the password."),
    ("no password supplied", "Put the password into the URL, or into ~/.pgpass."),
    ("does not exist", "Make it first, by createdb or createuser."),
    ("Connection refused", "Is the server running, at this host and port?"),
    ("No such file", "Is the server running, and is its socket there?"),
    ("resolve", "Check the name of the host."),
    ("permission denied", "The user may not do this in that database."),
    ("malformed", "The file is damaged: bring back a copy, or name a new one."),
)


def _remedy(said: str) -> str | None:
    return next((remedy for words, remedy in REMEDIES if words.lower() in said.lower()), None)
