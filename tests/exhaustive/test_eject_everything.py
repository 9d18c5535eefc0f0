"""``omniform eject`` on every head and every variant of every family: an hour of a core, for `make exhaustive`."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.ejected import heads, job_of, run_alone, tables

TABLES = tables()


@pytest.mark.parametrize("family", sorted(TABLES))
def test_everything(family: str, tmp_path: Path) -> None:
    """Every architecture, and every variant of the config where variants are tried."""
    cases = list(heads(TABLES[family]))
    table = TABLES[family]
    cases += [
        table.case(name, variant)
        for name, head in table.heads.items()
        for variant in table.variants
        if head.everywhere and variant != "plain" and variant not in head.but
    ]
    jobs = [job_of(case, tmp_path / f"m{number}") for number, case in enumerate(cases)]
    assert run_alone(jobs, tmp_path) == ""
