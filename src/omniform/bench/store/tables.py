"""The tables in which measurements are kept.

Texts of JSON are ASCII with escapes, since no database takes every character; digests are of the same with sorted keys.
Numbers are doubles and come back bit for bit; NaN is stored as NULL, which both databases have.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Double, ForeignKey, Index, Integer, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
"""Constraints are named, so that a migration can find them again."""

WHOLE = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers its rows by a column that is called INTEGER."""


class Base(DeclarativeBase):
    """All tables."""

    metadata = MetaData(naming_convention=NAMES)


class Fact:
    """What many runs share, once.

    Attributes:
        digest: SHA-256 of ``text`` with sorted keys.
        text: JSON.
    """

    id: Mapped[int] = mapped_column(WHOLE, primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    text: Mapped[str] = mapped_column(Text)


class Machine(Fact, Base):
    """A machine: its processor, cores, memory, GPU, system and name."""

    __tablename__ = "machines"


class Versions(Fact, Base):
    """What took part, each with its version."""

    __tablename__ = "versions"


class Config(Fact, Base):
    """A config as it was composed, whole."""

    __tablename__ = "configs"


class Run(Base):
    """One contender of one config: a :class:`~omniform.bench.results.Result` but for its measures.

    Attributes:
        key: the result's ``id``.
        noise: JSON: a list of sentences.
        host: of who runs it.
        space: in which its process numbers mean something: the host, and the container on it.
        pid, born: its process; ``born`` tells a process from a later one of the same number.
        heartbeat: when it was last heard of, by the database's clock; seconds since 1970.
    """

    __tablename__ = "runs"

    id: Mapped[int] = mapped_column(WHOLE, primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(Text)
    scenario: Mapped[str] = mapped_column(Text)
    contender: Mapped[str] = mapped_column(Text)
    commit: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(16))
    error: Mapped[str | None] = mapped_column(Text)
    started: Mapped[float] = mapped_column(Double)
    seconds: Mapped[float] = mapped_column(Double)
    noise: Mapped[str] = mapped_column(Text)
    machine_id: Mapped[int] = mapped_column(ForeignKey("machines.id"))
    versions_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    config_id: Mapped[int] = mapped_column(ForeignKey("configs.id"))
    host: Mapped[str] = mapped_column(Text)
    space: Mapped[str] = mapped_column(String(64))
    pid: Mapped[int] = mapped_column(Integer)
    born: Mapped[str] = mapped_column(Text)
    heartbeat: Mapped[float] = mapped_column(Double)

    __table_args__ = (Index(None, "name", "scenario", "contender"), Index(None, "commit"), Index(None, "status"))


class Measurement:
    """One thing that was measured in a run: a :class:`~omniform.bench.results.Measure` but for its samples.

    Attributes:
        place: among the measures of its run.
        turns: how many there were; one may have left no sample.
        median: of all samples, for those who ask in SQL; NULL where there are none.
    """

    id: Mapped[int] = mapped_column(WHOLE, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    place: Mapped[int] = mapped_column(Integer)
    unit: Mapped[str] = mapped_column(Text)
    better: Mapped[str] = mapped_column(String(16))
    turns: Mapped[int] = mapped_column(Integer)
    median: Mapped[float | None] = mapped_column(Double)

    @declared_attr
    def run_id(cls) -> Mapped[int]:  # noqa: N805  # SQLAlchemy calls it with the class
        return mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))

    @declared_attr.directive
    def __table_args__(cls) -> tuple[UniqueConstraint]:  # noqa: N805
        return (UniqueConstraint("run_id", "name"),)


class ModelMeasurement(Measurement, Base):
    """What a model did: latencies, throughputs, FLOP, bytes."""

    __tablename__ = "model_measurements"


class DeviceMeasurement(Measurement, Base):
    """What a machine did meanwhile: memory, use of processors and GPUs, energy."""

    __tablename__ = "device_measurements"


class Sample:
    """One number.

    Attributes:
        turn: of the contender, from 0.
        place: within its turn.
        value: NULL for NaN.
    """

    turn: Mapped[int] = mapped_column(Integer, primary_key=True)
    place: Mapped[int] = mapped_column(Integer, primary_key=True)
    value: Mapped[float | None] = mapped_column(Double)


class ModelSample(Sample, Base):
    """A sample of a model's measurement."""

    __tablename__ = "model_samples"

    measurement_id: Mapped[int] = mapped_column(
        ForeignKey("model_measurements.id", ondelete="CASCADE"), primary_key=True
    )


class DeviceSample(Sample, Base):
    """A sample of a device's measurement."""

    __tablename__ = "device_samples"

    measurement_id: Mapped[int] = mapped_column(
        ForeignKey("device_measurements.id", ondelete="CASCADE"), primary_key=True
    )
