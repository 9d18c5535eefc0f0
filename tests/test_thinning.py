"""What a run of the whole suite leaves out: enough, never all of a check or of a family, and nothing that is named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import thinning
from thinning import Case, left_out

FAMILIES = [f"family{i}" for i in range(20)]
CHECKS = [f"test_{i}" for i in range(7)]


def table(file: str = "some/test_file.py") -> list[Case]:
    return [Case(file, check, name) for check in CHECKS for name in FAMILIES]


def tried(cases: list[Case], one_in: dict[str, int]) -> list[Case]:
    out = left_out(cases, one_in)
    return [case for place, case in enumerate(cases) if place not in out]


@pytest.mark.parametrize("n", (2, 3, 5))
def test_every_check_keeps_families_and_every_family_checks(n: int) -> None:
    kept = tried(table(), {"some": n})
    checks, families = Counter(case.check for case in kept), Counter(case.id for case in kept)
    assert all(len(FAMILIES) // n <= checks[check] <= len(FAMILIES) // n + 1 for check in CHECKS)
    assert all(len(CHECKS) // n <= families[name] <= len(CHECKS) // n + 1 for name in FAMILIES)


def test_the_closest_name_decides() -> None:
    kept = tried(table(), {".": 9, "some": 5, "some/test_file.py": 4, "some/test_file.py::test_2": 1})
    assert Counter(case.check for case in kept) == {check: 20 if check == "test_2" else 5 for check in CHECKS}
    assert tried(table("other/test_file.py"), {"some": 4}) == table("other/test_file.py")
    classed = [Case("some/test_it.py", f"TestIt::{check}", name) for check in CHECKS for name in FAMILIES]
    kept = tried(classed, {"some::test_3": 4, "some": 1})
    assert Counter(case.check for case in kept) == {f"TestIt::{c}": 5 if c == "test_3" else 20 for c in CHECKS}


def test_principal_families_keep_all() -> None:
    cases = [Case("some/test_it.py", check, f"{name}, masked") for check in CHECKS for name in ("llama", "llama4")]
    assert {case.check for case in tried(cases, {"some": 7}) if case.id == "llama, masked"} == {*CHECKS}
    assert {case.check for case in tried(cases, {"some": 7}) if case.id == "llama4, masked"} < {*CHECKS}
    assert tried(table("some/test_bert.py"), {"some": 7}) == table("some/test_bert.py")


def test_no_check_is_left_out_whole() -> None:
    cases = [Case("some/test_it.py", check, name) for check in CHECKS for name in ("a", "b")]
    assert {case.check for case in tried(cases, {"some": 100})} == {*CHECKS}
    assert tried([Case("some/test_it.py", "test_one", None)], {"some": 100})


def test_what_the_table_names_is_there() -> None:
    tests = Path(__file__).parent
    for name, n in thinning.ONE_IN.items():
        path, _, check = name.partition("::")
        assert n >= 1 and (tests / path).exists(), name
        files = [tests / path] if path.endswith(".py") else (tests / path).rglob("*.py")
        assert not check or any(f"def {check}(" in file.read_text() for file in files), name


def test_a_path_that_is_named_runs_all(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = wide\n")
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "conftest.py").write_text("import thinning\nthinning.ONE_IN['wide'] = 5\n")
    (tmp_path / "wide" / "test_wide.py").write_text(
        "import pytest\n@pytest.mark.parametrize('i', range(100))\ndef test_it(i): pass\n"
    )
    told = said(folder=tmp_path)
    assert "20 passed" in told and "80 of 100 cases were left out" in told, told
    told = said("wide", folder=tmp_path)
    assert "100 passed" in told and "left out" not in told, told


def said(*options: str, folder: Path) -> str:
    """What a run of pytest says that has the hooks."""
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "thinning", "-n", "1", *options]
    return subprocess.run(command, cwd=folder, env=path, capture_output=True, text=True).stdout
