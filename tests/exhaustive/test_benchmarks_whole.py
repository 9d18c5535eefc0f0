"""Every workload of the benchmarks once, with tiny sizes: a minute, for `make exhaustive`."""

from __future__ import annotations

from pathlib import Path

from test_benchmarks import check_a_whole_run


def test_a_run_measures_everything(tmp_path: Path) -> None:
    check_a_whole_run(tmp_path)
