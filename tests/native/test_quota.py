"""How many threads there are for a process: what its affinity and its control groups leave it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from omniform.native.cpu import _quota


def tree(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A made-up machine: what a process is told of its groups, and files below ``/sys/fs/cgroup``."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = "12:cpuset:/other\n4:cpu,cpuacct:/a/b\n1:name=systemd:/a/b\n"
CASES: dict[str, tuple[str, dict[str, str], int | None]] = {
    "none": ("0::/\n", {}, None),
    "root": ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
    "unbounded": ("0::/a\n", {"a/cpu.max": "max 100000\n"}, None),
    "own": ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "max 100000\n"}, 3),
    "above": ("0::/a/b\n", {"a/b/cpu.max": "800000 100000\n", "a/cpu.max": "200000 100000\n"}, 2),
    "another's": ("0::/a\n", {"b/cpu.max": "100000 100000\n", "a/cpu.max": "400000 100000\n"}, 4),
    "less than one": ("0::/a\n", {"a/cpu.max": "1000 100000\n"}, 1),
    "the host's name in a container": ("0::/system/far\n", {"cpu.max": "200000 100000\n"}, 2),
    "above the namespace": ("0::/../../x\n", {"x/cpu.max": "200000 100000\n"}, 2),
    "damaged": ("0::/a\n", {"a/cpu.max": "many of them\n", "cpu.max": ""}, None),
    "no time": ("0::/a\n", {"a/cpu.max": "100000 0\n"}, None),
    "first version": (V1, {"cpu/a/b/cpu.cfs_quota_us": "500000\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"}, 5),
    "first version, above": (
        V1,
        {
            "cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n",
            "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
            "cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n",
            "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
    "first version, another controller's": (
        V1,
        {"cpu/other/cpu.cfs_quota_us": "1", "cpu/other/cpu.cfs_period_us": "1"},
        None,
    ),
    "both versions": ("0::/u\n" + V1, {"unified/u/cpu.max": "700000 100000\n"}, 7),
    "lines of no sense": ("\nnothing\n:\n0::/a\n", {"a/cpu.max": "200000 100000\n"}, 2),
}


@pytest.mark.parametrize("name", CASES)
def test_what_groups_leave(tmp_path: Path, name: str) -> None:
    groups, files, expected = CASES[name]
    assert _quota(tree(tmp_path, groups, files)) == expected


def test_a_machine_that_says_nothing_of_groups(tmp_path: Path) -> None:
    assert _quota(tmp_path) is None
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("200000 100000")
    assert _quota(tmp_path) == 2


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes have no affinity here")
def test_affinity_bounds_threads() -> None:
    """In a process of its own: bound to one processor, however many threads torch would take."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from omniform.native.cpu import available_threads; print(available_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]
