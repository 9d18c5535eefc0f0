"""Runs, what they share, and what was measured."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    for shared in ("machines", "versions", "configs"):
        op.create_table(
            shared,
            sa.Column("id", WHOLE, primary_key=True),
            sa.Column("digest", sa.String(64), nullable=False),
            sa.Column("text", sa.Text, nullable=False),
            sa.UniqueConstraint("digest", name=f"uq_{shared}_digest"),
        )
    op.create_table(
        "runs",
        sa.Column("id", WHOLE, primary_key=True),
        sa.Column("key", sa.String(64), nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("name", "scenario", "contender")),
        sa.Column("commit", sa.Text),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("started", sa.Double, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("noise", sa.Text, nullable=False),
        sa.Column("machine_id", WHOLE, sa.ForeignKey("machines.id", name="fk_runs_machine_id"), nullable=False),
        sa.Column("versions_id", WHOLE, sa.ForeignKey("versions.id", name="fk_runs_versions_id"), nullable=False),
        sa.Column("config_id", WHOLE, sa.ForeignKey("configs.id", name="fk_runs_config_id"), nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("space", sa.String(64), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("born", sa.Text, nullable=False),
        sa.Column("heartbeat", sa.Double, nullable=False),
        sa.UniqueConstraint("key", name="uq_runs_key"),
    )
    for kind in ("model", "device"):
        _measurements(kind)


def _measurements(kind: str) -> None:
    measurements = f"{kind}_measurements"
    op.create_table(
        measurements,
        sa.Column("id", WHOLE, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("unit", sa.Text, nullable=False),
        sa.Column("better", sa.String(16), nullable=False),
        sa.Column("turns", sa.Integer, nullable=False),
        sa.Column(
            "run_id",
            WHOLE,
            sa.ForeignKey("runs.id", name=f"fk_{measurements}_run_id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.UniqueConstraint("run_id", "name", name=f"uq_{measurements}_run_id_name"),
    )
    of = sa.ForeignKey(f"{measurements}.id", name=f"fk_{kind}_samples_measurement_id", ondelete="CASCADE")
    op.create_table(
        f"{kind}_samples",
        sa.Column("measurement_id", WHOLE, of, primary_key=True),
        sa.Column("turn", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("value", sa.Double),
    )


def downgrade() -> None:
    for table in (
        "device_samples", "model_samples", "device_measurements", "model_measurements",
        "runs", "configs", "versions", "machines",
    ):  # fmt: skip
        op.drop_table(table)
