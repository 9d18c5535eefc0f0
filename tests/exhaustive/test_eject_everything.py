"""``omniform eject`` on every head and every variant of every family: an hour of a core, for `make exhaustive`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from export.ejected import heads, job_of, main_head, run_alone, tables
from omniform import eject

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


@pytest.mark.parametrize("family", sorted(TABLES))
def test_default_sizes(family: str, tmp_path: Path) -> None:
    """What a family's name alone gives: another backbone than the tables' tiny one, perhaps; in good form."""
    file = eject(family, tmp_path / "one.py", architecture=main_head(TABLES[family]).architecture.reference)
    settings = str(Path(__file__).parents[2] / "pyproject.toml")
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        whole = [sys.executable, "-m", "ruff", *command, "--config", settings, str(file)]
        done = subprocess.run(whole, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
