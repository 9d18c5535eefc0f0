"""The tables of a database brought to what this version of omniform knows, by alembic."""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from omniform.bench.store.urls import WRITING, told
from omniform.core.errors import DependencyError, StoreError

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection, Engine

VERSION_TABLE: Final = "omniform_bench_schema"
"""Names the revision of the tables; other programs may keep theirs in the same database."""

LOCK: Final = 0x6F6D6E69
"""Of PostgreSQL, held while tables are made or changed."""

TRIES: Final = 200

MIGRATIONS: Final = Path(__file__).parent / "migrations"


def upgrade(engine: Engine, shown: str, to: str = "head") -> None:
    """Make the tables, or bring them up to date.

    One process does it, others wait. Either all steps are made or none.

    Args:
        engine: connects to the database.
        shown: its URL, without the password.
        to: a revision: the newest, but in tests.

    Raises:
        StoreError: the database cannot be used, is of a newer schema, or holds tables that are not ours.
    """
    config = _config()
    with told(shown, "open it"):
        if engine.dialect.name == "sqlite":
            _set_wal(engine)
        else:
            engine.connect().close()
    with told(shown, "make its tables"), engine.connect() as opened:
        connection = opened.execution_options(**{WRITING: True})
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            _upgrade(connection, config, shown, to)


def _config() -> Config:
    try:
        from alembic.config import Config
    except ImportError:
        raise DependencyError(
            "alembic is needed for this", where="--db", remedy="pip install 'omniform[bench]'"
        ) from None
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _upgrade(connection: Connection, config: Config, shown: str, to: str) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(config)
    head = script.get_current_head()
    found = revision(connection)
    if found == head:
        return
    if found is None:
        _check_empty(connection, shown)
    elif found not in {one.revision for one in script.walk_revisions()}:
        raise StoreError(
            "was written by a newer omniform", where=shown, expected=f"schema {head} or older", found=f"schema {found}",
            remedy="Update omniform, or name another database.",
        )  # fmt: skip
    config.attributes["connection"] = connection
    # What alembic says step by step is of no use to who measures.
    logger = logging.getLogger("alembic")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        command.upgrade(config, to)
    finally:
        logger.setLevel(level)


def revision(connection: Connection) -> str | None:
    """Of the tables; None where there are none yet."""
    from alembic.migration import MigrationContext

    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def _check_empty(connection: Connection, shown: str) -> None:
    from sqlalchemy import inspect

    from omniform.bench.store.tables import Base

    taken = sorted({*inspect(connection).get_table_names()} & {*Base.metadata.tables})
    if taken:
        raise StoreError(
            "holds tables that another program made", where=shown, found=", ".join(taken),
            remedy="Name a database of omniform's own.",
        )  # fmt: skip


def _set_wal(engine: Engine) -> None:
    # Readers and a writer do not wait for one another. The mode stays with the file. SQLite does not wait where two
    # processes set it at once.
    from sqlalchemy.exc import OperationalError

    for tries in range(TRIES):
        try:
            raw = engine.raw_connection()
            try:
                raw.cursor().execute("PRAGMA journal_mode = WAL")
            finally:
                raw.close()
            return
        except sqlite3.Error as error:
            if "locked" not in str(error) or tries == TRIES - 1:
                raise OperationalError(None, None, error) from error
            time.sleep(0.05)
