"""Runs are found by what they are; medians stand beside their samples, for those who ask in SQL."""

import statistics

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INDEXES = (("name", "scenario", "contender"), ("commit",), ("status",))


def upgrade() -> None:
    for columns in INDEXES:
        op.create_index(f"ix_runs_{'_'.join(columns)}", "runs", list(columns))
    for kind in ("model", "device"):
        op.add_column(f"{kind}_measurements", sa.Column("median", sa.Double))
        _medians(kind)


def _medians(kind: str) -> None:
    # Neither database has a median of its own that the other has too.
    bound = op.get_bind()
    rows = bound.execute(
        sa.text(f"SELECT measurement_id, value FROM {kind}_samples WHERE value IS NOT NULL ORDER BY measurement_id")
    )
    found: dict[int, list[float]] = {}
    for measurement, value in rows:
        found.setdefault(measurement, []).append(value)
    for measurement, values in found.items():
        bound.execute(
            sa.text(f"UPDATE {kind}_measurements SET median = :median WHERE id = :id"),
            {"median": statistics.median(values), "id": measurement},
        )


def downgrade() -> None:
    for kind in ("model", "device"):
        op.drop_column(f"{kind}_measurements", "median")
    for columns in INDEXES:
        op.drop_index(f"ix_runs_{'_'.join(columns)}", "runs")
