"""Kernels of commits: compiled by what any commit's own script understands, once for all that share them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from omniform.bench.building import BuildError, Building, clean
from omniform.bench.commits import Commits
from omniform.bench.contender import ContenderError
from omniform.bench.kernels import kernels, lay
from omniform.bench.made import made
from omniform.core.errors import ConfigError

SCRIPT = """
import pathlib, sys
lib = pathlib.Path(__file__).parents[1] / "src" / "omniform" / "native" / "lib"
lib.mkdir(parents=True, exist_ok=True)
with open(pathlib.Path(__file__).parents[1] / "calls", "a") as calls: calls.write(" ".join(sys.argv[1:]) + ";")
for name in ("cpu", *(name for name in sys.argv[1:] if name == "v3")): (lib / f"omniform_{name}.so").write_text(name)
sys.exit("v9" in sys.argv)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "source" / "src" / "omniform" / "native").mkdir(parents=True)
    (tmp_path / "source" / "native").mkdir()
    (tmp_path / "source" / "native" / "build.py").write_text(SCRIPT)
    return tmp_path / "source"


def test_a_variant_is_compiled_once_for_all_who_share_its_sources(checkout: Path, tmp_path: Path):
    kept, said = tmp_path / "kept", []
    one = kernels(checkout, "tree", ("v3",), kept, Building(), said.append)
    again = kernels(checkout, "tree", ("v3",), kept, Building(), said.append)
    other = kernels(checkout, "other tree", ("v3",), kept, Building(), said.append)
    assert one is not None and one == again and other is not None and other != one
    assert (checkout / "calls").read_text() == "v3;v3;" and len(said) == 2
    lay(one, tmp_path / "packages")
    laid = tmp_path / "packages" / "omniform" / "native" / "lib"
    assert {file.name for file in laid.iterdir()} == {"omniform_cpu.so", "omniform_v3.so"}


def test_what_a_commit_cannot_compile_alone_is_left_to_its_hook(checkout: Path, tmp_path: Path):
    for variants in (("v3", "unknown"), ("v9",), ()):
        assert kernels(checkout, "tree", variants, tmp_path / "kept", Building(), str) is None
    (checkout / "native" / "build.py").unlink()
    assert kernels(checkout, "tree", ("v3",), tmp_path / "kept", Building(), str) is None
    assert not list((tmp_path / "kept").glob("*"))


def test_a_command_is_given_up_with_all_that_it_started(tmp_path: Path):
    mark = tmp_path / "mark"
    with pytest.raises(BuildError, match="more than 1 s"):
        Building(patience=1.0).run(["sh", "-c", f"(sleep 3; touch {mark}) & wait"])
    with pytest.raises(BuildError, match=r"two \| three"):
        Building().run(["sh", "-c", "echo one; echo two >&2; echo three >&2; exit 4"])
    subprocess.run(["sleep", "3.5"], check=True)
    assert not mark.exists()


def git(folder: Path, *words: str) -> str:
    own = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(folder), *words]
    return subprocess.run(own, check=True, capture_output=True, text=True, env=clean()).stdout.strip()


def test_the_working_tree_is_a_commit_of_its_own(tmp_path: Path):
    repo = tmp_path / "repo"
    (repo / "folder").mkdir(parents=True)
    git(repo, "init", "-q", "-b", "main")
    (repo / "kept").write_text("1")
    (repo / ".gitignore").write_text("ignored\n")
    with pytest.raises(ContenderError, match="there is no commit 'HEAD'"):
        Commits(repo, tmp_path / "cache").resolve(".")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "first")
    commits = Commits(repo / "folder", tmp_path / "cache")
    assert commits.resolve(".") == git(repo, "rev-parse", "HEAD")
    (repo / "kept").write_text("2")
    (repo / "new").write_text("3")
    (repo / "ignored").write_text("4")
    before = git(repo, "status", "--porcelain")
    made = commits.resolve(".")
    assert made == commits.resolve(".") != git(repo, "rev-parse", "HEAD")
    assert git(repo, "show", f"{made}:kept") == "2" and git(repo, "show", f"{made}:new") == "3"
    assert git(repo, "ls-tree", "--name-only", made).split() == [".gitignore", "kept", "new"]
    assert git(repo, "status", "--porcelain") == before and len(git(repo, "log", "--oneline").splitlines()) == 1


def test_a_cache_that_is_full_or_closed_is_told(tmp_path: Path):
    closed = tmp_path / "file"
    closed.write_text("")
    with pytest.raises(ConfigError, match=r"cannot be kept.*OMNIFORM_BENCH_CACHE"):
        made("llama-tiny", closed)
    program = (
        "import resource, sys, pathlib; from omniform.bench.made import made\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))\n"
        "made('llama-tiny', pathlib.Path(sys.argv[1]))\n"
    )
    full = tmp_path / "full"
    done = subprocess.run([sys.executable, "-c", program, str(full)], capture_output=True, text=True)
    assert "ConfigError" in done.stderr and "cannot be kept" in done.stderr, done.stderr
    assert not list((full / "models").iterdir())
    repo = tmp_path / "repo"
    repo.mkdir()
    git(repo, "init", "-q")
    git(repo, "commit", "-q", "--allow-empty", "-m", "x")
    with pytest.raises(ContenderError, match=r"HEAD cannot be built in .*: Not a directory"):
        Commits(repo, closed).environment("HEAD")
