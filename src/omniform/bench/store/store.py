"""Results in a database: written while they are made, found again later."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import statistics
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, Self, cast

from omniform.bench.results import Better, Measure, Result, Status, passes_of
from omniform.bench.store import schema
from omniform.bench.store.owners import gone, owner
from omniform.bench.store.urls import WRITING, engine_of, hidden, read_url, told
from omniform.core.errors import InputError, StoreError

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Engine

    from omniform.bench.store import tables

log = logging.getLogger(__name__)

BEAT: Final = 20.0
"""Seconds between two signs of life of a run."""

SILENT: Final = 300.0
"""A run on another host, of which nothing was heard for so many seconds, is broken."""

DEVICE: Final = frozenset(("memory", "cpu", "gpu", "energy", "power", "temperature", "disk"))
"""A measure with one of these words in its name is of the device, not of the model."""


class Store:
    """Results in a database. Any number of processes may write into the same at once.

    Attributes:
        shown: the database's URL, without the password.
    """

    def __init__(self, engine: Engine, shown: str) -> None:
        self.shown = shown
        self._engine = engine
        self._running: set[str] = set()
        self._over = threading.Event()
        self._heart: threading.Thread | None = None

    @classmethod
    def open(cls, url: str) -> Self:
        """Open a database; its tables are made or brought up to date, and runs that nobody runs any more are marked.

        Args:
            url: ``sqlite:///bench.db``, ``sqlite:////absolute/bench.db`` or ``postgresql://user:password@host/name``.

        Raises:
            InputError: it is no such URL.
            StoreError: the database cannot be used, or is of a newer schema.
        """
        read = read_url(url)
        store = cls(engine_of(read), hidden(read.set(drivername=read.get_backend_name()).render_as_string()))
        schema.upgrade(store._engine, store.shown)
        store.mark_broken()
        return store

    def close(self) -> None:
        """End the signs of life. Runs that were begun and not finished are broken once this process ends."""
        self._over.set()
        if self._heart is not None:
            self._heart.join()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, result: Result) -> None:
        """Write down that something is being measured.

        Raises:
            StoreError: the database refuses; or there is such a run already.
        """
        with self._writing(f"begin {result.name}") as connection:
            _insert_run(connection, result, "running")
        self._running.add(result.id)
        if self._heart is None:
            self._heart = threading.Thread(target=self._beat, name="omniform-bench-heart", daemon=True)
            self._heart.start()

    def finish(self, result: Result) -> None:
        """Write down what came of it: all, or, where this fails or the process is killed, nothing.

        Raises:
            InputError: the result is still ``running``.
            StoreError: the database refuses. The result is whole, and may be kept in another way.
        """
        if result.status == "running":
            raise InputError("is not finished", where=f"{result.name}, {result.contender}")
        with self._writing(f"keep {result.name}") as connection:
            _finish_run(connection, result)
        self._running.discard(result.id)

    def mark_broken(self) -> int:
        """Mark runs whose process is gone, or was not heard of; how many they were.

        A process of this host is looked for by its number and the time it was started. Of one elsewhere, only the
        signs of life tell.
        """
        from sqlalchemy import select, update

        from omniform.bench.store.tables import Run

        here, found = owner(), 0
        with self._reading("look for broken runs") as connection:
            now = _now(connection)
            columns = (Run.id, Run.space, Run.pid, Run.born, Run.host, Run.heartbeat)
            running = connection.execute(select(*columns).where(Run.status == "running")).all()
        for run, space, pid, since, host, heartbeat in running:
            if space == here.space:
                if not gone(pid, since):
                    continue
                why = f"its process ({pid} on {host}) ended before it was done"
            elif now - heartbeat > SILENT:
                why = f"nothing was heard of its process ({pid} on {host}) for {now - heartbeat:.0f} s"
            else:
                continue
            with self._writing("mark a broken run") as connection:
                still = (Run.id == run, Run.status == "running", Run.heartbeat == heartbeat)
                statement = update(Run).where(*still).values(status="broken", error=why)
                found += connection.execute(statement).rowcount
        return found

    def results(
        self,
        *,
        ids: Sequence[str] | None = None,
        name: str | None = None,
        scenario: str | None = None,
        contender: str | None = None,
        commit: str | None = None,
        machine: str | None = None,
        since: float | str | datetime | None = None,
        status: Status | None = None,
    ) -> list[Result]:
        """Results with all that was measured, the oldest first; those that fit all that is given.

        Args:
            ids: of results; the beginning of one is enough.
            name: of the config.
            scenario: what was done.
            contender: who did it.
            commit: of the code; its beginning is enough.
            machine: the beginning of its digest, or its host's name.
            since: the earliest start: seconds since 1970, or a date such as ``2026-11-27`` (of this machine's zone).
            status: how they stand.
        """
        wanted = _wanted(ids, name, scenario, contender, commit, since, status)
        with self._reading("read results") as connection:
            found = _read_runs(connection, wanted, machine)
            _read_measures(connection, wanted, found)
        return list(found.values())

    def runs(self, *, status: Status | None = None) -> list[Result]:
        """All results without what was measured, the oldest first."""
        with self._reading("read runs") as connection:
            return list(_read_runs(connection, _wanted(status=status), None).values())

    def _beat(self) -> None:
        from sqlalchemy import update

        from omniform.bench.store.tables import Run

        while not self._over.wait(BEAT):
            keys = list(self._running)
            if not keys:
                continue
            try:
                with self._writing("give a sign of life") as connection:
                    run = update(Run).where(Run.key.in_(keys), Run.status == "running")
                    connection.execute(run.values(heartbeat=_now(connection)))
            except StoreError as error:
                log.warning("%s", error)

    @contextmanager
    def _writing(self, doing: str) -> Iterator[Connection]:
        with told(self.shown, doing), self._engine.connect() as opened:
            connection = opened.execution_options(**{WRITING: True})
            with connection.begin():
                yield connection

    @contextmanager
    def _reading(self, doing: str) -> Iterator[Connection]:
        # All that is read is as of one moment.
        with told(self.shown, doing), self._engine.connect() as opened:
            server = self._engine.dialect.name == "postgresql"
            connection = opened.execution_options(isolation_level="REPEATABLE READ") if server else opened
            with connection.begin():
                yield connection


def _now(connection: Connection) -> float:
    """The database's clock, since those of hosts differ; seconds since 1970."""
    if connection.dialect.name == "postgresql":
        return float(connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())").scalar_one())
    return time.time()


def _insert_run(connection: Connection, result: Result, status: Status) -> int:
    from sqlalchemy import insert
    from sqlalchemy.exc import IntegrityError

    from omniform.bench.store.tables import Run

    values = {"key": result.id, "heartbeat": _now(connection), **asdict(owner()), **_values(connection, result)}
    values["status"] = status
    try:
        return int(connection.execute(insert(Run).values(values).returning(Run.id)).scalar_one())
    except IntegrityError:
        raise StoreError("there is such a run already", where=f"{result.name}, {result.id}") from None


def _values(connection: Connection, result: Result) -> dict[str, object]:
    from omniform.bench.store.tables import Config, Machine, Versions

    return {
        "name": _clean(result.name),
        "scenario": _clean(result.scenario),
        "contender": _clean(result.contender),
        "commit": None if result.commit is None else _clean(result.commit),
        "status": result.status,
        "error": None if result.error is None else _clean(result.error),
        "started": float(result.started),
        "seconds": float(result.seconds),
        "noise": json.dumps(result.noise),
        "machine_id": _fact(connection, Machine, result.machine),
        "versions_id": _fact(connection, Versions, result.versions),
        "config_id": _fact(connection, Config, result.config),
    }


def _clean(text: str) -> str:
    # What no database's text can hold is written out.
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def digest(facts: Mapping[str, object]) -> str:
    """Of facts, whatever order they come in."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _fact(connection: Connection, table: type[tables.Fact], facts: Mapping[str, object]) -> int:
    """The row that holds such facts; made where there is none, be it that another process makes it meanwhile."""
    from sqlalchemy import select
    from sqlalchemy.dialects import postgresql, sqlite

    known = select(table.id).where(table.digest == digest(facts))
    found = connection.execute(known).scalar_one_or_none()
    if found is None:
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        row = {"digest": digest(facts), "text": json.dumps(facts, default=str)}
        connection.execute(insert(table).values(row).on_conflict_do_nothing(index_elements=["digest"]))
        found = connection.execute(known).scalar_one()
    return int(found)


def _finish_run(connection: Connection, result: Result) -> None:
    from sqlalchemy import delete, update

    from omniform.bench.store.tables import DeviceMeasurement, ModelMeasurement, Run

    values = {**_values(connection, result), "heartbeat": _now(connection)}
    statement = update(Run).where(Run.key == result.id).values(values).returning(Run.id)
    run = connection.execute(statement).scalar_one_or_none()
    if run is None:
        run = _insert_run(connection, result, result.status)
    for table in (ModelMeasurement, DeviceMeasurement):
        connection.execute(delete(table).where(table.run_id == run))
    for place, measure in enumerate(result.measures.values()):
        _insert_measure(connection, int(run), place, measure)


def is_device(measure: str) -> bool:
    """Whether a measure is of the device."""
    return not DEVICE.isdisjoint(measure.split("."))


def _insert_measure(connection: Connection, run: int, place: int, measure: Measure) -> None:
    from sqlalchemy import insert

    from omniform.bench.store.tables import DeviceMeasurement, DeviceSample, ModelMeasurement, ModelSample

    table, samples = (DeviceMeasurement, DeviceSample) if is_device(measure.name) else (ModelMeasurement, ModelSample)
    statement = insert(table).values(
        run_id=run, place=place, name=_clean(measure.name), unit=_clean(measure.unit), better=measure.better,
        turns=len(measure.rounds), median=_median(measure.samples),
    )  # fmt: skip
    measurement = connection.execute(statement.returning(table.id)).scalar_one()
    rows = [
        {"measurement_id": measurement, "turn": turn, "place": at, "value": _or_null(value)}
        for turn, values in enumerate(measure.rounds)
        for at, value in enumerate(values)
    ]
    if rows:
        connection.execute(insert(samples), rows)


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _median(samples: Sequence[float]) -> float | None:
    told = [float(one) for one in samples if not math.isnan(one)]
    return statistics.median(told) if told else None


def _wanted(
    ids: Sequence[str] | None = None,
    name: str | None = None,
    scenario: str | None = None,
    contender: str | None = None,
    commit: str | None = None,
    since: float | str | datetime | None = None,
    status: Status | None = None,
) -> list[ColumnElement[bool]]:
    from sqlalchemy import or_

    from omniform.bench.store.tables import Run

    equal = ((Run.name, name), (Run.scenario, scenario), (Run.contender, contender), (Run.status, status))
    found: list[ColumnElement[bool]] = [column == value for column, value in equal if value is not None]
    if ids is not None:
        found.append(or_(False, *(Run.key.startswith(one, autoescape=True) for one in ids)))
    if commit is not None:
        found.append(Run.commit.startswith(commit, autoescape=True))
    if since is not None:
        found.append(Run.started >= _seconds(since))
    return found


def _seconds(since: float | str | datetime) -> float:
    if isinstance(since, str):
        try:
            since = datetime.fromisoformat(since)
        except ValueError:
            raise InputError("is no date", where="since", found=since, expected="such as 2026-11-27") from None
    return since.timestamp() if isinstance(since, datetime) else float(since)


_Found = dict[int, Result]
"""By the number of their row."""


def _read_runs(connection: Connection, wanted: Iterable[ColumnElement[bool]], machine: str | None) -> _Found:
    from sqlalchemy import select

    from omniform.bench.store.tables import Config, Machine, Run, Versions

    columns = (
        Run.id.label("row"), Run.key, Run.name, Run.scenario, Run.contender, Run.commit, Run.status, Run.error,
        Run.started, Run.seconds, Run.noise, Machine.digest, Machine.text.label("machine"),
        Versions.text.label("versions"), Config.text.label("config"),
    )  # fmt: skip
    joined = (
        select(*columns)
        .join(Machine, Machine.id == Run.machine_id)
        .join(Versions, Versions.id == Run.versions_id)
        .join(Config, Config.id == Run.config_id)
        .where(*wanted)
        .order_by(Run.started, Run.id)
    )
    found: _Found = {}
    for row in connection.execute(joined):
        facts = json.loads(row.machine)
        if machine is not None and not row.digest.startswith(machine) and facts.get("host") != machine:
            continue
        found[row.row] = Result(
            id=row.key, name=row.name, scenario=row.scenario, contender=row.contender, commit=row.commit,
            status=cast("Status", row.status), error=row.error, started=row.started, seconds=row.seconds,
            noise=json.loads(row.noise), machine=facts, versions=json.loads(row.versions),
            config=json.loads(row.config),
        )  # fmt: skip
    return found


def _read_measures(connection: Connection, wanted: Sequence[ColumnElement[bool]], found: _Found) -> None:
    from sqlalchemy import select

    from omniform.bench.store.tables import DeviceMeasurement, DeviceSample, ModelMeasurement, ModelSample, Run

    measures: dict[int, list[tuple[int, Measure]]] = {}
    for table, samples in ((ModelMeasurement, ModelSample), (DeviceMeasurement, DeviceSample)):
        runs = select(Run.id).where(*wanted)
        of = select(table).where(table.run_id.in_(runs))
        rounds: dict[int, list[list[float]]] = {}
        rows = connection.execute(of.with_only_columns(*table.__table__.columns)).all()
        for row in rows:
            rounds[row.id] = [[] for _ in range(row.turns)]
        ordered = select(samples.measurement_id, samples.turn, samples.value).order_by(
            samples.measurement_id, samples.turn, samples.place
        )
        for measurement, turn, value in connection.execute(
            ordered.where(samples.measurement_id.in_(select(table.id).where(table.run_id.in_(runs))))
        ):
            rounds[measurement][turn].append(math.nan if value is None else value)
        for row in rows:
            turns = tuple(map(tuple, rounds[row.id]))
            measure = Measure(row.name, row.unit, turns, cast("Better", row.better))
            measures.setdefault(row.run_id, []).append((row.place, measure))
    for run, kept in measures.items():
        if run in found:
            own = [one for _, one in sorted(kept, key=lambda pair: pair[0])]
            config = found[run].config
            found[run].measures = {one.name: replace(one, passes=passes_of(config, len(one.rounds))) for one in own}
